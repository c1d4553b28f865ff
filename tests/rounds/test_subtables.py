"""Which rows a job has, and what of the model goes into its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from devicelab.errors import DataError
from devicelab.rounds.jobs import Asking, Parameters
from devicelab.rounds.setup import Setup
from devicelab.rounds.subtables import Subtables, rows_of
from devicelab.runner.cache import Blob
from devicelab.runner.layout import cached
from tests.rounds.catalogue import ITEMS, KINDS, MODEL, PRIVATE, plans, setup, signature

ANN = [0, 3, 7, 39]
ANN_AND_BOB = [0, 3, 7, 12, 39]


def asking(made: Setup) -> Asking:
    return Asking("run-1", made, Subtables(made))


def parameters_of(blobs: tuple[Blob, ...], path: str) -> dict[str, np.ndarray]:
    (blob,) = [each for each in blobs if cached(each.sha256) == path]
    assert isinstance(blob.source, bytes)
    return load(blob.source)


def test_the_rows_are_those_that_the_clients_name_each_once(tmp_path: Path) -> None:
    known = Subtables(setup(tmp_path))
    found = known.of_training(["bob", "ann"])
    assert {name: rows.tolist() for name, rows in found.items()} == {"item": ANN_AND_BOB, "kind": [0, 5]}
    assert all(rows.dtype == np.int64 for rows in found.values())
    assert {name: rows.tolist() for name, rows in known.of_evaluation(["ann"]).items()} == {
        "item": [3, 7, 30],
        "kind": [4],
    }


def test_a_shard_is_read_once(tmp_path: Path) -> None:
    made = setup(tmp_path)
    known = Subtables(made)
    known.of_training(["ann"])
    made.shards.clients["ann"]["train"].path.unlink()
    assert known.of_training(["ann"])["item"].tolist() == ANN
    with pytest.raises(DataError, match="missing or damaged"):
        Subtables(made).of_training(["ann"])


def test_nobody_asks_for_whole_tables_by_accident(tmp_path: Path) -> None:
    whole = setup(tmp_path, round={"subtables": False})
    assert not Subtables(whole).of_training(["ann"])
    assert not Subtables(whole).of_evaluation(["ann"])
    task = asking(whole).train("j", round_number=1, clients=["ann"], parameters=Parameters(MODEL, PRIVATE))
    assert task.rows == {}
    assert task.job.parameters is not None
    assert parameters_of(task.blobs, task.job.parameters).keys() == {*MODEL, *PRIVATE}


def test_a_job_is_sent_its_rows_and_told_which_they_are(tmp_path: Path) -> None:
    task = asking(setup(tmp_path)).train(
        "j", round_number=1, clients=["ann", "bob"], parameters=Parameters(MODEL, PRIVATE)
    )
    assert task.job.parameters is not None
    sent = parameters_of(task.blobs, task.job.parameters)
    assert sent.keys() == {*MODEL, *PRIVATE, "rows/item", "rows/kind"}
    assert sent["rows/item"].tolist() == task.rows["item"].tolist() == ANN_AND_BOB
    assert sent["rows/item"].dtype == np.int64
    np.testing.assert_array_equal(sent["param/item"], MODEL["param/item"][ANN_AND_BOB])
    np.testing.assert_array_equal(sent["param/bias"], MODEL["param/bias"][ANN_AND_BOB])
    np.testing.assert_array_equal(sent["param/kind"], MODEL["param/kind"][[0, 5]])
    np.testing.assert_array_equal(sent["param/w"], MODEL["param/w"])
    np.testing.assert_array_equal(sent["param/mine"], PRIVATE["param/mine"])


def test_who_asks_again_gets_the_same_bytes(tmp_path: Path) -> None:
    made = setup(tmp_path)
    jobs = [
        asking(made).train("j", round_number=2, clients=["ann", "bob"], parameters=Parameters(MODEL, PRIVATE))
        for _ in range(2)
    ]
    assert jobs[0].job == jobs[1].job
    assert [blob.sha256 for blob in jobs[0].blobs] == [blob.sha256 for blob in jobs[1].blobs]


def test_every_device_is_sent_its_own_rows(tmp_path: Path) -> None:
    asks, start = asking(setup(tmp_path)), Parameters(MODEL, PRIVATE)
    found = [
        asks.train(client, round_number=1, clients=[client], parameters=start).rows["item"].tolist()
        for client in ("ann", "eve")
    ]
    assert found == [ANN, [20, 21, 22, 23, 24]]


def test_evaluation_has_the_rows_of_the_tables_that_its_plan_declares(tmp_path: Path) -> None:
    made = setup(tmp_path)
    kinds = signature("evaluate", tables={"param/kind": "kind", "data/kind": "kind"})
    for evaluate, rows, items in (
        (signature("evaluate"), {"item": [3, 7, 30], "kind": [4]}, 3),
        (kinds, {"kind": [4]}, ITEMS),
        (signature("evaluate", tables={}), {}, ITEMS),
    ):
        task = asking(replace(made, plans=plans(evaluate=evaluate))).evaluate(
            "j", clients=["ann"], parameters=Parameters(MODEL, PRIVATE)
        )
        assert {name: found.tolist() for name, found in task.rows.items()} == rows
        assert task.job.parameters is not None
        sent = parameters_of(task.blobs, task.job.parameters)
        assert {name for name in sent if name.startswith("rows/")} == {f"rows/{name}" for name in rows}
        assert sent["param/item"].shape == (items, 3)
        assert sent["param/kind"].shape == (1 if rows else KINDS, 2)


def test_an_update_has_the_rows_that_its_job_had() -> None:
    numbers = {"item": np.array(ANN), "kind": np.array([5])}
    found = rows_of(signature(), numbers)
    assert {name: (rows.numbers.tolist(), rows.of) for name, rows in found.items()} == {
        "param/item": (ANN, ITEMS),
        "param/bias": (ANN, ITEMS),
        "param/kind": ([5], KINDS),
    }
    assert rows_of(signature(), {}) == {}

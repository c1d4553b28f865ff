from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save

from devicelab.aggregation.update import ClientUpdate, PartialSum, Rows
from devicelab.errors import UpdateError
from devicelab.plans.signature import Input, Output, Role, Signature
from devicelab.rounds.intake import Asked, check_result, check_update, open_tensors, updates_in
from devicelab.runner.job import Client, Combine, Job
from devicelab.runner.messages import ClientResult, EvaluateResult, Metric, OutputFile, TrainResult

Arrays = dict[str, NDArray[Any]]
PHONE = "R58M42"
SIGNATURE = Signature(
    "linear",
    "train",
    (
        Input("param/w", Role.PARAMETER, "float32", (3, 2)),
        Input("param/mine", Role.PRIVATE, "float32", (2,)),
        Input("buffer/mean", Role.BUFFER, "float64", ()),
        Input("buffer/count", Role.BUFFER, "int64", ()),
        Input("state/m", Role.STATE, "float32", (3, 2)),
        Input("data/x", Role.DATA, "float32", ("batch", 3)),
    ),
    (
        Output("loss", Role.LOSS, "float32", ()),
        Output("new/w", Role.PARAMETER, "float32", (3, 2), replaces="param/w"),
        Output("metric/accuracy/sum", Role.METRIC, "float32", (), metric="accuracy", part="sum"),
        Output("metric/accuracy/count", Role.METRIC, "float32", (), metric="accuracy", part="count"),
        Output("new/mine", Role.PRIVATE, "float32", (2,), replaces="param/mine"),
    ),
)


def asked(combine: Combine = "sum", *, clip: float | None = None, weight: float | None = None) -> Asked:
    clients = (Client("ann", "a", seed=1, weight=weight), Client("bob", "b", seed=2, weight=weight))
    job = Job(
        job="run-1-r3-x",
        verb="train",
        plan="p",
        parameters="q",
        clients=clients,
        batch_size=4,
        epochs=2,
        combine=combine,
        clip_norm=clip,
    )
    return Asked(job, {"ann": 10, "bob": 3}, SIGNATURE)


def honest(update: bytes = b"") -> TrainResult:
    return TrainResult(
        job="run-1-r3-x",
        examples=13,
        weight=13.0,
        steps=8,
        peak_rss_kb=1,
        ms={},
        update=OutputFile("update.safetensors", len(update), hashlib.sha256(update).hexdigest()),
        clients=(
            ClientResult("ann", 10, 1, {}, weight=10.0, steps=6),
            ClientResult("bob", 3, 1, {}, weight=3.0, steps=2),
        ),
    )


def tensors(scale: float = 1.0) -> Arrays:
    return {"param/w": np.full((3, 2), scale, np.float32), "buffer/mean": np.array(scale, np.float64)}


def each(*deltas: Arrays) -> Arrays:
    return {f"{index}/{name}": array for index, delta in enumerate(deltas) for name, array in delta.items()}


def written(path: Path, arrays: Arrays) -> tuple[Path, TrainResult]:
    data = save(arrays)
    (path / "update").write_bytes(data)
    return path / "update", honest(data)


def test_an_honest_answer_is_taken() -> None:
    assert check_result(honest(), asked(), device=PHONE) == honest()


def test_numbers_that_a_plan_can_make_are_taken() -> None:
    result = _client(honest(), 0, metrics={"accuracy": Metric(-7.5, 0.0)}, loss_before=3e38, loss_after=0.1)
    assert check_result(result, asked(), device=PHONE) is result


def test_weights_are_those_that_were_asked_for() -> None:
    clients = tuple(replace(client, weight=1.5) for client in honest().clients)
    result = replace(honest(), clients=clients, weight=3.0)
    assert check_result(result, asked(weight=1.5), device=PHONE) is result
    with pytest.raises(UpdateError, match="counts for 10"):
        check_result(result, asked(), device=PHONE)


def test_a_plan_with_a_fixed_batch_takes_as_many_steps_as_that_makes() -> None:
    signature = replace(
        SIGNATURE,
        batch=5,
        inputs=(*SIGNATURE.inputs[:-1], Input("data/x", Role.DATA, "float32", (5, 3))),
    )
    assert replace(asked(), signature=signature).steps("ann") == 4


def _client(result: TrainResult, index: int, **changes: Any) -> TrainResult:
    clients = list(result.clients)
    clients[index] = replace(clients[index], **changes)
    return replace(result, clients=tuple(clients))


LIES: dict[str, tuple[Callable[[TrainResult], object], str]] = {
    "another verb": (lambda _r: EvaluateResult("run-1-r3-x", 13, 1, {}, ()), "no training result"),
    "another round": (lambda r: replace(r, job="run-1-r2-x"), "for job run-1-r2-x"),
    "a client less": (lambda r: replace(r, clients=r.clients[:1]), "of 1 clients: bob missing"),
    "a client twice": (lambda r: replace(r, clients=r.clients[:1] * 2), "bob missing"),
    "another order": (lambda r: replace(r, clients=r.clients[::-1]), "order"),
    "more examples of a client": (lambda r: _client(r, 0, examples=1000), "shard holds 10"),
    "more examples in all": (lambda r: replace(r, examples=1000), "its shards hold 13"),
    "more weight of a client": (lambda r: _client(r, 1, weight=300.0), "counts for 3"),
    "no weight of a client": (lambda r: _client(r, 1, weight=None), "counts for 3"),
    "more weight in all": (lambda r: replace(r, weight=1e6), "not 13"),
    "no steps": (lambda r: _client(r, 0, steps=0), "which was to take 6"),
    "a metric that the plan does not have": (
        lambda r: _client(r, 1, metrics={"evil": Metric(1.0, 1.0)}),
        "the metric 'evil' for client bob, which the plan does not have",
    ),
    "a count of everything": (
        lambda r: _client(r, 0, metrics={"accuracy": Metric(0.0, 1e308)}),
        r"a metric 'accuracy' of 1e\+308 for client ann",
    ),
    "a loss beyond all others": (lambda r: _client(r, 0, loss_before=1e308), r"a loss of 1e\+308"),
    "a huge file": (
        lambda r: replace(r, update=OutputFile("update.safetensors", 1 << 40, "0" * 64)),
        "at most",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_in_words(lie: str) -> None:
    change, words = LIES[lie]
    with pytest.raises(UpdateError, match=words) as caught:
        check_result(change(honest()), asked(), device=PHONE)
    assert caught.value.device == PHONE


def test_a_sum_and_each_delta_are_read_back_as_they_are(tmp_path: Path) -> None:
    path, result = written(tmp_path, tensors(2.0))
    check_update(path, result, asked("sum"), device=PHONE)
    read = open_tensors(path, device=PHONE)
    (part,) = updates_in(read, list(result.clients), combine="sum", device=PHONE)
    assert isinstance(part, PartialSum)
    assert (part.weight, part.examples, part.clients) == (13.0, 13, ("ann", "bob"))
    np.testing.assert_array_equal(part.total["param/w"], tensors(2.0)["param/w"])

    path, result = written(tmp_path, each(tensors(1.0), tensors(2.0)))
    check_update(path, result, asked("each"), device=PHONE)
    read = open_tensors(path, device=PHONE)
    ann, bob = updates_in(read, list(result.clients), combine="each", device=PHONE)
    assert isinstance(ann, ClientUpdate)
    assert isinstance(bob, ClientUpdate)
    assert (bob.client, bob.weight, bob.examples) == ("bob", 3.0, 3)
    assert float(ann.delta["buffer/mean"]) == 1.0
    assert float(bob.delta["buffer/mean"]) == 2.0


def _with(name: str, array: NDArray[Any]) -> Arrays:
    return {**tensors(), name: array}


BROKEN: dict[str, tuple[Arrays, str]] = {
    "NaN": (_with("buffer/mean", np.array(np.nan)), "not finite"),
    "infinity": (_with("param/w", np.full((3, 2), -np.inf, np.float32)), "not finite"),
    "another shape": (_with("param/w", np.zeros((2, 3), np.float32)), "not float32"),
    "another type": (_with("param/w", np.zeros((3, 2), np.float64)), "not float32"),
    "an unknown type": (_with("param/w", np.zeros((3, 2), np.int8)), "type I8"),
    "a tensor too many": (_with("param/mine", np.zeros(2, np.float32)), "not asked for"),
    "a tensor missing": ({"param/w": np.zeros((3, 2), np.float32)}, "lacks"),
    "each instead of the sum": (each(tensors(), tensors()), "lacks"),
    "nothing": ({}, "lacks"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_update_is_refused_in_words(how: str, tmp_path: Path) -> None:
    arrays, words = BROKEN[how]
    path, result = written(tmp_path, arrays)
    with pytest.raises(UpdateError, match=words):
        check_update(path, result, asked(), device=PHONE)


def test_another_file_than_was_announced_is_refused(tmp_path: Path) -> None:
    path, _ = written(tmp_path, tensors(1.0))
    with pytest.raises(UpdateError, match="not the one"):
        check_update(path, honest(save(tensors(2.0))), asked(), device=PHONE)


def test_what_was_to_be_clipped_and_is_longer_is_refused(tmp_path: Path) -> None:
    length = float(np.sqrt(7))  # of tensors(1.0)
    path, result = written(tmp_path, each(tensors(1.0), tensors(0.5)))
    check_update(path, result, asked("each", clip=length), device=PHONE)
    with pytest.raises(UpdateError, match="of client ann has the norm"):
        check_update(path, result, asked("each", clip=length * 0.99), device=PHONE)
    path, result = written(tmp_path, tensors(13.0))  # both clients as long as allowed, and in one direction
    check_update(path, result, asked("sum", clip=length), device=PHONE)
    with pytest.raises(UpdateError, match="its update has the norm"):
        check_update(path, result, asked("sum", clip=length * 0.99), device=PHONE)


def test_an_update_of_the_largest_numbers_and_the_longest_names_is_not_too_large() -> None:
    name = "param/" + "\N{GREEK SMALL LETTER ALPHA}" * 200
    signature = replace(
        SIGNATURE,
        inputs=(Input(name, Role.PARAMETER, "float32", (100, 1, 1)), SIGNATURE.inputs[-1]),
        outputs=(SIGNATURE.outputs[0], Output("new", Role.PARAMETER, "float32", (100, 1, 1), replaces=name)),
    )
    size = len(save({name: np.zeros((100, 1, 1), np.float32)}))
    assert size <= replace(asked(), signature=signature).largest < size + 8192


def _damaged(data: bytes, at: int, value: int, cut: int) -> bytes:
    changed = bytearray(data)
    changed[at % len(data)] = value
    return bytes(changed[: len(data) - cut])


@given(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 60))
def test_a_damaged_file_is_refused_or_still_has_the_right_tensors(at: int, value: int, cut: int) -> None:
    import tempfile

    data = _damaged(save(tensors()), at, value, cut)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "update"
        path.write_bytes(data)
        try:
            check_update(path, honest(data), asked(), device=PHONE)
        except UpdateError:
            return
        assert set(open_tensors(path, device=PHONE)) == {"param/w", "buffer/mean"}


def test_a_header_that_says_something_twice_is_refused(tmp_path: Path) -> None:
    entry = json.dumps({"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]})
    header = f'{{"param/w":{entry},"param/w":{entry.replace("0, 24", "24, 48")}}}'.encode()
    path = tmp_path / "update"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(48))
    with pytest.raises(UpdateError, match="no safetensors file"):
        open_tensors(path, device=PHONE)


def tabled(combine: Combine = "sum", *, clip: float | None = None) -> Asked:
    """A job with two of the three rows of ``param/w``, a table of the numbers in ``data/x``."""
    inputs = tuple(
        replace(i, rows="thing", dtype="int64" if i.role is Role.DATA else i.dtype)
        if i.name in {"param/w", "state/m", "data/x"}
        else i
        for i in SIGNATURE.inputs
    )
    return replace(
        asked(combine, clip=clip), signature=replace(SIGNATURE, inputs=inputs), row_counts={"thing": 2}
    )


def some(scale: float = 1.0) -> Arrays:
    return {"param/w": np.full((2, 2), scale, np.float32), "buffer/mean": np.array(scale, np.float64)}


def test_an_update_with_the_rows_that_were_sent_is_taken(tmp_path: Path) -> None:
    rows = {"param/w": Rows(np.array([0, 2]), 3)}
    path, result = written(tmp_path, some())
    check_update(path, check_result(result, tabled(), device=PHONE), tabled(), device=PHONE)
    (part,) = updates_in(
        open_tensors(path, device=PHONE), list(result.clients), combine="sum", device=PHONE, rows=rows
    )
    assert part.rows == rows
    path, result = written(tmp_path, each(some(1.0), some(2.0)))
    check_update(path, result, tabled("each"), device=PHONE)
    parts = updates_in(
        open_tensors(path, device=PHONE), list(result.clients), combine="each", device=PHONE, rows=rows
    )
    assert [part.rows for part in parts] == [rows, rows]


ROWS: dict[str, tuple[Arrays, str]] = {
    "the whole table": (tensors(), r"'param/w' is float32\[3, 2\], not float32\[2, 2\]"),
    "a row too few": ({**some(), "param/w": np.zeros((1, 2), np.float32)}, "not float32"),
    "no row": ({**some(), "param/w": np.zeros((0, 2), np.float32)}, "not float32"),
    "the rows as columns": ({**some(), "param/w": np.zeros(4, np.float32)}, "not float32"),
    "rows of its own choice": ({**some(), "rows/thing": np.zeros(2, np.float32)}, "not asked for"),
    "numbers of rows": ({**some(), "rows/thing": np.array([0, 1])}, "type I64"),
    "a row that is not finite": ({**some(), "param/w": np.full((2, 2), np.nan, np.float32)}, "not finite"),
}


@pytest.mark.parametrize("how", ROWS)
def test_other_rows_than_were_sent_are_refused(how: str, tmp_path: Path) -> None:
    arrays, words = ROWS[how]
    path, result = written(tmp_path, arrays)
    with pytest.raises(UpdateError, match=words):
        check_update(path, result, tabled(), device=PHONE)


def test_an_update_is_as_large_as_its_rows_at_most() -> None:
    large = replace(
        asked(),
        signature=replace(
            SIGNATURE,
            inputs=(
                Input("param/w", Role.PARAMETER, "float32", (1_000_000, 4), rows="thing"),
                Input("data/x", Role.DATA, "int64", ("batch",), rows="thing"),
            ),
            outputs=(
                Output("loss", Role.LOSS, "float32", ()),
                Output("new/w", Role.PARAMETER, "float32", (1_000_000, 4), replaces="param/w"),
            ),
        ),
    )
    assert large.largest > 16_000_000
    few = replace(large, row_counts={"thing": 1000})
    assert len(save({"param/w": np.zeros((1000, 4), np.float32)})) <= few.largest < 30_000
    content = OutputFile("update.safetensors", 16_000_000, "0" * 64)
    with pytest.raises(UpdateError, match="at most"):
        check_result(replace(honest(), update=content), few, device=PHONE)


def test_the_norm_of_some_rows_is_bound_as_that_of_the_table(tmp_path: Path) -> None:
    length = float(np.sqrt(5))  # of some(1.0): the other rows are as they were
    path, result = written(tmp_path, each(some(1.0), some(0.5)))
    check_update(path, result, tabled("each", clip=length), device=PHONE)
    with pytest.raises(UpdateError, match="of client ann has the norm"):
        check_update(path, result, tabled("each", clip=length * 0.99), device=PHONE)


@given(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 60))
def test_a_damaged_file_has_the_right_rows_or_is_refused(at: int, value: int, cut: int) -> None:
    import tempfile

    data = _damaged(save(some()), at, value, cut)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "update"
        path.write_bytes(data)
        try:
            check_update(path, honest(data), tabled(), device=PHONE)
        except UpdateError:
            return
        assert open_tensors(path, device=PHONE)["param/w"].shape == (2, 2)

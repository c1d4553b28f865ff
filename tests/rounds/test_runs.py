"""What a run began with, read back: what is missing or damaged is named, and no phone is asked."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from devicelab.config import load_experiment
from devicelab.errors import ConfigError, StoreError
from devicelab.report.runs import which_run
from devicelab.rounds.runs import begin_run, find_trained, resume_run
from devicelab.rounds.setup import set_up
from devicelab.rounds.verifying import verify_run
from devicelab.store.run import LEDGER, Run
from tests.rounds.small import experiment_file


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Path, Path]:
    """An experiment's file, and the directory of its run that has no round yet."""
    file = experiment_file(tmp_path)
    with begin_run(tmp_path / "state", set_up(load_experiment(file)), file.read_text()) as run:
        return file, run.path


_FILES = ("data.json", "train.onnx", "train.json", "evaluate.onnx", "evaluate.json", "initial.safetensors")


class TestDamage:
    def _refused(self, begun: tuple[Path, Path], words: str) -> None:
        file, run = begun
        experiment = load_experiment(file)
        for deed in (
            lambda: resume_run(run, experiment),
            lambda: verify_run(run.parent, experiment, run=str(run)),
        ):
            with pytest.raises(StoreError, match=words) as caught:
                deed()
            assert "from a copy" in str(caught.value.hint)

    @pytest.mark.parametrize("name", _FILES)
    def test_changed(self, begun: tuple[Path, Path], name: str) -> None:
        path = begun[1] / "plan" / name
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        self._refused(begun, rf"plan/{name} of the run {begun[1].name} is damaged")

    @pytest.mark.parametrize("content", [b"", b"[]"])
    def test_another_content(self, begun: tuple[Path, Path], content: bytes) -> None:
        (begun[1] / "plan" / "data.json").write_bytes(content)
        self._refused(begun, r"plan/data\.json .* is damaged")

    @pytest.mark.parametrize("name", _FILES)
    def test_missing(self, begun: tuple[Path, Path], name: str) -> None:
        (begun[1] / "plan" / name).unlink()
        self._refused(begun, rf"plan/{name} of the run {begun[1].name} is missing")

    def test_a_ledger_that_knows_nothing_of_them(self, begun: tuple[Path, Path]) -> None:
        with sqlite3.connect(begun[1] / LEDGER) as ledger:
            ledger.execute("UPDATE run SET files = ?", (json.dumps({}),))
        ledger.close()
        self._refused(begun, "is damaged")

    def test_a_ledger_that_contradicts_itself(self, begun: tuple[Path, Path]) -> None:
        with sqlite3.connect(begun[1] / LEDGER) as ledger:
            ledger.execute("UPDATE run SET plan_sha256 = ?", ("0" * 64,))
        ledger.close()
        self._refused(begun, "is damaged")


def test_an_experiment_that_changed_has_another_way_out_where_nothing_is_begun(
    begun: tuple[Path, Path],
) -> None:
    file, run = begun
    file.write_text(file.read_text().replace("seed: 11", "seed: 12"))
    experiment = load_experiment(file)
    with pytest.raises(ConfigError, match="seed") as caught:
        resume_run(run, experiment)
    assert caught.value.hint == "begin a new run, or undo the change"
    with pytest.raises(ConfigError, match="seed") as caught:
        verify_run(run.parent, experiment, run=str(run))
    assert caught.value.hint == "name another run with --run, or undo the change"


def test_the_newest_run_that_is_trained_is_meant(begun: tuple[Path, Path]) -> None:
    file, first = begun
    experiment, state = load_experiment(file), first.parent.parent
    with pytest.raises(ConfigError, match="finished a round") as caught:
        find_trained(state, experiment)
    assert f"--resume --run {first.name}" in str(caught.value.hint)
    _finish_a_round(first)
    newer = first.with_name("small-20990101-000000-0000")
    with begin_run(state, set_up(experiment)) as run:
        run.path.rename(newer)
    assert which_run(state, None) == newer
    assert find_trained(state, experiment) == first
    assert find_trained(state, experiment, newer.name) == newer


@pytest.mark.parametrize("word", ["~nosuchuser/x", "a\0b"])
def test_no_name_of_a_run(begun: tuple[Path, Path], word: str) -> None:
    file, run = begun
    state = run.parent.parent
    with pytest.raises(ConfigError, match="no run in"):
        which_run(state, word)
    with pytest.raises(ConfigError, match="no run in"):
        find_trained(state, load_experiment(file), word)


def test_a_finished_round_without_an_update_is_damage(begun: tuple[Path, Path]) -> None:
    file, path = begun
    _finish_a_round(path)
    with pytest.raises(StoreError, match="no update of round 1 is left"):
        verify_run(path.parent.parent, load_experiment(file))


def test_a_private_round_in_which_nobody_was_drawn_is_right(tmp_path: Path) -> None:
    file = experiment_file(
        tmp_path,
        round="{rounds: 1, clients: {probability: 0.1}, epochs: 1, batch_size: 16, hyper: {lr: 0.2}, "
        "clip_norm: 0.3, quorum: 1.0}",
        aggregation="weight: uniform\nprivacy: {noise_multiplier: 0.5, delta: 1.0e-3}",
    )
    with begin_run(tmp_path / "state", set_up(load_experiment(file))) as run:
        path = run.path
    _finish_a_round(path)
    found = verify_run(tmp_path / "state", load_experiment(file))
    assert found.right
    assert [each.clients for each in found.rounds] == [0]


def _finish_a_round(path: Path) -> None:
    """A first round in which nobody had a part."""
    with Run(path) as run:
        before = run.ledger.checkpoint()
        assert before is not None
        run.ledger.begin_round(1)
        run.save_checkpoint(1, run.load_checkpoint(before))

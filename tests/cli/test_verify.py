"""``devicelab verify`` from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from devicelab.virtual.desk import VirtualDesk
from tests.cli.command import devicelab, document
from tests.rounds.small import experiment_file, lab_of


@pytest.fixture(scope="module")
def run(module_desk: VirtualDesk, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An experiment's file and the directory of a run of it, below the state directory ``state``."""
    directory = tmp_path_factory.mktemp("verify")
    path = experiment_file(directory)
    with lab_of(module_desk.up(["pixel"]), directory / "state") as lab:
        return path, lab.run_round(path, rounds=2).directory


def test_right_numbers(run: tuple[Path, Path]) -> None:
    path, directory = run
    state = str(directory.parents[1])
    found = document("verify", str(path), "--state-dir", state)
    assert set(found) == {"run", "right", "tolerance", "rounds"}
    assert (found["run"], found["right"], found["tolerance"]) == (directory.name, True, 1e-3)
    assert [each["round"] for each in found["rounds"]] == [1, 2]
    for each in found["rounds"]:
        assert set(each) == {
            "round", "clients", "model_error", "update_error", "metric_error", "differences"
        }  # fmt: skip
        assert (each["clients"], each["differences"]) == (4, [])
        assert max(each["model_error"], each["update_error"]) < 1e-5
        assert each["metric_error"] is None  # none was measured
    said = devicelab("verify", str(path), "--state-dir", state)
    lines = said.stdout.splitlines()
    assert lines[0].split() == ["ROUND", "CLIENTS", "MODEL", "OFF", "BY", "UPDATES", "METRICS"]
    assert [[*line.split()[:2], line.split()[-1]] for line in lines[1:3]] == [["1", "4", "–"], ["2", "4", "–"]]
    assert lines[-2] == "not compared: metrics (none was measured)"
    assert lines[-1] == f"{directory.name}: all numbers that were compared are those of this host, within 0.001"
    assert "round 2 of 2 once more on this host" in said.stderr


def test_wrong_numbers(run: tuple[Path, Path]) -> None:
    path, directory = run
    words = ["verify", str(path), "--run", str(directory), "--tolerance", "0"]
    found = document(*words, code=4)
    assert not found["right"]
    models = [one for each in found["rounds"] for one in each["differences"] if one["what"] == "model"]
    assert [(one["device"], one["client"]) for one in models] == [(None, None)] * 2
    assert all(0 < one["computed"] < one["said"] for one in models)
    said = devicelab(*words, code=4).stdout
    assert "round 1, model: the round moved it by " in said
    assert said.splitlines()[-1].endswith("further than 0 from this host's")


def test_no_run(run: tuple[Path, Path], tmp_path: Path) -> None:
    error = document("verify", str(run[0]), "--state-dir", str(tmp_path), code=2)["error"]
    assert "there is no run of small" in error["message"]
    assert "run-round" in error["hint"]

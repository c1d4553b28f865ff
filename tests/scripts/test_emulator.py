"""What CI does on Android emulators, done on virtual phones: right numbers pass, and nothing else does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.rounds.small import experiment_file

SCRIPT = Path(__file__).parents[2] / "scripts" / "ci" / "emulator"
_SECONDS = 300
_ROUND = """
    rounds: 2
    clients: {{number: 4}}
    epochs: 2
    batch_size: 16
    hyper: {{lr: {lr}}}
    deadline: 120s
"""


@dataclass(frozen=True)
class Done:
    code: int
    said: str
    printed: str
    state: Path

    def answer(self, command: str) -> Any:
        return json.loads((self.state / "ci" / f"{command}.json").read_text())


@pytest.fixture(scope="module")
def phones(module_desk: VirtualDesk) -> list[VirtualPhone]:
    return module_desk.up(["emulator", "emulator"])


def emulator(directory: Path, experiment: Path | str, *words: str, **environment: str) -> Done:
    """Run the script, in a directory that is no checkout."""
    state = directory / "state"
    done = subprocess.run(
        [
            sys.executable,
            str(SCRIPT),
            str(experiment),
            "--transport",
            "direct",
            "--state-dir",
            str(state),
            *words,
        ],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        cwd=directory,
        env={**_environment(), **environment},
    )
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stderr, done.stdout, state)


def _environment() -> dict[str, str]:
    checkout = str(SCRIPT.parents[2])
    return {**os.environ, "PYTHONPATH": checkout, "GITHUB_ACTIONS": ""}


def _experiment(directory: Path, lr: float = 0.2) -> Path:
    return experiment_file(directory, round=_ROUND.format(lr=lr), evaluation="every: 1\non: [host]", data=_DATA)


_DATA = """
    source: digits
    partition: {by: dirichlet, clients: 6, alpha: 1.0, min_examples: 20}
    test: 0.7
"""


def _connect(*phones: VirtualPhone) -> list[str]:
    return [word for phone in phones for word in ("--connect", phone.address)]


def test_two_emulators_with_right_numbers(phones: list[VirtualPhone], tmp_path: Path) -> None:
    words = ["--phones", "2", "--device", "sdk=34,abi=x86_64", "--expect", "test/accuracy>=0.3 loss_after<5"]
    done = emulator(tmp_path, _experiment(tmp_path), *_connect(*phones), *words)
    assert done.code == 0, done.said
    assert "all is well" in done.said
    serials = {phone.address for phone in phones}
    assert {each["serial"] for each in done.answer("discover")["devices"] if each["ready"]} == serials
    assert {each["device"] for each in done.answer("push-plan")["devices"]} == serials
    assert all(each["files_sent"] == 0 for each in done.answer("push-plan-again")["devices"])
    trained = done.answer("run-round")
    assert [each["devices"] for each in trained["rounds"]] == [2, 2]
    verified = done.answer("verify")
    assert verified["right"]
    assert verified["run"] == trained["run"]
    assert [each["clients"] for each in verified["rounds"]] == [4, 4]
    assert (done.state / "runs" / trained["run"] / "report.html").is_file()


def test_what_was_not_compared_is_said(phones: list[VirtualPhone], tmp_path: Path) -> None:
    path = experiment_file(tmp_path, round=_ROUND.format(lr=0.2))  # measures nothing
    done = emulator(tmp_path, path, *_connect(phones[0]), "--rounds", "1")
    assert done.code == 0, done.said
    assert [each["metric_error"] for each in done.answer("verify")["rounds"]] == [None]
    assert re.search(r"verify: .*largest error \d\S*; not compared in every round: metric\)", done.said)


def test_an_accuracy_that_nobody_reaches(phones: list[VirtualPhone], tmp_path: Path) -> None:
    bounds = ["--expect", "test/accuracy>=0.2", "--expect", "test/accuracy>=1.01 test/loss<0.0001"]
    done = emulator(
        tmp_path, _experiment(tmp_path), *_connect(phones[0]), "--rounds", "1", *bounds, GITHUB_ACTIONS="true"
    )
    assert done.code == 1
    failed = re.search(r"FAILED: (.*)", done.said)
    assert failed is not None
    assert re.fullmatch(r"test/accuracy is 0\.\d+, not >= 1\.01; test/loss is [\d.]+, not < 0\.0001", failed[1])
    assert done.printed == f"::error title=devicelab::{failed[1]}\n"
    assert len(list((done.state / "runs").iterdir())) == 1  # kept, to be looked at


def test_numbers_that_are_not_this_machines(phones: list[VirtualPhone], tmp_path: Path) -> None:
    # nothing rounds to the last bit as a mean of float64 does, so no difference at all is too much to ask
    words = ["--rounds", "1", "--tolerance", "0"]
    done = emulator(tmp_path, _experiment(tmp_path), *_connect(phones[0]), *words)
    assert done.code == 1
    assert re.search(r"(?s)FAILED: \d+ numbers are not those of this machine:\n  .*round 1, model", done.said)
    assert not done.answer("verify")["right"]


def test_a_loss_that_does_not_fall(phones: list[VirtualPhone], tmp_path: Path) -> None:
    done = emulator(tmp_path, _experiment(tmp_path, lr=-0.05), *_connect(phones[0]), "--rounds", "1")
    assert done.code == 1
    assert "FAILED: the loss did not fall: 2." in done.said


def test_a_metric_that_there_is_not(phones: list[VirtualPhone], tmp_path: Path) -> None:
    words = ["--rounds", "1", "--expect", "test/precision>=0.5"]
    done = emulator(tmp_path, _experiment(tmp_path), *_connect(phones[0]), *words)
    assert done.code == 1
    assert "there is no metric test/precision; there are " in done.said
    assert "test/accuracy" in done.said


def test_no_phone_in_time(phones: list[VirtualPhone], tmp_path: Path) -> None:
    words = ["--device", "sdk=24", "--ready-within", "1"]
    done = emulator(tmp_path, _experiment(tmp_path), *_connect(phones[0]), *words)
    assert done.code == 3
    assert "FAILED: 0 of 1 phones ready after 1 s" in done.said


def test_a_selector_that_fits_none_says_what_there_is(phones: list[VirtualPhone], tmp_path: Path) -> None:
    words = ["--device", "transport=tcp", "--ready-within", "1"]
    done = emulator(tmp_path, _experiment(tmp_path), *_connect(*phones), *words)
    assert done.code == 3
    told = f"no device fits 'transport=tcp' (transport=tcp fits 0 of 2): there is {phones[0].address} ("
    assert f"emulator: discover: {told}" in done.said
    assert f"FAILED: 0 of 1 phones ready after 1 s ({told}" in done.said
    assert phones[1].address in done.said


def test_a_phone_that_is_never_ready_says_why(desk: VirtualDesk, tmp_path: Path) -> None:
    (hot,) = desk.up(["hot"])
    done = emulator(tmp_path, _experiment(tmp_path), *_connect(hot), "--ready-within", "1")
    assert done.code == 3
    assert f"{hot.address} is cooling: " in done.said


def test_a_command_that_fails_passes_its_code_and_reason_on(phones: list[VirtualPhone], tmp_path: Path) -> None:
    done = emulator(tmp_path, tmp_path / "missing.yaml", *_connect(phones[0]))
    assert done.code == 2
    assert "FAILED: push-plan ended with 2: " in done.said
    assert "missing.yaml" in done.said


def test_no_time_left(phones: list[VirtualPhone], tmp_path: Path) -> None:
    done = emulator(tmp_path, _experiment(tmp_path), *_connect(phones[0]), "--deadline", "0.1")
    assert done.code == 7
    assert "did not end in time" in done.said


@pytest.mark.parametrize(
    "words",
    [
        ["--expect", "accuracy"],
        ["--expect", "accuracy>=high"],
        ["--expect", "a>=nan"],
        ["--phones", "0"],
        ["--rounds", "0"],
        ["--ready-within", "nan"],
        ["--deadline", "-5"],
        ["--deadline", "inf"],
        ["--tolerance", "nan"],
    ],
)
def test_wrong_usage(tmp_path: Path, words: list[str]) -> None:
    done = emulator(tmp_path, "any.yaml", *words)
    assert done.code == 2
    assert words[0] in done.said
    assert not done.state.exists()

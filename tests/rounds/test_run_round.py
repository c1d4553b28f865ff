"""The commands from one end to the other, on two virtual phones."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from devicelab.rounds.events import DevicePhase, Event, Phase
from devicelab.store.run import RunReader
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.cli.command import devicelab, document
from tests.rounds.small import experiment_file, lab_of, left_on


@pytest.fixture(scope="module")
def phones(module_desk: VirtualDesk) -> list[VirtualPhone]:
    return module_desk.up(["pixel", "pixel"])


@pytest.fixture
def options(phones: list[VirtualPhone], tmp_path: Path) -> list[str]:
    connect = [word for phone in phones for word in ("--connect", phone.address)]
    return ["--transport", "direct", *connect, "--state-dir", str(tmp_path / "state")]


def test_rounds_learn_and_leave_nothing_behind(phones: list[VirtualPhone], tmp_path: Path) -> None:
    events: list[Event] = []
    with lab_of(phones, tmp_path / "state") as lab:
        done = lab.run_round(experiment_file(tmp_path), listener=events.append)
        assert [left_on(device) for device in lab.discover()] == [[], []]
    assert [(each.round, each.clients) for each in done.rounds] == [(1, 4), (2, 4), (3, 4)]
    first, last = done.rounds[0], done.rounds[-1]
    assert first.loss_before is not None
    assert last.loss_after is not None
    assert last.loss_after < first.loss_before
    assert not any(each.excluded for each in done.rounds)
    ends = [event.phase for event in events if isinstance(event, DevicePhase) and event.phase.ended]
    assert ends
    assert set(ends) == {Phase.DONE}
    with RunReader(done.directory) as run:
        assert run.verify() == []
        assert not run.ledger.leftovers()
        assert [each.round for each in run.ledger.checkpoints()] == [0, 1, 2, 3]
    assert not list((done.directory / "incoming").iterdir())
    assert not list((done.directory / "blobs").glob("*/*"))


def test_the_same_seeds_on_the_same_phones_give_the_same_bytes(
    phones: list[VirtualPhone], tmp_path: Path
) -> None:
    found = []
    for name in ("one", "two"):
        with lab_of(phones, tmp_path / name) as lab:
            done = lab.run_round(experiment_file(tmp_path), rounds=2)
        found.append(done.checkpoint.read_bytes())
    assert found[0] == found[1]


def test_run_round_speaks_json(options: list[str], tmp_path: Path) -> None:
    path = experiment_file(tmp_path)
    told = document("run-round", str(path), "--rounds", "2", *options)
    assert set(told) == {"run", "rounds", "privacy", "checkpoint", "report"}
    assert told["privacy"] is None
    assert Path(told["checkpoint"]).is_file()
    assert Path(told["report"]).is_file()
    keys = "round devices clients examples loss_before loss_after metrics seconds bytes_sent bytes_received"
    assert [list(each) for each in told["rounds"]] == [[*keys.split(), "excluded"]] * 2
    resumed = document("run-round", str(path), "--resume", "--rounds", "3", *options)
    assert resumed["run"] == told["run"]
    assert [each["round"] for each in resumed["rounds"]] == [3]


def test_a_run_goes_on_to_the_round_that_was_asked_for_last(options: list[str], tmp_path: Path) -> None:
    path = experiment_file(tmp_path, evaluation="every: 3")  # and it has three rounds
    words = ["run-round", str(path), "--rounds", "5", *options]
    with subprocess.Popen(
        [sys.executable, "-m", "devicelab", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while "begins: round 1 to 5" not in (line := process.stderr.readline()):
            assert line, "it ended before it began"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    again = shlex.split(told.partition("interrupted; go on with: ")[2])
    assert again[:4] == ["devicelab", "run-round", str(path), "--resume"]
    assert sorted(again[6:]) == sorted(options)
    went_on = document(*again[1:])
    assert went_on["rounds"][-1]["round"] == 5
    assert again[5] == went_on["run"]
    with RunReader(Path(went_on["checkpoint"]).parents[1]) as run:
        assert [each.round for each in run.ledger.evaluations()] == [3, 5]


def test_a_finished_run_says_so_and_asks_no_phone(options: list[str], tmp_path: Path) -> None:
    path = experiment_file(tmp_path)
    state = options[-2:]
    done = document("run-round", str(path), "--rounds", "1", *options)
    nobody = ["--transport", "direct", *state]
    told = devicelab("run-round", str(path), "--resume", *nobody)
    assert f"the run {done['run']} has done all that it was asked for, 1 round; for M rounds" in told.stderr
    assert f"--resume --run {done['run']} --transport direct {' '.join(state)} --rounds M" in told.stderr
    assert "goes on" not in told.stderr
    assert document("run-round", str(path), "--resume", *nobody) == {**done, "rounds": []}
    assert [each["rounds_wanted"] for each in document("runs", "list", *state)["runs"]] == [1]
    longer = document("run-round", str(path), "--resume", "--rounds", "2", *options)
    assert [each["round"] for each in longer["rounds"]] == [2]


def test_the_last_round_that_was_asked_for_is_evaluated(options: list[str], tmp_path: Path) -> None:
    path = experiment_file(
        tmp_path,
        data="""
            source: digits
            partition: {by: dirichlet, clients: 6, alpha: 1.0, min_examples: 20}
            test: 0.5
            held_out: {fraction: 0.2}
        """,
        evaluation="{every: 50, on: [devices, host]}",
    )
    done = document("run-round", str(path), "--rounds", "2", *options)
    measured = [[name for name in each["metrics"] if "/" in name] for each in done["rounds"]]
    assert measured[0] == []
    assert {name.partition("/")[0] for name in measured[1]} == {"eval", "test"}
    longer = document("run-round", str(path), "--resume", "--rounds", "3", *options)
    assert longer["rounds"][0]["metrics"].keys() == done["rounds"][1]["metrics"].keys()
    verified = document("verify", str(path), *options[-2:])
    assert [each["round"] for each in verified["rounds"]] == [1, 2, 3]
    shown = document("runs", "show", *options[-2:])
    assert ["eval/loss" in each["metrics"] for each in shown["rounds"]] == [False, True, True]


@pytest.mark.parametrize("how", ["no phone", "no selector", "busy", "engine", "no rounds"])
def test_what_is_refused_at_the_start_leaves_no_run(
    how: str, options: list[str], phones: list[VirtualPhone], tmp_path: Path
) -> None:
    path = experiment_file(tmp_path)
    state = options[-2:]
    no_engine = tmp_path / "engine.so"
    no_engine.write_text("none")
    with contextlib.ExitStack() as stack:
        if how == "busy":
            lab = stack.enter_context(lab_of(phones, tmp_path / "other"))
            for device in lab.discover():
                stack.enter_context(lab.lease(device, "something else"))
        words, code = {
            "no phone": (["--transport", "direct", *state], 3),
            "no selector": ([*options, "--device", "sdk<4"], 3),
            "busy": (options, 3),
            "engine": ([*options, "--engine", str(no_engine)], 2),
            "no rounds": ([*options, "--rounds", "0"], 2),
        }[how]
        devicelab("run-round", str(path), *words, code=code)
    assert document("runs", "list", *state) == {"runs": []}


def test_a_second_push_of_unchanged_things_sends_nothing(options: list[str], tmp_path: Path) -> None:
    path = experiment_file(tmp_path)
    devicelab("push-plan", str(path), *options)
    again = document("push-plan", str(path), *options)
    assert [(each["files_sent"], each["bytes_sent"]) for each in again["devices"]] == [(0, 0)] * 2
    assert all(each["bytes_held"] > 1 << 20 and each["problem"] is None for each in again["devices"])
    changed = experiment_file(
        tmp_path,
        data="""
            source: digits
            partition: {by: dirichlet, clients: 6, alpha: 0.9, min_examples: 20}
            test: 0.8
        """,
    )
    sent = document("push-plan", str(changed), *options)["devices"]
    assert 0 < sum(each["files_sent"] for each in sent) <= 6
    told = document("run-round", str(path), "--rounds", "1", *options)
    parameters = 2 * 110_000
    assert told["rounds"][0]["bytes_sent"] < parameters


def test_why_says_who_would_take_part(options: list[str], phones: list[VirtualPhone], tmp_path: Path) -> None:
    path = experiment_file(tmp_path)
    one = ["--device", phones[0].serial]
    told = document("run-round", str(path), "--why", *options, *one)
    assert [(each["device"], each["clients"]) for each in told["devices"]] == [(phones[0].address, 6)]
    assert [each["device"] for each in told["excluded"]] == [phones[1].address]
    assert "no selector" in told["excluded"][0]["reason"]
    assert phones[1].address in devicelab("push-plan", str(path), "--why", *options, *one).stdout


def test_no_phone_is_an_error_that_says_why(
    options: list[str], phones: list[VirtualPhone], tmp_path: Path
) -> None:
    path = experiment_file(tmp_path)
    done = devicelab("run-round", str(path), "--device", "sdk<4", *options, code=3)
    assert "no selector means it" in done.stderr
    for command in ("run-round", "push-plan"):
        looked = document(command, str(path), "--why", "--device", "sdk<4", *options, code=3)
        assert looked["devices"] == []
        assert [each["device"] for each in looked["excluded"]] == [phone.address for phone in phones]


@pytest.mark.parametrize("command", ["run-round", "push-plan"])
def test_why_without_any_phone_is_an_error_as_well(tmp_path: Path, own_home: Path, command: str) -> None:
    del own_home
    words = [command, str(experiment_file(tmp_path)), "--why", "--transport", "direct"]
    error = document(*words, code=3)["error"]
    assert error["message"] == "there is no device to work with"
    assert "plug a phone in" in error["hint"]


def test_a_run_needs_a_run_to_go_on_with(options: list[str], tmp_path: Path) -> None:
    path = experiment_file(tmp_path)
    assert "no run of small" in devicelab("run-round", str(path), "--resume", *options, code=2).stderr
    assert "--resume" in devicelab("run-round", str(path), "--run", "x", *options, code=2).stderr


def test_what_the_model_depends_on_may_not_change_between(options: list[str], tmp_path: Path) -> None:
    path = experiment_file(tmp_path)
    document("run-round", str(path), "--rounds", "1", *options)
    experiment_file(tmp_path, aggregation="server: {optimizer: fedavgm}")
    done = devicelab("run-round", str(path), "--rounds", "2", "--resume", *options, code=2)
    assert "aggregation" in done.stderr


def test_a_cached_plan_loads_no_training_stack(options: list[str], tmp_path: Path) -> None:
    path = experiment_file(tmp_path)
    devicelab("push-plan", str(path), *options)
    program = (
        "import sys, devicelab.cli as cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: code = end.code\n"
        "print(sorted({'torch', 'onnx'} & set(sys.modules)), code, file=sys.stderr)\n"
    )
    words = [sys.executable, "-c", program, "run-round", str(path), "--rounds", "1", "--json", *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ))
    assert done.stderr.strip().splitlines()[-1] == "[] 0"
    assert json.loads(done.stdout)["rounds"][0]["clients"] == 4

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from devicelab.report.history import Missing, RunHistory
from devicelab.report.recall import wanted_rounds
from devicelab.report.runs import history_of, read_runs, runs_document
from devicelab.store.records import JobState, RunRecord
from devicelab.store.run import Run, RunReader
from tests.report.ledgers import (
    BEGAN,
    EXPERIMENT,
    begin_round,
    begin_run,
    end_round,
    finish_job,
    finish_run,
    plan_job,
)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> RunHistory:
    return history_of(finish_run(tmp_path_factory.mktemp("state")))


def test_the_run(history: RunHistory) -> None:
    assert (history.experiment, history.state, history.reason, history.wanted) == ("digits", "done", "", 3)
    assert history.started.timestamp() == BEGAN
    assert (history.seed, history.plan_sha256, dict(history.files)) == (
        7, "ab" * 32, {"train.onnx": sha256(b"a plan").hexdigest()}
    )  # fmt: skip
    assert history.checkpoint == "checkpoints/round-0003.safetensors"
    assert history.models == dict.fromkeys(["good", "hot", "liar"], "Pixel 9, Android 16")
    assert history.initial == {"eval/accuracy": 0.1}
    assert history.config == EXPERIMENT


def test_what_rounds_came_to(history: RunHistory) -> None:
    first = history.rounds[0]
    assert (first.number, first.state, first.devices, first.clients, first.examples) == (1, "done", 2, 4, 400)
    assert (first.loss_before, first.loss_after) == (1.0, 0.8)
    assert first.metrics == pytest.approx({"accuracy": 0.71, "eval/accuracy": 0.81, "test/accuracy": 0.61})
    assert (first.bytes_sent, first.bytes_received) == (2000, 1000)
    assert first.host_seconds == {"aggregate": 0.0625}
    assert first.seconds is not None


def test_what_each_phone_did(history: RunHistory) -> None:
    good, hot, liar = sorted(history.rounds[2].parts, key=lambda part: part.device)
    assert (good.device, good.state, good.clients, good.examples) == ("good", "done", 2, 200)
    assert good.loss_after == pytest.approx(0.8 / 3)
    assert dict(good.seconds) == {
        "push": 0.2, "start": 0.1, "train": 2.0, "pull": 0.1, "check": 0.01, "commit": 0.05
    }  # fmt: skip
    assert (hot.state, hot.bytes_received) == ("done", 500)
    assert (liar.state, liar.clients, liar.bytes_sent, liar.bytes_received) == ("rejected", 0, 3000, 0)


def test_who_was_missing_is_told_once(history: RunHistory) -> None:
    assert history.rounds[0].missing == (Missing("hot", "excluded", "battery at 47.0 °C, the limit is 45 °C"),)
    assert history.rounds[2].missing == (
        Missing("liar", "rejected", "weight: 3 values are not finite"),
        Missing("good", "excluded", "shard is damaged", ("good.9",)),
    )


def test_one_round_is_summed_up_as_all_are(tmp_path: Path) -> None:
    path = finish_run(tmp_path)
    with RunReader(path) as run:
        assert [run.ledger.summary(number) for number in (1, 2, 3)] == run.ledger.summaries()
        assert run.ledger.summary(4) is None


def test_readings_count_from_the_beginning(history: RunHistory) -> None:
    assert len(history.readings) == 2 * 7
    assert [one.seconds for one in history.readings] == sorted(one.seconds for one in history.readings)
    last = [one for one in history.readings if one.device == "good"][-1]
    assert (last.seconds, last.battery_percent, last.battery_celsius, last.thermal_status) == (
        32.0, 86.5, 36.0, "light"
    )  # fmt: skip


def test_a_run_that_somebody_writes_is_running_and_then_stopped(tmp_path: Path) -> None:
    with begin_run(tmp_path) as run:
        begin_round(run, 1, ["good"])
        plan_job(run, 1, "good")
        seen = history_of(run.path)
        assert (seen.state, seen.rounds[0].state, seen.rounds[0].seconds) == ("running", "open", None)
        assert [part.state for part in seen.rounds[0].parts] == ["started"]
    seen = history_of(run.path)
    assert seen.state == "stopped"
    assert "round 1, training" in seen.reason
    assert "--resume" in seen.reason


def test_a_run_stopped_between_rounds(tmp_path: Path) -> None:
    seen = history_of(finish_run(tmp_path, rounds=2))
    assert (seen.state, seen.reason, seen.wanted) == ("stopped", "", 3)


def test_a_run_without_rounds_whose_experiment_is_unreadable_is_not_done(tmp_path: Path) -> None:
    with begin_run(tmp_path, experiment="?") as run:
        pass
    assert (history_of(run.path).state, history_of(run.path).wanted) == ("stopped", 0)


def test_a_run_of_more_rounds_than_its_experiment_says(tmp_path: Path) -> None:
    seen = history_of(finish_run(tmp_path, rounds=4))
    assert (seen.state, seen.wanted) == ("done", 4)


def test_a_reason_that_names_its_round_does_so_once(tmp_path: Path) -> None:
    with begin_run(tmp_path) as run:
        begin_round(run, 1, ["good"])
        run.ledger.fail_round(1, "round 1 has the updates of 0 of 2 clients, 2 are needed")
    seen = history_of(run.path)
    assert (seen.state, seen.reason) == ("failed", "round 1 has the updates of 0 of 2 clients, 2 are needed")


def test_a_round_that_failed_and_was_begun_anew(tmp_path: Path) -> None:
    with begin_run(tmp_path) as run:
        begin_round(run, 1, ["good", "lost"])
        job = plan_job(run, 1, "lost")
        run.ledger.end_job(job, JobState.FAILED, f"job {job}: the cable was pulled")
        run.ledger.fail_round(1, "1 of 2 phones, the quorum is 2")
        path = run.path
    seen = history_of(path)
    assert (seen.state, seen.reason) == ("failed", "round 1: 1 of 2 phones, the quorum is 2")
    assert seen.rounds[0].missing == (Missing("lost", "failed", "the cable was pulled"),)
    with Run(path) as run:
        begin_round(run, 1, ["good", "lost"])
        run.ledger.reopen_job(job)
        finish_job(run, 1, "good")
        end_round(run, 1)
    [only] = history_of(path).rounds
    assert (only.state, only.reason, only.clients) == ("done", "", 2)


def test_bytes_and_time_of_an_evaluation_count_but_it_is_no_part_of_its_own(tmp_path: Path) -> None:
    with begin_run(tmp_path) as run:
        begin_round(run, 1, ["good"])
        finish_job(run, 1, "good")
        for phone in ("good", "other"):
            job = f"e1-{phone}"
            run.ledger.plan_job(job, number=1, device=f"id-{phone}", clients=["x"], payload={}, verb="evaluate")
            run.ledger.count_bytes(job, sent=7, received=3)
            run.ledger.record_phase(1, "train", started=BEGAN, seconds=0.5, job=job)
        run.ledger.end_job("e1-other", JobState.LATE, "no end within 5 s")
        end_round(run, 1)
    [only] = history_of(run.path).rounds
    [part] = only.parts
    assert (part.bytes_sent, part.seconds["evaluate"], part.seconds["train"]) == (1007, 0.5, 2.0)
    assert (only.bytes_sent, only.bytes_received) == (1014, 506)
    assert only.missing == (Missing("id-other", "evaluation late", "no end within 5 s"),)


def test_two_devices_that_had_one_serial_are_told_apart(tmp_path: Path) -> None:
    with begin_run(tmp_path) as run:
        for identity in ("one", "two"):
            run.ledger.record_device(identity, "127.0.0.1:5555", {})
    assert history_of(run.path).models == {"127.0.0.1:5555 (one)": "", "127.0.0.1:5555 (two)": ""}


@pytest.mark.parametrize(
    ("experiment", "rounds"),
    [("round: {rounds: 5}", 5), ("round: {rounds: yes}", None), ("round: {rounds: 0}", None),
     ("round: 3", None), ("", None), ("a: b: c", None), ("- 1", None),
     ("[" * 5000, None), ("!!python/object:os.system x", None)],
)  # fmt: skip
def test_wanted_rounds_of_whatever_text(experiment: str, rounds: int | None) -> None:
    record = RunRecord("digits-1", "digits", 7, experiment, "ab" * 32, {}, {}, BEGAN)
    assert wanted_rounds(record) == rounds
    assert wanted_rounds(replace(record, rounds=2)) == 2


def test_a_run_that_was_asked_for_fewer_rounds_is_done_with_them(tmp_path: Path) -> None:
    path = finish_run(tmp_path, rounds=2)
    with Run(path) as run:
        run.ledger.ask_rounds(2)
    assert (history_of(path).state, history_of(path).wanted) == ("done", 2)
    [listed] = runs_document(read_runs(tmp_path))["runs"]
    assert (listed["state"], listed["rounds_wanted"]) == ("done", 2)
    with Run(path) as run:
        run.ledger.ask_rounds(5)
    assert (history_of(path).state, history_of(path).wanted) == ("stopped", 5)

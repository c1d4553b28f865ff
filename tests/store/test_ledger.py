"""What the ledger records, what it refuses, and that saying a thing twice is saying it once."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from devicelab.errors import UpdateError
from devicelab.runner.messages import Metric
from devicelab.store.records import CohortClient, JobState, RoundState, Sample
from devicelab.store.run import Run
from tests.store.making import EXPERIMENT, PLAN_SHA256, VERSIONS, begin, facts, make_run, model

BLOB = "ab" * 32


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with make_run(tmp_path / "digits-20261125-141233-ab12") as made:
        yield made


def test_the_run_is_as_it_was_created(run: Run) -> None:
    record = run.ledger.run()
    assert (record.id, record.name, record.seed) == ("digits-20261125-141233-ab12", "digits", 7)
    assert (record.experiment, record.plan_sha256, record.versions) == (EXPERIMENT, PLAN_SHA256, VERSIONS)
    assert record.files == {"plan.onnx": PLAN_SHA256}


def test_a_round_from_beginning_to_end(run: Run) -> None:
    first, second = begin(run)
    ledger = run.ledger
    ledger.exclude(1, "C", "battery at 4 %")
    ledger.exclude(1, "B", "no room for their shards", ["B8", "B9"])
    ledger.record_device("A", "emulator-5554", {"model": "Pixel", "sdk": 34})
    ledger.record_device("A", "127.0.0.1:40001", {"model": "Pixel", "sdk": 35})
    ledger.advance_round(1, RoundState.TRAINING)
    for state in (JobState.PUSHED, JobState.STARTED):
        ledger.advance_job(first, state)
    ledger.advance_job(first, JobState.DONE, result={"type": "done", "loss": math.nan})
    ledger.count_bytes(first, sent=100)
    ledger.count_bytes(first, received=50)
    ledger.record_samples(first, [Sample(2.0, 81.0, 30.5, "light"), Sample(1.0, battery_percent=82.0)])
    ledger.record_phase(1, "train", started=5.0, seconds=2.5, job=first)
    ledger.record_phase(1, "aggregate", started=9.0, seconds=0.5)
    measured = facts("A0", loss_before=2.0, loss_after=1.0, norm=0.5, clipped=True)
    blob = run.record_update(
        first, b"the bytes", [measured, facts("A1", examples=30, weight=30.0, loss_after=3.0)]
    )
    ledger.reject_update(second, "its update holds numbers that are not finite")
    ledger.advance_job(first, JobState.COMMITTED)
    ledger.clear_job(first)
    ledger.clear_job(second)
    ledger.record_evaluation(1, "devices", {"hits": Metric(3.0, 4.0)}, examples=4)
    ledger.record_event("retry", "started anew", number=1, device="A")
    run.save_checkpoint(1, model(1.0))

    assert [(each.serial, each.facts["sdk"]) for each in ledger.devices()] == [("127.0.0.1:40001", 35)]
    assert [(each.device, each.clients) for each in ledger.exclusions(1)] == [("C", ()), ("B", ("B8", "B9"))]
    done, gone = ledger.jobs(1)
    assert (done.state, done.gone, done.bytes_sent, done.bytes_received) == (JobState.REMOVED, True, 100, 50)
    assert done.result == {"type": "done", "loss": None}
    assert (gone.state, gone.gone) == (JobState.REJECTED, True)
    assert "not finite" in gone.reason
    accepted, refused = ledger.updates(1, accepted=True), ledger.updates(1, accepted=False)
    assert [(each.client, each.blob, each.device) for each in accepted] == [
        ("A0", blob, "A"),
        ("A1", blob, "A"),
    ]
    assert [(each.client, each.reason, each.weight) for each in refused] == [
        (client, gone.reason, None) for client in ("B0", "B1")
    ]
    one = accepted[0]
    assert (one.loss_before, one.loss_after, one.norm, one.clipped) == (2.0, 1.0, 0.5, True)
    assert one.metrics == {"hits": Metric(4.0, 10.0)}
    assert [each.time for each in ledger.samples(first)] == [1.0, 2.0]
    assert [(each.phase, each.device) for each in ledger.phases(1)] == [("train", "A"), ("aggregate", "")]
    assert ledger.evaluations()[0].metrics == {"hits": Metric(3.0, 4.0)}
    assert [(each.kind, each.device, each.round) for each in ledger.events(1)] == [("retry", "A", 1)]
    assert ledger.leftovers() == []

    (summary,) = ledger.summaries()
    assert (summary.devices, summary.clients, summary.examples) == (1, 2, 40)
    assert (summary.loss_before, summary.loss_after) == (2.0, 2.5)
    assert summary.metrics == {"hits": Metric(8.0, 20.0)}
    assert (summary.bytes_sent, summary.bytes_received) == (100, 50)
    assert summary.round.state is RoundState.CHECKPOINTED
    assert summary.round.ended is not None


def test_clients_are_where_they_were_last(run: Run) -> None:
    ledger = run.ledger
    first, _ = begin(run)
    run.record_update(first, b"the bytes", [facts("A0"), facts("A1")])
    run.save_checkpoint(1, model(1.0))
    ledger.begin_round(2)
    moved = [CohortClient("A1", "B", 10), CohortClient("B0", "A", 10), CohortClient("C0", "A", 10)]
    ledger.set_cohort(2, moved)

    assert ledger.whereabouts() == {"A0": "A", "A1": "B", "B0": "A", "B1": "B", "C0": "A"}
    assert ledger.whereabouts(accepted=True) == {"A0": "A", "A1": "A"}
    payload = {"clients": ["A1"]}
    ledger.plan_job("r2-B", number=2, device="B", clients=["A1"], payload=payload)
    run.record_update("r2-B", b"others", [facts("A1")])
    assert ledger.whereabouts(accepted=True) == {"A0": "A", "A1": "B"}


def test_to_repeat_what_was_said_changes_nothing(run: Run) -> None:
    ledger = run.ledger
    first, second = begin(run)
    assert begin(run) == [first, second]
    for _ in range(2):
        ledger.exclude(1, "C", "too hot")
        ledger.advance_round(1, RoundState.TRAINING)
        ledger.advance_job(first, JobState.STARTED)
        ledger.record_samples(first, [Sample(1.0, 80.0)])
        ledger.record_phase(1, "push", started=1.0, seconds=1.0)
        run.record_update(first, b"bytes", [facts("A0"), facts("A1")])
        ledger.advance_job(first, JobState.PUSHED)
        ledger.reject_update(second, "nonsense")
        ledger.advance_job(first, JobState.COMMITTED)
        ledger.clear_job(first)
    run.save_checkpoint(1, model(1.0))
    assert run.save_checkpoint(1, model(1.0)) == ledger.checkpoint(1)
    assert len(ledger.exclusions()) == len(ledger.samples(first)) == len(ledger.phases()) == 1
    assert len(ledger.updates()) == 4
    assert [job.state for job in ledger.jobs()] == [JobState.REMOVED, JobState.REJECTED]


def test_a_client_counts_once_a_round_whoever_brings_it(run: Run) -> None:
    first, _ = begin(run)
    run.record_update(first, b"one", [facts("A0"), facts("A1")])
    ledger = run.ledger
    ledger.plan_job("again", number=1, device="C", clients=["B0", "A1"], payload={})
    with pytest.raises(
        UpdateError, match="client A1 has been counted in round 1 already, by job r1-A"
    ) as caught:
        run.record_update("again", b"two", [facts("B0"), facts("A1")])
    assert caught.value.device == "C"
    assert {each.client for each in ledger.updates(accepted=True)} == {"A0", "A1"}
    with pytest.raises(UpdateError, match="client Z is not in the cohort of round 1"):
        run.record_update("again", b"two", [facts("B0"), facts("Z")])
    with pytest.raises(ValueError, match="takes no update"):
        run.record_update(first, b"another one", [facts("A0"), facts("A1")])
    run.record_update("again", b"two", [facts("B0")])
    assert len(ledger.blobs()) == 2
    assert len(list(run.path.glob("blobs/*/*"))) == 2
    assert ledger.blobs() == {path.name for path in run.path.glob("blobs/*/*")}


def test_the_database_itself_refuses_to_count_twice(run: Run) -> None:
    first, _ = begin(run)
    run.record_update(first, b"one", [facts("A0")])
    ledger = run.ledger
    known = ledger.plan_job("again", number=1, device="C", clients=["A0"], payload={})
    with pytest.raises(ValueError, match=r"UNIQUE constraint failed: updates\.round, updates\.client"):
        ledger._insert_update(known, facts("A0"), accepted=1, blob=BLOB, weight=1.0)


@pytest.mark.parametrize(
    "wrong", [{"weight": 0.0}, {"weight": -1.0}, {"weight": math.nan}, {"examples": -1}, {"client": ""}]
)
def test_what_cannot_count_is_refused_whole(run: Run, wrong: dict[str, float]) -> None:
    first, _ = begin(run)
    with pytest.raises((ValueError, UpdateError)):
        run.record_update(first, b"one", [facts("A0"), dataclasses.replace(facts("A1"), **wrong)])  # type: ignore[arg-type]
    assert run.ledger.updates() == []
    assert run.ledger.jobs()[0].state is JobState.PLANNED


def test_rounds_go_forward_one_after_the_other(run: Run) -> None:
    ledger = run.ledger
    with pytest.raises(ValueError, match="round 1 is not next, 0 is"):
        ledger.begin_round(1)
    run.save_checkpoint(0, model())
    for number in (-1, 0, 2):
        with pytest.raises(ValueError, match="round"):
            ledger.begin_round(number)
    assert ledger.begin_round(1, seed=2**64 - 1).seed == 2**64 - 1
    ledger.advance_round(1, RoundState.COLLECTING)
    ledger.advance_round(1, RoundState.TRAINING)
    assert [each.state for each in ledger.rounds()] == [RoundState.COLLECTING]
    for state in (RoundState.CHECKPOINTED, RoundState.FAILED):
        with pytest.raises(ValueError, match="this way"):
            ledger.advance_round(1, state)
    with pytest.raises(ValueError, match="round 2 is not next"):
        ledger.begin_round(2)
    with pytest.raises(KeyError, match="round 9"):
        ledger.advance_round(9, RoundState.TRAINING)
    run.save_checkpoint(1, model(1.0))
    for deed in (
        lambda: ledger.advance_round(1, RoundState.AGGREGATED),
        lambda: ledger.fail_round(1, "no"),
        lambda: ledger.set_cohort(1, []),
        lambda: ledger.plan_job("late", number=1, device="A", clients=[], payload={}),
    ):
        with pytest.raises(ValueError, match="round 1 has ended: checkpointed"):
            deed()
    with pytest.raises(ValueError, match="round 1 is not next, 2 is"):
        ledger.begin_round(1)


def test_a_failed_round_may_be_begun_anew_and_keeps_what_counts(run: Run) -> None:
    first, second = begin(run)
    ledger = run.ledger
    run.record_update(first, b"one", [facts("A0"), facts("A1")])
    ledger.end_job(second, JobState.FAILED, "the phone is gone")
    with pytest.raises(ValueError, match="without a reason"):
        ledger.fail_round(1, "")
    ledger.fail_round(1, "2 of 4 clients, quorum is 3")
    ledger.fail_round(1, "another reason")
    failed = ledger.round(1)
    assert failed is not None
    assert (failed.state, failed.reason, failed.attempt) == (
        RoundState.FAILED,
        "2 of 4 clients, quorum is 3",
        1,
    )
    with pytest.raises(ValueError, match="has ended: failed"):
        run.save_checkpoint(1, model(1.0))
    again = ledger.begin_round(1)
    assert (again.state, again.reason, again.attempt, again.ended) == (RoundState.SELECTING, "", 2, None)
    assert run.resume_point().counted == {"A0", "A1"}
    with pytest.raises(ValueError, match="client A0 has an update in round 1 and cannot leave it"):
        ledger.set_cohort(1, [CohortClient("A1", "A", 10), CohortClient("B0", "C", 10)])
    cohort = [CohortClient("B0", "C", 10), CohortClient("A1", "A", 10), CohortClient("A0", "A", 10)]
    ledger.set_cohort(1, cohort)
    assert ledger.cohort(1) == cohort
    ledger.reopen_job(second)
    reopened = ledger.job(second)
    assert reopened is not None
    assert (reopened.state, reopened.attempt, reopened.reason) == (JobState.PLANNED, 2, "")


def test_jobs_go_forward_and_end_once(run: Run) -> None:
    first, second = begin(run)
    ledger = run.ledger
    with pytest.raises(ValueError, match="has no update yet"):
        ledger.advance_job(first, JobState.COMMITTED)
    with pytest.raises(ValueError, match="this way"):
        ledger.advance_job(first, JobState.LATE)
    with pytest.raises(ValueError, match="does not end as done"):
        ledger.end_job(first, JobState.DONE, "why")
    with pytest.raises(ValueError, match="without a reason"):
        ledger.end_job(first, JobState.LATE, "")
    with pytest.raises(ValueError, match="is planned"):
        ledger.reopen_job(first)
    with pytest.raises(KeyError, match="job nobody"):
        ledger.advance_job("nobody", JobState.DONE)
    ledger.advance_job(first, JobState.DONE)
    ledger.reject_update(first, "cut off at the deadline", state=JobState.LATE)
    ledger.end_job(first, JobState.FAILED, "another reason")
    late = ledger.job(first)
    assert late is not None
    assert (late.state, late.reason) == (JobState.LATE, "cut off at the deadline")
    assert ledger.leftovers() == [late]
    with pytest.raises(ValueError, match="has ended: late"):
        ledger.advance_job(first, JobState.DONE)
    with pytest.raises(ValueError, match="takes no update"):
        run.record_update(first, b"one", [facts("A0")])
    run.record_update(second, b"two", [facts("B0"), facts("B1")])
    with pytest.raises(ValueError, match="is collected and cannot be failed"):
        ledger.end_job(second, JobState.FAILED, "gone before the commit")


def test_an_evaluation_needs_no_update(run: Run) -> None:
    begin(run)
    ledger = run.ledger
    ledger.plan_job("e1", number=1, device="A", clients=["A0"], payload={}, verb="evaluate")
    with pytest.raises(ValueError, match="takes no update"):
        run.record_update("e1", b"one", [facts("A0")])
    ledger.advance_job("e1", JobState.REMOVED)
    assert ledger.leftovers() == []


def test_a_job_id_means_one_job(run: Run) -> None:
    first, _ = begin(run)
    for change in ({"device": "B"}, {"clients": ["A1"]}, {"payload": {"other": 1}}, {"verb": "evaluate"}):
        same = {
            "number": 1,
            "device": "A",
            "clients": ["A0", "A1"],
            "payload": {"job": first, "clients": ["A0", "A1"]},
        }
        run.ledger.plan_job(first, **same)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="known already and is another one"):
            run.ledger.plan_job(first, **{**same, **change})  # type: ignore[arg-type]


def test_several_verbs_together_are_all_or_nothing(run: Run) -> None:
    first, second = begin(run)

    def cut_off() -> None:
        with run.ledger.together():
            run.ledger.advance_job(first, JobState.PUSHED)
            with run.ledger.together():
                run.ledger.advance_job(second, JobState.PUSHED)
            raise RuntimeError("power cut")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="power"):
            cut_off()
        assert [job.state for job in run.ledger.jobs()] == [JobState.PLANNED, JobState.PLANNED]
    with run.ledger.together():
        run.ledger.advance_job(first, JobState.PUSHED)
    assert run.ledger.jobs()[0].state is JobState.PUSHED


def test_many_threads_may_record_at_once(run: Run) -> None:
    devices = [f"D{n}" for n in range(8)]
    jobs = begin(run, devices=devices, each=3)
    failures: list[BaseException] = []

    def follow(job: str, device: str) -> None:
        try:
            for state in (JobState.PUSHED, JobState.STARTED, JobState.DONE):
                run.ledger.advance_job(job, state)
                run.ledger.record_samples(job, [Sample(float(n), 50.0) for n in range(5)])
            run.incoming(job).write_bytes(device.encode())
            run.record_update(job, run.incoming(job), [facts(f"{device}{n}") for n in range(3)])
        except BaseException as error:  # noqa: BLE001 - for the main thread
            failures.append(error)

    threads = [threading.Thread(target=follow, args=pair) for pair in zip(jobs, devices, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {job.state for job in run.ledger.jobs()} == {JobState.COLLECTED}
    assert len(run.ledger.updates(accepted=True)) == 24
    assert list((run.path / "incoming").iterdir()) == []


def test_events_and_evaluations_of_the_initial_model_belong_to_no_round(run: Run) -> None:
    run.ledger.record_event("deploy", "pushed 3 files", device="A")
    run.ledger.record_evaluation(0, "host", {"top1": Metric(math.nan, 5.0)}, examples=5)
    run.ledger.record_evaluation(0, "host", {"top1": Metric(1.0, 5.0)}, examples=5)
    assert [event.round for event in run.ledger.events()] == [None]
    assert [each.metrics for each in run.ledger.evaluations()] == [{"top1": Metric(1.0, 5.0)}]


@pytest.mark.parametrize(
    "deed",
    [
        lambda ledger: ledger.exclude(1, "A", ""),
        lambda ledger: ledger.exclude(7, "A", "why"),
        lambda ledger: ledger.plan_job("", number=1, device="A", clients=[], payload={}),
        lambda ledger: ledger.plan_job("x", number=1, device="A", clients=[], payload={}, verb="dance"),
        lambda ledger: ledger.record_samples("nobody", [Sample(1.0)]),
        lambda ledger: ledger.record_phase(9, "train", started=1.0, seconds=1.0),
        lambda ledger: ledger.record_evaluation(1, "moon", {}, examples=1),
        lambda ledger: ledger.set_cohort(1, [CohortClient("a", "A", 1), CohortClient("a", "B", 1)]),
        lambda ledger: ledger.set_cohort(1, [CohortClient("a", "A", -1)]),
        lambda ledger: ledger.forget_updates(1),
    ],
)
def test_nonsense_is_refused(run: Run, deed: object) -> None:
    begin(run)
    before = run.ledger.cohort(1)
    with pytest.raises(ValueError):
        deed(run.ledger)  # type: ignore[operator]
    assert run.ledger.cohort(1) == before

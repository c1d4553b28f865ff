"""Runs on the disk, written by the store's own verbs as rounds would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from devicelab.runner.messages import Metric
from devicelab.store.records import CohortClient, JobState, RoundState, Sample, UpdateFacts
from devicelab.store.run import Run
from devicelab.store.runs import new_run_path

EXPERIMENT = "name: digits\nseed: 7\nround:\n  rounds: 3\n  clients: {number: 4}\n"
BEGAN = 1_800_000_000.0
CLIENTS = 2  # a phone

_TENSORS = {"weight": np.zeros(3, np.float32)}
_PHASES = (("push", 0.2), ("start", 0.1), ("train", 2.0), ("pull", 0.1), ("check", 0.01), ("commit", 0.05))


def begin_run(state: Path, *, name: str = "digits", experiment: str = EXPERIMENT, age: int = 0) -> Run:
    """A run with an initial model; the caller closes it."""
    run = Run.create(
        new_run_path(state, name, now=BEGAN - age),
        name=name,
        seed=7,
        experiment=experiment,
        plan_sha256="ab" * 32,
        plan_files={"train.onnx": b"a plan"},
        versions={"devicelab": "0.1.0", "python": "3.11.7"},
        created=BEGAN - age,
    )
    run.save_checkpoint(0, _TENSORS)
    run.ledger.record_evaluation(0, "devices", {"accuracy": Metric(10, 100)}, examples=100)
    return run


def begin_round(run: Run, number: int, phones: Sequence[str]) -> None:
    """A round whose cohort is known."""
    ledger = run.ledger
    ledger.begin_round(number)
    for phone in phones:
        ledger.record_device(f"id-{phone}", phone, {"model": "Pixel 9", "android": "16"})
    clients = [
        CohortClient(f"{phone}.{index}", f"id-{phone}", 100) for phone in phones for index in range(CLIENTS)
    ]
    ledger.set_cohort(number, clients)
    ledger.advance_round(number, RoundState.TRAINING)


def plan_job(run: Run, number: int, phone: str) -> str:
    """A job that has been sent and runs."""
    job = f"r{number}-{phone}"
    clients = [f"{phone}.{index}" for index in range(CLIENTS)]
    run.ledger.plan_job(job, number=number, device=f"id-{phone}", clients=clients, payload={"job": job})
    run.ledger.advance_job(job, JobState.PUSHED)
    run.ledger.advance_job(job, JobState.STARTED)
    run.ledger.count_bytes(job, sent=1000 * number, received=0)
    began = BEGAN + 10 * number
    run.ledger.record_samples(
        job,
        [Sample(began, 90.0 - number, 30.0, "none"), Sample(began + 2, 89.5 - number, 33.0 + number, "light")],
    )
    return job


def finish_job(run: Run, number: int, phone: str) -> None:
    """A phone does all that it should."""
    job = plan_job(run, number, phone)
    run.ledger.advance_job(job, JobState.DONE)
    facts = [
        UpdateFacts(
            client=f"{phone}.{index}",
            examples=100,
            weight=100.0,
            loss_before=1.0 / number,
            loss_after=0.8 / number,
            norm=0.1,
            metrics={"accuracy": Metric(70.0 + number, 100.0)},
        )
        for index in range(CLIENTS)
    ]
    run.record_update(job, f"{job} update".encode(), facts)
    run.ledger.count_bytes(job, sent=1000 * number, received=500)
    run.ledger.advance_job(job, JobState.COMMITTED)
    run.ledger.advance_job(job, JobState.REMOVED)
    for phase, seconds in _PHASES:
        run.ledger.record_phase(number, phase, started=BEGAN + number, seconds=seconds, job=job)


def end_round(run: Run, number: int) -> None:
    """Averaged, measured, checkpointed."""
    run.ledger.advance_round(number, RoundState.AGGREGATED)
    run.ledger.record_phase(number, "aggregate", started=BEGAN + number, seconds=0.0625)
    run.ledger.record_evaluation(number, "devices", {"accuracy": Metric(80 + number, 100)}, examples=100)
    run.ledger.record_evaluation(number, "host", {"accuracy": Metric(60 + number, 100)}, examples=100)
    run.save_checkpoint(number, {"weight": np.full(3, number, np.float32)})


def finish_run(state: Path, *, rounds: int = 3, age: int = 0) -> Path:
    """Three phones: ``hot`` is excluded from rounds 1 and 2, ``liar`` is rejected in round 3."""
    with begin_run(state, age=age) as run:
        for number in range(1, rounds + 1):
            with run.ledger.together():
                begin_round(run, number, ["good", "hot", "liar"])
                finish_job(run, number, "good")
                if number < 3:
                    run.ledger.exclude(number, "id-hot", "battery at 47.0 °C, the limit is 45 °C")
                    finish_job(run, number, "liar")
                else:
                    finish_job(run, number, "hot")
                    job = plan_job(run, number, "liar")
                    run.ledger.reject_update(job, "weight: 3 values are not finite")
                    run.ledger.exclude(
                        number, "id-liar", "rejected: weight: 3 values are not finite", ["liar.1", "liar.0"]
                    )
                    run.ledger.exclude(number, "id-good", "shard is damaged", ["good.9"])
                end_round(run, number)
        return run.path

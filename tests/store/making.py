"""A run with something in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devicelab.runner.messages import Metric
from devicelab.store.records import CohortClient, UpdateFacts
from devicelab.store.run import Run

PLAN = b"an ONNX file"
PLAN_SHA256 = hashlib.sha256(PLAN).hexdigest()
EXPERIMENT = "# mine\nname: digits\nseed: 7\n"
VERSIONS = {"devicelab": "0.1.0", "python": "3.11"}


def make_run(path: Path, *, secret: bool = False) -> Run:
    path.parent.mkdir(parents=True, exist_ok=True)
    return Run.create(
        path,
        name="digits",
        seed=7,
        experiment=EXPERIMENT,
        plan_sha256=PLAN_SHA256,
        plan_files={"plan.onnx": PLAN},
        versions=VERSIONS,
        secret=secret,
    )


def model(value: float = 0.0, size: int = 10) -> dict[str, NDArray[Any]]:
    return {
        "param/w": np.full((size, 3), value, np.float32),
        "param/b": np.asarray(value, np.float64),
        "buffer/n": np.asarray(3, np.int64),
    }


def facts(client: str, **values: Any) -> UpdateFacts:
    return UpdateFacts(
        client, **{"examples": 10, "weight": 10.0, "metrics": {"hits": Metric(4.0, 10.0)}, **values}
    )


def begin(run: Run, number: int = 1, devices: Sequence[str] = ("A", "B"), each: int = 2) -> list[str]:
    """A round in which every device has a job ``r<number>-<device>`` of some clients; the jobs' ids."""
    if run.ledger.checkpoint() is None:
        run.save_checkpoint(0, model())
    run.ledger.begin_round(number)
    cohort = [CohortClient(f"{device}{n}", device, 10) for device in devices for n in range(each)]
    run.ledger.set_cohort(number, cohort)
    jobs = []
    for device in devices:
        clients = [member.client for member in cohort if member.device == device]
        job = f"r{number}-{device}"
        payload = {"job": job, "clients": clients}
        run.ledger.plan_job(job, number=number, device=device, clients=clients, payload=payload)
        jobs.append(job)
    return jobs


def files_of(path: Path) -> set[str]:
    """Every file of a run but the database's own and the lock."""
    names = {each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()}
    return {name for name in names if not name.startswith("ledger.sqlite") and name != "lock"}

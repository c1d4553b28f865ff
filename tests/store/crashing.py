"""Runs rounds in children that can be killed at any moment, and says afterwards what they had been told is
safe.

    python crashing.py

For each line ``RUN ROUNDS ACKNOWLEDGED`` it forks a child, which goes on with the run where it stands until so
many rounds are done, and says its pid. The next line, whatever it is, has it wait for the child and say its
exit code: until then the pid is the child's. The child appends a line to the file ACKNOWLEDGED after each thing
that the store has promised to keep.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import numpy as np

from devicelab.store.checkpoints import decode_tensors, encode_tensors
from devicelab.store.records import CohortClient, JobState, RoundState, UpdateFacts
from devicelab.store.run import Run

DEVICES = ("A", "B", "C")
CLIENTS = 2
SIZE = 10_000


def update_of(number: int, device: str) -> bytes:
    """What a device sends in a round: the same whenever it is asked."""
    generator = np.random.default_rng([number, ord(device)])
    return encode_tensors({"w": generator.standard_normal(SIZE, np.float32)})


def go_on(path: Path, rounds: int, acknowledged: Path) -> None:
    with Run(path) as run, acknowledged.open("ab", buffering=0) as told:
        if run.ledger.checkpoint() is None:
            run.save_checkpoint(0, {"w": np.zeros(SIZE, np.float32)})
        while (point := run.resume_point()).next_round <= rounds:
            one_round(run, point.next_round, told.fileno())


def one_round(run: Run, number: int, told: int) -> None:
    ledger = run.ledger
    ledger.begin_round(number)
    cohort = [CohortClient(f"{device}{n}", device, 5) for device in DEVICES for n in range(CLIENTS)]
    ledger.set_cohort(number, cohort)
    ledger.advance_round(number, RoundState.TRAINING)
    for device in DEVICES:
        job, clients = f"r{number}-{device}", [f"{device}{n}" for n in range(CLIENTS)]
        known = ledger.plan_job(job, number=number, device=device, clients=clients, payload={"seed": number})
        if known.state in (JobState.PLANNED, JobState.PUSHED, JobState.STARTED, JobState.DONE):
            ledger.advance_job(job, JobState.DONE)
            pulled = run.incoming(job)
            pulled.write_bytes(update_of(number, device))
            blob = run.record_update(job, pulled, [UpdateFacts(client, 5, 5.0) for client in clients])
            os.write(told, f"update {job} {blob}\n".encode())
        ledger.advance_job(job, JobState.REMOVED)
    total = np.zeros(SIZE, np.float32)
    for blob in sorted({update.blob or "" for update in ledger.updates(number, accepted=True)}):
        total += decode_tensors(run.blobs.read(blob), run.blobs.path(blob))["w"]
    before = ledger.checkpoint()
    assert before is not None
    model = {"w": run.load_checkpoint(before)["w"] + total / len(DEVICES)}
    ledger.advance_round(number, RoundState.AGGREGATED)
    record = run.save_checkpoint(number, model, {"m/w": total})
    os.write(told, f"checkpoint {number} {record.sha256}\n".encode())


def main() -> None:
    while line := sys.stdin.readline():
        path, rounds, acknowledged = line.split()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                go_on(Path(path), int(rounds), Path(acknowledged))
                code = 0
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(code)
        say(child)
        sys.stdin.readline()
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

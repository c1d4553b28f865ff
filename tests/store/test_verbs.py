"""The ledger's verbs in any order: each does what it says or refuses whole, and what must hold always holds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from devicelab.errors import UpdateError
from devicelab.store.records import CohortClient, JobState, RoundState, Sample
from devicelab.store.run import Run
from tests.store.making import facts, make_run, model

CLIENTS, DEVICES, JOBS = ("a", "b", "c"), ("A", "B"), ("j1", "j2", "j3")
BROUGHT = (JobState.COLLECTED, JobState.COMMITTED, JobState.REMOVED)

subsets = st.lists(st.sampled_from(CLIENTS), unique=True, min_size=1)


class Verbs(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._home = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.run = make_run(Path(self._home.name) / "run")
        self.run.save_checkpoint(0, model())
        self.counted: dict[tuple[int, str], str] = {}

    def teardown(self) -> None:
        self.run.close()
        self._home.cleanup()

    @property
    def number(self) -> int:
        return self.run.resume_point().next_round

    def attempt(self, deed: Callable[..., Any], *args: Any, **options: Any) -> bool:
        """Whether it was done; refusing is alright, and must change nothing."""
        before = self.state()
        try:
            deed(*args, **options)
        except (ValueError, KeyError, UpdateError):
            assert self.state() == before
            return False
        return True

    def state(self) -> object:
        ledger = self.run.ledger
        return (
            ledger.rounds(),
            ledger.cohort(self.number),
            ledger.jobs(),
            ledger.updates(),
            ledger.checkpoints(),
        )

    @property
    def jobs(self) -> list[str]:
        return [job.id for job in self.run.ledger.jobs(self.number)]

    @initialize()
    def begin_first(self) -> None:
        self.begin_next()

    @rule()
    def begin(self) -> None:
        self.begin_next()

    def begin_next(self) -> None:
        self.run.ledger.begin_round(self.number)
        if not self.run.ledger.cohort(self.number):
            self.run.ledger.set_cohort(self.number, [CohortClient(client, "A", 1) for client in CLIENTS])

    @rule(state=st.sampled_from(RoundState))
    def advance_round(self, state: RoundState) -> None:
        self.attempt(self.run.ledger.advance_round, self.number, state)

    @rule(reason=st.sampled_from(["", "quorum"]))
    def fail(self, reason: str) -> None:
        self.attempt(self.run.ledger.fail_round, self.number, reason)

    @rule(clients=subsets, device=st.sampled_from(DEVICES))
    def cohort(self, clients: list[str], device: str) -> None:
        self.attempt(self.run.ledger.set_cohort, self.number, [CohortClient(c, device, 1) for c in clients])

    @rule(job=st.sampled_from(JOBS), clients=subsets, device=st.sampled_from(DEVICES))
    def plan(self, job: str, clients: list[str], device: str) -> None:
        self.begin_next()
        identity = f"r{self.number}-{job}"
        self.attempt(
            self.run.ledger.plan_job, identity, number=self.number, device=device, clients=clients, payload={}
        )

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), state=st.sampled_from(JobState))
    def follow(self, data: st.DataObject, state: JobState) -> None:
        job, ledger = data.draw(st.sampled_from(self.jobs)), self.run.ledger
        deeds: list[Callable[[], object]] = [
            lambda: ledger.advance_job(job, state),
            lambda: ledger.end_job(job, state, "why"),
            lambda: ledger.reopen_job(job),
            lambda: ledger.clear_job(job),
            lambda: ledger.reject_update(job, "NaN"),
            lambda: ledger.record_samples(job, [Sample(1.0, 50.0)]),
        ]
        self.attempt(data.draw(st.sampled_from(deeds)))

    @rule(job=st.sampled_from(JOBS), clients=subsets, content=st.binary(max_size=2))
    def plan_and_record(self, job: str, clients: list[str], content: bytes) -> None:
        self.plan(job, clients, "A")
        self.bring(f"r{self.number}-{job}", clients, content)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), clients=subsets, content=st.binary(max_size=2))
    def record(self, data: st.DataObject, clients: list[str], content: bytes) -> None:
        self.bring(data.draw(st.sampled_from(self.jobs)), clients, content)

    def bring(self, job: str, clients: list[str], content: bytes) -> None:
        if self.attempt(self.run.record_update, job, content, [facts(client) for client in clients]):
            for client in clients:
                assert self.counted.setdefault((self.number, client), job) == job

    @precondition(lambda self: self.run.ledger.round(self.number) is not None)
    @rule(value=st.floats(0, 1))
    def checkpoint(self, value: float) -> None:
        self.attempt(self.run.save_checkpoint, self.number, model(value))

    @rule()
    def reopen_the_run(self) -> None:
        before = self.state()
        self.run.close()
        self.run = Run(self.run.path)
        assert self.state() == before

    @invariant()
    def what_was_accepted_is_counted_once_and_stays(self) -> None:
        found = {(each.round, each.client): each.job for each in self.run.ledger.updates(accepted=True)}
        assert found == self.counted
        assert len(self.run.ledger.updates(accepted=True)) == len(found)

    @invariant()
    def jobs_and_rounds_are_what_their_updates_and_checkpoints_say(self) -> None:
        ledger = self.run.ledger
        brought = set(self.counted.values())
        for job in ledger.jobs():
            assert (job.state in BROUGHT) == (job.id in brought)
            assert (job.state in (JobState.LATE, JobState.REJECTED, JobState.FAILED)) == bool(job.reason)
        checkpoints = {each.round for each in ledger.checkpoints()}
        for each in ledger.rounds():
            assert (each.state is RoundState.CHECKPOINTED) == (each.number in checkpoints)
            assert (each.ended is not None) == each.state.ended
        assert sum(not each.state.ended for each in ledger.rounds()) <= 1

    @invariant()
    def files_are_what_the_ledger_says(self) -> None:
        assert self.run.verify() == []


Verbs.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestVerbs = Verbs.TestCase

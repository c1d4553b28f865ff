"""A round's accepted updates become the next global model, in an order that nothing but their names decides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from devicelab.aggregation.update import ClientUpdate, PartialSum
from devicelab.plans.signature import Role
from devicelab.rounds.averaging import mean_of, rule_for, server_for
from devicelab.rounds.intake import open_tensors, updates_in
from devicelab.rounds.privacy import noisy_mean
from devicelab.rounds.setup import Setup
from devicelab.rounds.subtables import Subtables, rows_of
from devicelab.runner.messages import ClientResult
from devicelab.store.records import CheckpointRecord, UpdateRecord
from devicelab.store.run import Run

__all__ = ["next_model", "stored_updates"]

Model = dict[str, NDArray[Any]]


def next_model(
    run: Run, setup: Setup, subtables: Subtables, number: int, before: CheckpointRecord
) -> tuple[Model, Model]:
    """The model after a round and the server optimizer's memory.

    Updates are read from the disk one after the other: with a rule that streams, the memory is that of two
    models. The same updates give the same bytes, whoever came first; a private round's noise is drawn once.

    Args:
        run: The run; its accepted updates of the round are averaged.
        setup: The experiment and its plan.
        subtables: Knows which rows its devices were given.
        number: The round.
        before: The checkpoint that the round started from.

    Raises:
        RoundError: There are too few updates for the rule, or the result is not finite.
        StoreError: An update is missing or damaged.
    """
    config = setup.experiment.aggregation
    updates = stored_updates(run, setup, subtables, number)
    private = setup.experiment.privacy is not None
    mean = noisy_mean(run, setup, number, updates) if private else mean_of(rule_for(config), updates)
    optimized = [i.name for i in setup.plans.train.signature.with_role(Role.PARAMETER)]
    server = server_for(config, optimized)
    server.load_state(run.load_server_state(before))
    model = server.step(run.load_checkpoint(before), mean)
    return model, server.state()


def stored_updates(
    run: Run, setup: Setup, subtables: Subtables, number: int
) -> Iterator[ClientUpdate | PartialSum]:
    """A round's accepted updates: sums by the device's identity, single clients by their names."""
    combine = setup.experiment.combine
    accepted = run.ledger.updates(number, accepted=True)
    by_job: dict[str, list[UpdateRecord]] = {}
    for each in accepted:
        by_job.setdefault(each.job, []).append(each)
    jobs = {job.id: job for job in run.ledger.jobs(number)}
    signature = setup.plans.train.signature
    rows = {job: rows_of(signature, subtables.of_training(jobs[job].clients)) for job in by_job}
    found: list[tuple[str, str, UpdateRecord]] = []
    if combine == "sum":
        found = [(jobs[job].device, job, updates[0]) for job, updates in by_job.items()]
    else:
        found = [(each.client, each.job, each) for each in accepted]
    for _, job, update in sorted(found, key=lambda item: item[:2]):
        assert update.blob is not None  # it is accepted
        places = {client: index for index, client in enumerate(jobs[job].clients)}
        members = sorted(by_job[job], key=lambda each: places[each.client])
        results = [ClientResult(each.client, each.examples, 0, {}, weight=each.weight) for each in members]
        tensors = open_tensors(run.blobs.path(update.blob), device=update.device)
        for whole in updates_in(tensors, results, combine=combine, device=update.device, rows=rows[job]):
            if isinstance(whole, PartialSum) or whole.client == update.client:
                yield whole

"""Who is asked in a round, and whether enough of them have answered."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from devicelab.errors import RoundError
from devicelab.rounds.cohort import cohort_of
from devicelab.rounds.privacy import drawn_clients
from devicelab.rounds.setup import Setup
from devicelab.store.run import Run

__all__ = ["choose_cohort", "require_quorum"]


def choose_cohort(
    run: Run, setup: Setup, number: int, *, available: Collection[str], counted: Sequence[str]
) -> list[str]:
    """The clients of a round, in their order.

    Args:
        run: The run.
        setup: The experiment and its data.
        number: The round.
        available: Clients that can take part, those that are counted among them.
        counted: Clients whose updates the round has already, from an attempt that failed.
    """
    experiment = setup.experiment
    if experiment.privacy is not None:
        return [client for client in drawn_clients(run, setup, number) if client in available]
    clients = list(setup.shards.clients)
    size = experiment.round.clients.size(len(clients))
    cohort = cohort_of(clients, available, size, seed=experiment.seed, round_number=number)
    others = [client for client in cohort if client not in counted]
    return [*counted, *others][: max(size, len(counted))]


def require_quorum(run: Run, setup: Setup, number: int, serials: Mapping[str, str]) -> None:
    """See that a round has updates enough.

    Args:
        run: The run.
        setup: The experiment and its data.
        number: The round.
        serials: How devices are called, by identity.

    Raises:
        RoundError: It has not.
    """
    ledger, experiment = run.ledger, setup.experiment
    asked = len(ledger.cohort(number))
    if experiment.privacy is not None:
        asked = len(drawn_clients(run, setup, number))
        if not asked:
            return  # a round of nobody is to look like any other
    counted, quorum = len(ledger.updates(number, accepted=True)), experiment.round.quorum
    if counted == 0 or counted < quorum * asked:
        ends = [
            f"{serials.get(job.device, job.device)} {job.state}: {job.reason}"
            for job in ledger.jobs(number)
            if job.reason
        ]
        why = "; ".join(ends[-5:])
        raise RoundError(
            f"round {number} has the updates of {counted} of {asked} clients, "
            f"{quorum:.0%} are needed" + (f" ({why})" if why else ""),
            hint=f"the global model is as it was; try the round again with --resume --run {run.path.name}",
        )

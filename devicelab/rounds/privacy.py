"""What a private run does otherwise: a secret cohort, one noisy mean a round, and ε for what has left it.

**Who takes part** is drawn for every client by itself, from a secret that only the run's directory holds: with
the experiment's seed, which is public, everybody could tell who was in a round, and being drawn by chance
would protect nobody. A round keeps its draw whatever happens. One that fails is tried again with the same
clients, for a draw that is taken back until it suits is no fair draw. Who is drawn and does not deliver counts
as zero; where nobody is drawn at all, the round is noise.

**The noise** is drawn once a round from the system's random bytes and is never stored. Its sum with the deltas
is: on the disk and in the ledger before anybody sees it, and from then on it is all that the round's next
model is computed from, in this process or after a crash, whatever comes in later. So of each round one noisy
view leaves, never two. A crash before it is recorded has shown nobody anything, and the noise is drawn anew. A
seed for the noise would do as well until somebody copies the run's directory; then it would take the noise off
again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from devicelab.aggregation.accounting import epsilon_of
from devicelab.aggregation.noise import RandomBytes
from devicelab.aggregation.privacy import PrivateMean
from devicelab.aggregation.update import ClientUpdate, PartialSum
from devicelab.config import Experiment
from devicelab.config.training import PrivacyConfig
from devicelab.plans.signature import Signature
from devicelab.rounds.averaging import mean_of
from devicelab.rounds.cohort import drawn
from devicelab.rounds.intake import shared_layout
from devicelab.rounds.setup import Setup
from devicelab.store.run import Run

__all__ = ["drawn_clients", "noisy_mean", "private_rule"]

Mean = dict[str, NDArray[Any]]


def drawn_clients(run: Run, setup: Setup, number: int) -> list[str]:
    """Whom a private round has drawn, whether they are there or not; always the same for the same round.

    Raises:
        StoreError: The run's secret cannot be read.
    """
    chance = _chance(setup.experiment)
    return drawn(setup.shards.clients, chance, secret=run.secret(), round_number=number)


def private_rule(
    experiment: Experiment, signature: Signature, clients: int, *, random: RandomBytes = os.urandom
) -> PrivateMean:
    """A new rule for one private round.

    Args:
        experiment: With privacy.
        signature: Of the training plan.
        clients: How many there are in all.
        random: Where the noise comes from.
    """
    privacy, clip_norm = _facts(experiment)
    return PrivateMean(
        shared_layout(signature),
        clip_norm=clip_norm,
        noise_multiplier=privacy.noise_multiplier,
        expected=_chance(experiment) * clients,
        random=random,
    )


def noisy_mean(run: Run, setup: Setup, number: int, updates: Iterable[ClientUpdate | PartialSum]) -> Mean:
    """The mean of a private round: the one that was made, else one that is made and recorded now.

    Args:
        run: The run.
        setup: The experiment and its plan.
        number: The round.
        updates: Its accepted updates; not looked at if there is a mean already.

    Raises:
        RoundError: The mean is not finite.
        StoreError: It cannot be kept, or is damaged.
    """
    known = run.ledger.release(number)
    if known is not None:
        return run.load_release(known)
    experiment, clients = setup.experiment, len(setup.shards.clients)
    privacy, clip_norm = _facts(experiment)
    rule = private_rule(experiment, setup.plans.train.signature, clients)
    sampling = _chance(experiment)
    epsilon = epsilon_of(
        sampling=sampling,
        noise_multiplier=privacy.noise_multiplier,
        rounds=len(run.ledger.releases()) + 1,
        delta=privacy.delta,
    )
    mean = mean_of(rule, updates)
    run.record_release(
        number,
        mean,
        sampling=sampling,
        expected=sampling * clients,
        clip_norm=clip_norm,
        noise_multiplier=privacy.noise_multiplier,
        delta=privacy.delta,
        epsilon=epsilon,
    )
    return mean


def _facts(experiment: Experiment) -> tuple[PrivacyConfig, float]:
    privacy, clip_norm = experiment.privacy, experiment.round.clip_norm
    assert privacy is not None
    assert clip_norm is not None  # the experiment has been checked
    return privacy, clip_norm


def _chance(experiment: Experiment) -> float:
    chance = experiment.round.clients.chance
    assert chance is not None  # as above
    return chance

"""How private a run is: ε from what happened in its rounds, by Google's ``dp-accounting``.

The mechanism of a round is the Gaussian on a Poisson sample: every client takes part with probability q, by
itself and in secret. Rounds compose adaptively. The accountant follows the distribution of the privacy loss
itself (PLD: Koskela et al. 2020; Doroshenko et al. 2022, "Connect the dots"), which is tight up to its grid and
errs to the safe side. Two data sets are neighbours if one has all that the other has and one client's whole
shard more.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any, Final

from devicelab.errors import ConfigError

__all__ = ["epsilon_of", "require_accountant"]

_INTERVAL: Final = (
    1e-3  # of the privacy loss, over z; a tenth of it changes ε by a thousandth of itself at most
)


def require_accountant() -> None:
    """See that ε can be computed; nothing is loaded.

    Raises:
        ConfigError: The package is not installed.
    """
    if importlib.util.find_spec("dp_accounting") is None:
        raise ConfigError(
            "aggregation.privacy needs the package dp-accounting, which computes ε, and it is not installed",
            hint="install devicelab with its extra: pip install 'devicelab[privacy]'",
        )


def epsilon_of(*, sampling: float, noise_multiplier: float, rounds: int, delta: float) -> float:
    """ε of so many rounds; infinite where there is none for this δ.

    Args:
        sampling: q, the probability of each client to take part in a round, in (0, 1].
        noise_multiplier: z, the noise's standard deviation over the clip norm.
        rounds: How many noisy sums were made, at least 0.
        delta: δ, in (0, 1).

    Raises:
        ConfigError: The accountant is not installed.
    """
    if rounds == 0:
        return 0.0
    require_accountant()
    return float(_one_round(sampling, noise_multiplier).self_compose(rounds).get_epsilon_for_delta(delta))


@lru_cache(maxsize=4)
def _one_round(sampling: float, noise_multiplier: float) -> Any:  # noqa: ANN401 - the library has no types
    import dp_accounting  # noqa: PLC0415 - a second of imports, SciPy among them
    from dp_accounting.pld import privacy_loss_distribution as losses  # noqa: PLC0415

    return losses.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sampling,
        value_discretization_interval=_INTERVAL / noise_multiplier,
        pessimistic_estimate=True,
        neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    )

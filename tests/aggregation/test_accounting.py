from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from devicelab.aggregation.accounting import epsilon_of, require_accountant
from devicelab.errors import ConfigError


def epsilon(q: float, z: float, rounds: int, delta: float = 1e-5) -> float:
    return epsilon_of(sampling=q, noise_multiplier=z, rounds=rounds, delta=delta)


@pytest.mark.parametrize(
    ("q", "z", "rounds", "published"),
    [
        (0.01, 4.0, 10_000, 1.26),  # Abadi et al. 2016, "Deep learning with differential privacy", section 3.2
        (256 / 60_000, 1.3, 15 * 60_000 // 256, 1.19),  # the tutorials of TensorFlow Privacy
        (256 / 60_000, 1.1, 60 * 60_000 // 256, 3.01),
        (256 / 60_000, 0.7, 45 * 60_000 // 256, 7.10),
    ],
)
def test_a_little_below_what_was_published_with_looser_accountants(
    q: float, z: float, rounds: int, published: float
) -> None:
    assert 0.7 * published < epsilon(q, z, rounds) < published


@pytest.mark.parametrize(("z", "rounds"), [(1.0, 1), (5.0, 1), (4.0, 50), (100.0, 300)])
def test_without_sampling_it_is_the_gaussian_mechanisms(z: float, rounds: int) -> None:
    """Balle & Wang 2018, "Improving the Gaussian mechanism", theorem 8; T rounds are one of noise z/√T."""
    s = z / math.sqrt(rounds)

    def excess(eps: float) -> float:
        log_second = eps + float(stats.norm.logcdf(-1 / (2 * s) - eps * s))
        return float(stats.norm.cdf(1 / (2 * s) - eps * s)) - math.exp(log_second) - 1e-5

    exact = optimize.brentq(excess, 1e-6, 200)
    assert exact * (1 - 1e-9) <= epsilon(1.0, z, rounds) <= exact * 1.005


@pytest.mark.parametrize(("q", "z"), [(0.1, 1.0), (0.5, 2.0), (0.01, 0.6)])
def test_one_sampled_round_is_what_integrating_gives(q: float, z: float) -> None:
    """The hockey-stick divergence of the mixture from the Gaussian, both ways round."""

    def delta_at(eps: float) -> float:
        x = np.linspace(-12 * z, 12 * z + 1, 200_001)
        p = stats.norm.pdf(x, 0, z)
        m = (1 - q) * p + q * stats.norm.pdf(x, 1, z)
        ways = (np.maximum(m - np.exp(eps) * p, 0), np.maximum(p - np.exp(eps) * m, 0))
        return max(float(integrate.trapezoid(way, x)) for way in ways)

    eps = epsilon(q, z, 1)
    assert delta_at(eps) <= 1e-5 * (1 + 1e-3)
    assert delta_at(eps * 0.995) > 1e-5


def test_it_grows_and_shrinks_as_it_should() -> None:
    usual = epsilon(0.1, 1.0, 30)
    assert epsilon(0.1, 1.0, 31) > usual
    assert epsilon(0.1, 1.1, 30) < usual
    assert epsilon(0.11, 1.0, 30) > usual
    assert epsilon(0.1, 1.0, 30, delta=1e-6) > usual
    assert epsilon(0.1, 1.0, 0) == 0


def test_without_the_accountant_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    require_accountant()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="dp-accounting") as caught:
        require_accountant()
    assert "devicelab[privacy]" in str(caught.value.hint)

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from devicelab.aggregation.norms import l2_norm
from devicelab.aggregation.privacy import PrivateMean
from devicelab.aggregation.update import Layout, PartialSum, Spec
from devicelab.errors import ConfigError, RoundError, UpdateError
from tests.aggregation.test_noise import repeatable
from tests.aggregation.updates import of, partial, same, update

SIZE = 100_000
LAYOUT: Layout = {"w": Spec("float32", (SIZE,))}


def silence(count: int) -> bytes:
    """Bytes of no noise: every radius is the root of the log of one."""
    return b"\xff" * (count // 2) + b"\x00" * (count - count // 2)


def mean_of(
    layout: Layout = LAYOUT,
    *,
    clip: float = 1.0,
    noise: float = 1.0,
    expected: float = 10.0,
    random: Any = silence,
) -> PrivateMean:
    return PrivateMean(layout, clip_norm=clip, noise_multiplier=noise, expected=expected, random=random)


def direction(seed: int, length: float, size: int = SIZE) -> NDArray[np.float32]:
    vector = np.random.default_rng(seed).standard_normal(size)
    return (vector * (length / np.linalg.norm(vector))).astype(np.float32)


def test_the_noise_is_normal_of_the_right_width_and_on_every_number() -> None:
    clip, noise, expected = 0.5, 1.7, 20.0
    rule = mean_of(clip=clip, noise=noise, expected=expected, random=repeatable(3))
    known = direction(1, 0.4)
    rule.add(update("a", known))
    found = rule.result()["w"] * expected - known
    deviation = noise * clip * 1.001
    assert stats.kstest(found / deviation, "norm").pvalue > 0.001
    assert found.std() == pytest.approx(deviation, rel=0.02)
    assert abs(np.corrcoef(found, known)[0, 1]) < 5 / np.sqrt(SIZE)


def test_the_sum_is_divided_by_who_was_expected_not_by_who_came() -> None:
    one, other = direction(1, 0.5), direction(2, 0.7)
    rule = mean_of()
    rule.add(update("a", one))
    rule.add(update("b", other))
    assert np.allclose(rule.result()["w"], (one + other) / 10, atol=1e-7)


def test_nobody_at_all_gives_noise() -> None:
    found = mean_of(random=repeatable(4)).result()["w"]
    assert found.std() == pytest.approx(0.1, rel=0.02)


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=6), st.floats(0.01, 100))
def test_a_client_more_or_less_moves_the_sum_by_the_clip_norm_at_most(
    lengths: list[float], clip: float
) -> None:
    layout = {"w": Spec("float32", (64,))}
    found = []
    for last in (0, 1):
        rule = mean_of(layout, clip=clip, expected=1.0)
        for place in range(len(lengths) - 1 + last):
            rule.add(update(str(place), direction(place, lengths[place], 64)))
        found.append(rule.result()["w"].astype(np.float64))
    # a thousandth is what the noise has to spare; float32 rounds the result, which is after the noise
    spare = clip * 1e-3 + len(lengths) * clip * 2**-23
    assert np.linalg.norm(found[1] - found[0]) <= clip + spare


def test_a_hostile_phone_does_no_more_than_its_clients_may() -> None:
    rule = mean_of(clip=2.0, expected=1.0)
    rule.add(update("honest", direction(1, 1.5)))
    rule.add_sum(PartialSum({"w": direction(2, 1e30)}, 3.0, 3, ("x", "y", "z"), "hostile"))
    left = {"w": rule.result()["w"] - direction(1, 1.5)}
    assert l2_norm(left) == pytest.approx(3 * 2.0, rel=1e-5)


def test_a_phones_sum_counts_as_its_clients_would() -> None:
    members = [update(str(n), direction(n, 0.3 + n / 10)) for n in range(4)]
    each, whole = mean_of(), mean_of()
    for member in members:
        each.add(member)
    whole.add_sum(partial(members))
    assert np.allclose(each.result()["w"], whole.result()["w"], atol=1e-7)


@pytest.mark.parametrize("weight", [0.5, 2.0, 100.0])
def test_a_client_counts_one(weight: float) -> None:
    rule = mean_of()
    with pytest.raises(UpdateError, match="each counts one"):
        rule.add(update("a", direction(1, 1.0), weight=weight))
    with pytest.raises(UpdateError, match="each counts one"):
        rule.add_sum(PartialSum({"w": direction(1, 1.0)}, 3.5, 4, ("a", "b"), "p"))


def test_what_does_not_fit_is_refused_and_leaves_no_trace() -> None:
    rule = mean_of()
    rule.add(update("a", direction(1, 1.0)))
    for bad in (
        update("b", np.full(SIZE, np.nan)),
        update("b", np.full(SIZE, np.inf)),
        update("b", direction(1, 1.0, 7)),
        update("b", direction(1, 1.0), dtype="float64"),
        of("b", {"v": direction(1, 1.0)}),
        update("a", direction(2, 1.0)),
    ):
        with pytest.raises(UpdateError):
            rule.add(bad)
    assert np.allclose(rule.result()["w"], direction(1, 1.0) / 10, atol=1e-7)


def test_every_result_has_a_noise_of_its_own() -> None:
    one, other = mean_of(random=os.urandom), mean_of(random=os.urandom)
    assert not same(one.result(), other.result())
    assert same(mean_of(random=repeatable(9)).result(), mean_of(random=repeatable(9)).result())


def test_what_comes_out_lies_on_a_grid_that_the_sum_does_not_move() -> None:
    """In double precision, so that nothing is rounded after the noise."""
    layout = {"w": Spec("float64", (SIZE,))}
    grid = 2.0**-36  # of the greatest power of two below a deviation of 1.001
    for value in (0.0, 1 / 3, 1e-9, 0.1):
        rule = mean_of(layout, expected=1.0, random=repeatable(5))
        rule.add(update("a", np.full(SIZE, value / SIZE**0.5), dtype="float64"))
        points = rule.result()["w"] / grid
        assert np.array_equal(points, np.rint(points))


def test_several_tensors_are_clipped_together_and_keep_their_shapes() -> None:
    layout = {"a": Spec("float32", (2, 3)), "b": Spec("float64", ()), "c": Spec("float32", (0,))}
    rule = mean_of(layout, expected=1.0)
    long = {"a": np.full((2, 3), 10, np.float32), "b": np.asarray(10.0), "c": np.zeros(0, np.float32)}
    rule.add(of("x", long))
    found = rule.result()
    assert {name: Spec(str(t.dtype), t.shape) for name, t in found.items()} == layout
    assert l2_norm(found) == pytest.approx(1.0, rel=1e-5)
    assert found["b"] == pytest.approx(1 / np.sqrt(7), rel=1e-5)


def test_numbers_that_make_no_sense_are_refused() -> None:
    for clip, noise, expected in ((0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, 0.0), (float("nan"), 1.0, 1.0)):
        with pytest.raises(ConfigError, match="positive"):
            mean_of(clip=clip, noise=noise, expected=expected)
    with pytest.raises(ConfigError, match="no tensor"):
        mean_of({})


def test_a_result_that_is_too_large_for_its_type_is_no_model() -> None:
    layout = {"w": Spec("float16", (8,))}
    with pytest.raises(RoundError, match="not finite"):
        mean_of(layout, clip=1e9, expected=1.0, random=repeatable(6)).result()

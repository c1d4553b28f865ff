"""The length of an update, and what is done about it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.aggregation.norms import check_norm, clip, l2_norm
from devicelab.aggregation.update import ClientUpdate
from devicelab.errors import ConfigError, UpdateError
from tests.aggregation.updates import of, random_updates, some_updates, update


def test_the_norm_is_over_all_tensors_together() -> None:
    assert l2_norm({"a": np.asarray([3, 0], np.float32), "b": np.asarray([[4.0]])}) == 5
    assert l2_norm({"a": np.zeros((0, 3), np.float32), "b": np.asarray(-2, np.float32)}) == 2


def test_the_norm_of_a_large_tensor_is_that_of_the_reference() -> None:
    tensors = random_updates(1, size=200_000)[0].delta
    whole = np.concatenate([t.ravel() for t in tensors.values()]).astype(np.float64)
    assert l2_norm(tensors) == pytest.approx(float(np.linalg.norm(whole)), rel=1e-14)


def test_the_norm_is_computed_in_double_precision() -> None:
    assert l2_norm({"a": np.full(4, 1e30, np.float32)}) == pytest.approx(2e30, rel=1e-6)
    assert l2_norm({"a": np.full(4, 1e-30, np.float32)}) == pytest.approx(2e-30, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_norm_that_is_not_finite_is_an_error(bad: float) -> None:
    broken = update("17", [1, bad])
    assert not math.isfinite(l2_norm(broken.delta))
    for function in (clip, check_norm):
        with pytest.raises(UpdateError, match="client 17 has a norm that is not finite"):
            function(broken, 1.0)
    with pytest.raises(UpdateError, match="not finite"):
        clip(of("x", {"a": np.asarray([1e200])}), 1.0)


def test_a_short_update_passes_as_it_is() -> None:
    short = update("1", [3, 4])
    result = clip(short, 5.0)
    assert result.update is short
    assert (result.norm, result.clipped) == (5.0, False)
    assert check_norm(short, 5.0) == 5.0


def test_a_long_update_keeps_its_direction_and_all_else() -> None:
    result = clip(update("1", [30, 40], weight=7), 5.0)
    assert (result.norm, result.clipped) == (50.0, True)
    np.testing.assert_allclose(result.update.delta["w"], [3, 4], rtol=1e-6)
    assert (result.update.weight, result.update.client, result.update.examples) == (7.0, "1", 7)
    with pytest.raises(UpdateError, match="norm 50, above the bound of 5"):
        check_norm(update("1", [30, 40]), 5.0)


def test_a_bound_far_below_the_smallest_float32_still_scales() -> None:
    result = clip(update("1", [3e30, 4e30]), 5e-10)
    np.testing.assert_allclose(result.update.delta["w"], [3e-10, 4e-10], rtol=1e-6)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_a_bound_is_a_positive_number(bound: float) -> None:
    for function in (clip, check_norm):
        with pytest.raises(ConfigError, match="positive number"):
            function(update("1", [1]), bound)


@given(some_updates(largest=1), st.floats(1e-3, 1e6))
def test_after_clipping_no_update_is_longer_than_the_bound(updates: list[ClientUpdate], bound: float) -> None:
    result = clip(updates[0], bound)
    norm = l2_norm(result.update.delta)
    assert norm <= bound * (1 + 1e-6)
    assert result.clipped == (result.norm > bound)
    if not result.clipped:
        assert norm == result.norm
    assert clip(result.update, bound * (1 + 1e-6)).update is result.update

"""Deadlines add up to one allowance, however many waits share them."""

from __future__ import annotations

import time

import pytest

from devicelab.deadline import Deadline
from devicelab.errors import DeadlineError


def test_remaining_shrinks_and_then_raises_naming_operation_and_device() -> None:
    deadline = Deadline("push of x", 0.05, "R58M")
    first = deadline.remaining()
    time.sleep(0.02)
    assert 0 < deadline.remaining() < first <= 0.05
    time.sleep(0.05)
    assert deadline.expired
    with pytest.raises(DeadlineError, match=r"^R58M: push of x: no end within 0\.05 s$") as caught:
        deadline.remaining()
    assert caught.value.exit_code == 7
    assert caught.value.seconds == 0.05


def test_a_part_never_outlives_the_whole() -> None:
    whole = Deadline("round", 0.2)
    assert whole.within("hello", 60.0, device="A").remaining() <= 0.2
    assert whole.within("hello", 0.01).remaining() <= 0.01
    assert whole.within("hello", 1, device="A").device == "A"


def test_capped_is_bounded_by_both() -> None:
    assert Deadline("x", 10).capped(0.5) == 0.5
    assert Deadline("x", 0.1).capped(5) <= 0.1

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from devicelab.deadline import Deadline
from devicelab.errors import DeadlineError
from devicelab.rounds.lanes import Lanes, _hub


def _soon() -> Deadline:
    return Deadline("turn", 20.0)


def _most_at_once(lanes: Lanes, serials: list[str], together: int) -> int:
    """How many hold a lane at a time, when all want one and each waits for ``together`` to have theirs."""
    lock, full = threading.Lock(), threading.Event()
    holding = most = 0

    def work(serial: str) -> None:
        nonlocal holding, most
        with lanes.turn(serial, _soon()):
            with lock:
                holding += 1
                most = max(most, holding)
                if holding >= together:
                    full.set()
            assert full.wait(20)
            with lock:
                holding -= 1

    threads = [threading.Thread(target=work, args=(serial,)) for serial in serials]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    return most


def test_phones_on_one_hub_take_turns() -> None:
    hubs = dict.fromkeys(["a", "b", "c", "d", "e"], "1-1")
    assert _most_at_once(Lanes(hubs.get, per_hub=2), list(hubs), together=2) == 2


def test_a_hub_may_have_a_limit_of_its_own() -> None:
    hubs = dict.fromkeys(["a", "b", "c"], "1-1")
    assert _most_at_once(Lanes(hubs.get, per_hub=1, limits={"1-1": 3}), list(hubs), together=3) == 3


def test_phones_without_a_hub_are_bound_by_the_host_alone() -> None:
    serials = [f"127.0.0.1:{n}" for n in range(9)]
    assert _most_at_once(Lanes(per_hub=1, overall=3), serials, together=3) == 3


def test_a_wait_ends_at_its_deadline_or_when_it_has_no_point() -> None:
    lanes = Lanes(overall=1)

    def pointless() -> None:
        raise InterruptedError

    refusals: list[tuple[Callable[[], object], type[BaseException]]] = [
        (lambda: None, DeadlineError),
        (pointless, InterruptedError),
    ]
    with lanes.turn("a", _soon()):
        for check, error in refusals:
            with pytest.raises(error), lanes.turn("b", Deadline("turn", 0.5), check):
                pass
    with lanes.turn("b", _soon()):
        pass


def test_the_hub_of_a_port() -> None:
    assert [_hub(port) for port in ("1-1.4", "1-1.4.2", "2-3", "1-1")] == ["1-1", "1-1.4", "2", "1"]

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from devicelab.virtual.spare import Spare


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_what_is_kept_can_be_taken_once(pair: tuple[socket.socket, socket.socket]) -> None:
    spare = Spare()
    assert spare.take() is None
    spare.keep(pair[0])
    assert spare.take() is pair[0]
    assert pair[0].gettimeout() is None
    assert spare.take() is None


def test_what_adbd_has_ended_is_of_no_use(pair: tuple[socket.socket, socket.socket]) -> None:
    spare = Spare()
    spare.keep(pair[0])
    pair[1].close()
    assert spare.take() is None
    assert pair[0].fileno() == -1


def test_dropped_and_replaced_ones_are_ended(pair: tuple[socket.socket, socket.socket]) -> None:
    spare = Spare()
    for sock in pair:
        spare.keep(sock)
    assert pair[0].fileno() == -1
    spare.drop()
    spare.drop()
    assert pair[1].fileno() == -1

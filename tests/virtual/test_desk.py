from __future__ import annotations

import socket

from devicelab.virtual.desk import VirtualDesk
from tests.phones import desk, image

__all__ = ["desk", "image"]


def test_phones_come_up_are_listed_and_go_down(desk: VirtualDesk) -> None:
    phones = desk.up(["pixel", "pixel"])

    assert [phone.name for phone in phones] == ["pixel-1", "pixel-2"]
    assert desk.list() == sorted(phones, key=lambda phone: phone.port)
    for phone in phones:
        socket.create_connection(("127.0.0.1", phone.port), 5).close()
        assert phone.status()["power"] == "on"

    assert desk.down(["pixel-1"]) == ["pixel-1"]
    assert [phone.name for phone in desk.list()] == ["pixel-2"]
    assert desk.down() == ["pixel-2"]
    assert [path for path in desk.directory.iterdir() if path.is_dir()] == []

"""Who may send now: phones on one USB hub share its cable, and all share this host.

A full hub carries more transfers no faster, and cheap ones drop phones under such load. So bulk transfers take
turns; commands, which are small, never wait.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from devicelab.adb.usbfs import usb_phones
from devicelab.deadline import Deadline

__all__ = ["Lanes", "usb_hubs"]

_PER_HUB = 4
_OVERALL = 8
_LOOK_UP = 0.2  # seconds between two looks at whether the wait is still wanted


def usb_hubs() -> dict[str, str]:
    """The hub of each phone on this host's USB, by ADB serial. Empty where the kernel does not tell (macOS)."""
    return {phone.serial: _hub(phone.name) for phone in usb_phones() if phone.serial}


def _hub(port: str) -> str:
    """``1-1.4`` is port 4 of hub ``1-1``; ``1-1`` is port 1 of bus 1's own hub."""
    hub, dot, _ = port.rpartition(".")
    return hub if dot else port.partition("-")[0]


class Lanes:
    """Turns for bulk transfers.

    Args:
        hub_of: Says the hub of a phone, by its ADB serial; one without a hub (on TCP) has a cable of its own.
        per_hub: How many phones on one hub may transfer at a time.
        limits: The same number for single hubs.
        overall: How many phones may in all.
    """

    def __init__(
        self,
        hub_of: Callable[[str], str | None] = lambda _: None,
        *,
        per_hub: int = _PER_HUB,
        limits: Mapping[str, int] | None = None,
        overall: int = _OVERALL,
    ) -> None:
        self._hub_of = hub_of
        self._per_hub = per_hub
        self._limits = dict(limits or {})
        self._overall = overall
        self._busy: defaultdict[str, int] = defaultdict(int)
        self._total = 0
        self._changed = threading.Condition()

    @contextmanager
    def turn(
        self, serial: str, deadline: Deadline, check: Callable[[], object] = lambda: None
    ) -> Iterator[None]:
        """Hold a lane; not to be nested.

        Args:
            serial: Of which phone.
            deadline: For the wait.
            check: Called now and then while waiting; raises if there is no point in it any more.

        Raises:
            DeadlineError: No turn came in time.
        """
        hub = self._hub_of(serial)
        with self._changed:
            while not self._free(hub):
                self._changed.wait(deadline.capped(_LOOK_UP))
                check()
            self._count(hub, 1)
        try:
            yield
        finally:
            with self._changed:
                self._count(hub, -1)
                self._changed.notify_all()

    def _free(self, hub: str | None) -> bool:
        if self._total >= self._overall:
            return False
        return hub is None or self._busy[hub] < self._limits.get(hub, self._per_hub)

    def _count(self, hub: str | None, change: int) -> None:
        self._total += change
        if hub is not None:
            self._busy[hub] += change

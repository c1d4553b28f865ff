"""What packets travel on, as :mod:`devicelab.adb.multiplex` sees it: a TCP socket or two USB endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Link"]


class Link(Protocol):
    """One byte pipe to one phone. One thread reads while another writes; shut_down() from any thread.

    Everything that fails raises :class:`OSError` with words for people; that the phone has closed its end is a
    :class:`ConnectionError`, that a time limit is over a :class:`TimeoutError`.
    """

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes:
        """Wait for bytes.

        Args:
            numbytes: How many are wanted.
            transport_timeout_s: How long to wait for the first of them, which may then come alone. None:
                wait as long as it takes for all of them.
        """
        ...

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        """Send all of ``data`` and return its length."""
        ...

    def send(self, parts: Sequence[memoryview], timeout: float) -> int:
        """Send the beginning of one packet, header and payload, as much as goes out before anything blocks.

        Args:
            parts: What is left of the packet, in order, without empty ones.
            timeout: Seconds to wait until anything can be sent; 0 does not wait.

        Returns:
            How many bytes went out: 0 if the time is over.
        """
        ...

    def shut_down(self) -> None:
        """Wake whoever waits on it, for good; may be called twice.

        The file descriptor stays: closing it under another thread's feet could hand that thread somebody
        else's file of the same number.
        """
        ...

    def close(self) -> None:
        """Let go of it, once nobody waits on it any more; may be called twice."""
        ...

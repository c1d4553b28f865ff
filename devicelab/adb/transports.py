"""Which way to reach phones: through the adb server if there can be one, directly otherwise."""

from __future__ import annotations

from typing import Literal

from devicelab.adb.connection import Transport
from devicelab.adb.program import find_adb
from devicelab.deadline import Deadline
from devicelab.errors import AdbUnavailableError

__all__ = ["TransportChoice", "open_transport"]

TransportChoice = Literal["auto", "server", "direct"]


def open_transport(name: TransportChoice, deadline: Deadline) -> Transport:
    """Open a transport; its ``description`` says which it is.

    Args:
        name: ``server`` uses the adb server that runs, or starts one. ``direct`` needs no adb at all, but
            phones on USB are only free for it where no server holds them. ``auto`` is ``server`` where one runs
            or an adb program can start one, and ``direct`` elsewhere.
        deadline: For finding, and perhaps starting, the server.

    Raises:
        AdbUnavailableError: ``server``: there is none and it cannot be started. ``auto``: there is an adb
            program, but it does not start one.
        DeadlineError: Something listens where the server should, but is silent.
        ConfigError: An environment variable names no server address, or ``$ADB`` no program.
    """
    if name == "direct":
        return _direct()
    try:
        from devicelab.adb.server import ServerTransport  # noqa: PLC0415 - only where it is used

        return ServerTransport.start(deadline=deadline)
    except AdbUnavailableError:
        if name == "server" or find_adb() is not None:
            raise
    return _direct()


def _direct() -> Transport:
    from devicelab.adb.direct import DirectTransport  # noqa: PLC0415 - loads all of USB and cryptography

    return DirectTransport()

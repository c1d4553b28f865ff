"""The stream on which a job was started, kept open: it tells at once that the job has ended, and how.

It is a convenience. Whoever has no such stream, because the cable was pulled or another process started the
job, asks the phone now and then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

from devicelab.adb.shell import Channel, ShellProcess, ShellResult
from devicelab.closing import Closing
from devicelab.deadline import Deadline
from devicelab.devices.device import Device
from devicelab.errors import DeviceLostError, OutputLimitError, ProtocolError
from devicelab.runner.launch import BLOCK, MOST, STARTED, Look, parse_look

__all__ = ["Bell", "launch"]

_WORDS: Final = 64 << 10  # bytes that a launcher may say of itself


class Bell(Closing):
    """A launcher that waits for its job.

    Args:
        process: The launcher.
        said: What it has printed after :data:`STARTED`.
        device: Whose.
    """

    def __init__(self, process: ShellProcess, said: bytes, *, device: str) -> None:
        self._process = process
        self._device = device
        self._said = bytearray(said)

    def wait(self, deadline: Deadline) -> Look | None:
        """Wait for the job's end.

        Returns:
            How it ended, with all of its output; None if the deadline is over before.

        Raises:
            DeviceError: The launcher is gone, or does not say how its job ended: the phone is to be asked.
        """
        if not self._process.gather(self._said, deadline, limit=MOST + _WORDS):
            return None
        look = parse_look(bytes(self._said), 0)
        if look is None or look.code is None or len(look.log) >= MOST - BLOCK:
            raise ProtocolError("the launcher ended without all of its word", device=self._device)
        return look

    def close(self) -> None:
        """Let go of it; the job goes on."""
        self._process.leave()


def launch(device: Device, command: Sequence[str], deadline: Deadline) -> Bell | ShellResult:
    """Start a job by its launcher (:func:`devicelab.runner.launch.detached_command`).

    Returns:
        The bell if the job was started, else what the launcher said instead.

    Raises:
        DeviceLostError, DeadlineError, ProtocolError: As everywhere.
    """
    connection = device.connection(deadline)
    printed = {Channel.STDOUT: bytearray(), Channel.STDERR: bytearray()}
    with contextlib.ExitStack() as stack:
        try:
            process = stack.enter_context(ShellProcess(connection, command, deadline=deadline))
            for channel, piece in process.output(deadline):
                printed[channel] += piece
                word, newline, rest = bytes(printed[Channel.STDOUT]).partition(b"\n")
                if newline and word == STARTED:
                    stack.pop_all()
                    return Bell(process, rest, device=device.serial)
                if sum(map(len, printed.values())) > _WORDS:
                    raise OutputLimitError(f"a launcher printed more than {_WORDS} bytes", device=device.serial)
            code = process.wait(deadline)
        except (DeviceLostError, ProtocolError):
            device.drop(connection)
            raise
    return ShellResult(tuple(command), code, *map(bytes, printed.values()))

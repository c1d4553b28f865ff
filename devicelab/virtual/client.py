"""A running virtual phone as tests, notebooks and the command line see it: where it is, and its faults."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from devicelab.deadline import Deadline
from devicelab.errors import VirtualPhoneError
from devicelab.virtual.body import BodyKind
from devicelab.virtual.keeper import CONTROL, PHONE

__all__ = ["Answer", "VirtualPhone"]

Answer = Literal["allow", "always", "deny"]
_SECONDS = 30.0  # a boot is the slowest thing that a keeper does before it answers


@dataclass(frozen=True, slots=True)
class VirtualPhone:
    """One phone that runs. Every method raises VirtualPhoneError if the phone cannot do it or is gone.

    Attributes:
        name: Its name on this desk: ``pixel-1``.
        profile: The profile's name.
        serial: Its ``ro.serialno``.
        port: Where it listens on 127.0.0.1.
        body: What it runs in.
        limits: What that body cannot imitate; empty for namespaces.
        pid: Its keeper's process.
        directory: Its directory on the host, with ``keeper.log`` and ``adbd.log``.
    """

    name: str
    profile: str
    serial: str
    port: int
    body: BodyKind
    limits: tuple[str, ...]
    pid: int
    directory: Path

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The phone that a directory belongs to.

        Raises:
            VirtualPhoneError: It holds none.
        """
        try:
            facts = json.loads((directory / PHONE).read_text(encoding="utf-8"))
            return cls(
                name=facts["name"],
                profile=facts["profile"],
                serial=facts["serial"],
                port=facts["port"],
                body=facts["body"],
                limits=tuple(facts["limits"]),
                pid=facts["pid"],
                directory=directory,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VirtualPhoneError(f"{directory} holds no running phone that can be read: {error}") from error

    @property
    def address(self) -> str:
        """``127.0.0.1:port``: what adb connects to, and its ADB serial."""
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """Battery out: every process is gone at once, the port refuses connections, the data stays."""
        self.ask("kill")

    def start(self) -> None:
        """Boot again after :meth:`kill`."""
        self.ask("start")

    def reboot(self, seconds: float) -> None:
        """Go down now and boot again after some seconds."""
        self.ask("reboot", seconds)

    def freeze(self) -> None:
        """Stop every process: connections are accepted and nothing ever answers."""
        self.ask("freeze")

    def thaw(self) -> None:
        """Undo :meth:`freeze`."""
        self.ask("thaw")

    def unplug(self) -> None:
        """Pull the cable: open connections end, new ones are refused; the phone runs on."""
        self.ask("unplug")

    def replug(self) -> None:
        """Put the cable back, at the same address."""
        self.ask("replug")

    def set_disk(self, size: int) -> None:
        """Make the data partition so many bytes large, but never smaller than what is in use."""
        self.ask("disk", size)

    def fill(self, free: int) -> None:
        """Leave so many bytes free on the data partition."""
        self.ask("fill", free)

    def set_link(self, bytes_per_second: float | None, latency: float = 0.0) -> None:
        """Make the cable slow: a rate per direction (None: no limit), and seconds of delay each way."""
        self.ask("link", {"bytes_per_second": bytes_per_second, "latency": latency})

    def authorize(self, answer: Answer) -> None:
        """Answer "Allow USB debugging?" on the phone's screen; it is asked once a host has connected.

        ``always`` remembers the host's key, ``allow`` lets it in until the connection ends.
        """
        self.ask("authorize", answer)

    def set_battery(self, level: float | Sequence[tuple[float, float]]) -> None:
        """Set the battery's level in percent, or let it follow a curve: points (seconds from now, percent)."""
        self.ask("battery", level)

    def set_temperature(self, celsius: float | Sequence[tuple[float, float]]) -> None:
        """Set the battery's temperature, or let it follow a curve: points (seconds from now, degrees)."""
        self.ask("temperature", celsius)

    def set_thermal_status(self, status: int) -> None:
        """Set the thermal service's status: 0 none, 1 light, 2 moderate, 3 severe … 6 shutdown."""
        self.ask("thermal", status)

    def status(self) -> dict[str, Any]:
        """How it is now: power (on, off, frozen), plugged, connections, boot_id, link and battery."""
        result = self.ask("status")
        if not isinstance(result, dict):
            raise self._error(f"its keeper answered {result!r}")
        return result

    def ask(self, command: str, value: object = None) -> object:
        """One request to the keeper and its answer."""
        deadline = Deadline(f"{command} of a virtual phone", _SECONDS, self.name)
        request = json.dumps({"command": command, "value": value}).encode() + b"\n"
        try:
            reply = _exchange(self.directory, request, deadline)
        except TimeoutError as error:
            raise deadline.error() from error
        except OSError as error:
            raise self._error(f"its keeper does not answer: {error.strerror or error}") from error
        try:
            answer = json.loads(reply)
        except ValueError as error:
            raise self._error(f"its keeper ended during `{command}`") from error
        if "error" in answer:
            raise self._error(answer["error"], answer.get("hint"))
        return answer["result"]

    def _error(self, message: str, hint: str | None = None) -> VirtualPhoneError:
        return VirtualPhoneError(message, device=self.name, hint=hint or f"see {self.directory}/keeper.log")


def _exchange(directory: Path, request: bytes, deadline: Deadline) -> bytes:
    """Send a request to the control socket of a directory, whose path may be longer than a socket's may."""
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(deadline.remaining())
            sock.connect(f"/proc/self/fd/{folder}/{CONTROL}")
            sock.sendall(request)
            reply = bytearray()
            while not reply.endswith(b"\n"):
                sock.settimeout(deadline.remaining())
                data = sock.recv(1 << 16)
                if not data:
                    break
                reply += data
            return bytes(reply)
    finally:
        os.close(folder)

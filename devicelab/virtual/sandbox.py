"""The full body: adbd in user, mount, process, network, UTS and IPC namespaces of its own, without root."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path

from devicelab.deadline import Deadline
from devicelab.errors import VirtualPhoneError
from devicelab.virtual import holder
from devicelab.virtual.body import BodyKind
from devicelab.virtual.inside import Hook
from devicelab.virtual.spare import Spare
from devicelab.virtual.spec import BodySpec

__all__ = ["NamespaceBody"]

ADBD_PORT = 5555  # in the phone's own network
_CHANNEL_SECONDS = 10.0  # a request to the holder takes microseconds; this only catches a stopped one


_EMULATED = ("its programs are emulated by qemu: several times slower, and /proc/cpuinfo is qemu's",)


class _GoneError(VirtualPhoneError):
    """The holder has ended, and the phone's namespaces and data with it."""


class NamespaceBody:
    """Debian's adbd, unmodified, as uid 2000 in a phone made of namespaces.

    Made in a process with one thread, by the thread that stays (see :func:`devicelab.virtual.holder.start`).

    Args:
        spec: The phone.
        hook: Called at each boot with the phone's root directory while the host's files can still be seen.

    Raises:
        VirtualPhoneError: The kernel refuses; see :func:`devicelab.virtual.probe.namespaces_problem`.
    """

    kind: BodyKind = "namespaces"

    def __init__(self, spec: BodySpec, hook: Hook | None = None) -> None:
        self._spec = spec
        self.limits: tuple[str, ...] = () if spec.emulator is None else _EMULATED
        self._lock = threading.Lock()
        self._spare = Spare()
        (spec.directory / "body" / "root").mkdir(parents=True, exist_ok=True)
        try:
            self._holder = holder.start(spec, hook)
        except (OSError, EOFError) as error:
            raise self._error(
                f"cannot make its namespaces: {error if str(error) else 'a process died'}"
            ) from error
        self._closed = False
        try:
            self._ask({"setup": True})
        except BaseException:
            self.close()
            raise

    def boot(self, deadline: Deadline) -> None:
        """Start init and adbd, and wait until adbd accepts connections."""
        if self.alive():
            raise self._error("it is already running")
        begin = self._log_size()
        self._ask({"boot": True})
        while True:
            try:
                self._spare.keep(self._connect(deadline))
            except ConnectionError:
                if not self.alive():
                    said = self._log_since(begin)
                    raise self._error(f"adbd did not start: {said or 'it said nothing'}") from None
                time.sleep(deadline.capped(0.01))
            else:
                return

    def alive(self) -> bool:
        """Whether the phone's init runs, and so, but for a moment after a crash, adbd."""
        try:
            return bool(self._ask({"alive": True})[0]["alive"])
        except _GoneError:
            return False

    def connect(self, deadline: Deadline) -> socket.socket:
        """A connection to adbd on which nothing has been said."""
        return self._spare.take() or self._connect(deadline)

    def _connect(self, deadline: Deadline) -> socket.socket:
        """A new one: a socket made inside the phone's network, connected from here."""
        try:
            fd = self._ask({"socket": True})[1]
        except VirtualPhoneError as error:
            raise ConnectionRefusedError(str(error)) from error
        if fd is None:
            raise ConnectionRefusedError("the phone handed out no socket")
        sock = socket.socket(fileno=fd)
        try:
            sock.settimeout(deadline.remaining())
            sock.connect(("127.0.0.1", ADBD_PORT))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except TimeoutError as error:
            sock.close()
            raise deadline.error() from error
        except BaseException:
            sock.close()
            raise
        return sock

    def kill(self) -> None:
        """SIGKILL everything in the phone and wait until it is gone."""
        self._spare.drop()
        with contextlib.suppress(_GoneError):  # then so is everything else
            self._ask({"kill": True})

    def freeze(self) -> None:
        """SIGSTOP every process in the phone."""
        self._ask({"signal": int(signal.SIGSTOP)})

    def thaw(self) -> None:
        """SIGCONT every process in the phone."""
        self._ask({"signal": int(signal.SIGCONT)})

    def set_disk(self, size: int) -> None:
        """Change the data partition's size at once, to no less than what is in use."""
        in_use = self.disk_usage()[1]
        self._ask({"resize": max(size, in_use, os.sysconf("SC_PAGE_SIZE"))})

    def disk_usage(self) -> tuple[int, int]:
        """Bytes on the data partition: in all and in use."""
        answer, _ = self._ask({"usage": True})
        return int(str(answer["size"])), int(str(answer["used"]))

    def close(self) -> None:
        """Kill the holder and with it everything in the phone."""
        if self._closed:
            return
        self._closed = True
        self._spare.drop()
        self._holder.end()

    def _ask(self, request: dict[str, object]) -> tuple[dict[str, object], int | None]:
        """One request to the holder, from any thread.

        Raises:
            VirtualPhoneError: It says why it cannot, or it is gone.
        """
        what = next(iter(request))
        if self._closed:
            raise _GoneError(f"cannot {what}: it is closed", device=self._spec.name)
        channel = self._holder.channel
        try:
            with self._lock:
                channel.sock.settimeout(_CHANNEL_SECONDS)
                channel.send(request)
                answer, fd = channel.receive()
        except (OSError, EOFError) as error:
            message = f"cannot {what}: its process {self._holder.pid}, which holds the rest, is gone"
            hint = "take it down and bring it up again"
            raise _GoneError(message, device=self._spec.name, hint=hint) from error
        if "error" in answer:
            raise self._error(f"cannot {what}: {answer['error']}")
        return answer, fd

    def _error(self, message: str) -> VirtualPhoneError:
        return VirtualPhoneError(message, device=self._spec.name)

    def _log_size(self) -> int:
        return self._spec.log.stat().st_size if self._spec.log.exists() else 0

    def _log_since(self, begin: int) -> str:
        """The end of what adbd has printed since, in one line."""
        with Path(self._spec.log).open("rb") as file:
            file.seek(begin)
            return " / ".join(file.read().decode("utf-8", "replace").split("\n")[-4:]).strip(" /")

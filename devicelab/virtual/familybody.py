"""What the bodies without namespaces share: a first process that keeps the phone's processes together."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from devicelab.deadline import Deadline
from devicelab.errors import VirtualPhoneError
from devicelab.files import host_error
from devicelab.virtual import family
from devicelab.virtual.body import BodyKind
from devicelab.virtual.ownpython import module_environment
from devicelab.virtual.registry import LOCK
from devicelab.virtual.spare import Spare
from devicelab.virtual.spec import BodySpec
from devicelab.virtual.trees import remove_tree
from devicelab.virtual.unixsocket import connect_to

__all__ = ["FamilyBody"]

_END_SECONDS = 20.0
_SIGNAL_SECONDS = 10.0


def _target(link: Path) -> Path | None:
    try:
        return link.readlink()
    except FileNotFoundError:  # the descriptor of the very listing
        return None


class FamilyBody(ABC):
    """A phone whose processes are a family (:mod:`devicelab.virtual.family`) and whose adbd has a Unix socket.

    Not a TCP port: only this user can reach it, and only through the relay's.

    Args:
        spec: The phone.
    """

    kind: BodyKind
    limits: ClassVar[tuple[str, ...]]

    def __init__(self, spec: BodySpec) -> None:
        self._spec = spec
        self._directory = spec.directory / "body"
        self._process: subprocess.Popen[bytes] | None = None
        self._spare = Spare()
        self._directory.mkdir(mode=0o700, exist_ok=True)

    @property
    def socket_path(self) -> Path:
        """Where adbd listens."""
        return self._directory / "adbd.sock"

    @abstractmethod
    def _prepare(self) -> None:
        """Lay out what the next boot needs; /data is kept.

        Raises:
            OSError: The disk is full, …
        """

    @abstractmethod
    def _command(self) -> Sequence[str | Path]:
        """The first process: it makes :attr:`socket_path` and calls :func:`devicelab.virtual.family.tend`."""

    def boot(self, deadline: Deadline) -> None:
        """Start the first process and wait until adbd accepts connections."""
        if self.alive():
            raise self._error("it is already running")
        self.kill()  # bury a phone that ended by itself
        try:
            self.socket_path.unlink(missing_ok=True)
            self._prepare()
            with self._spec.log.open("ab") as log:
                begin = log.tell()
                self._process = subprocess.Popen(
                    self._command(),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd=self._directory,
                    env=module_environment(),
                    start_new_session=True,
                    pass_fds=self._locks(),
                )
        except OSError as error:
            raise host_error("cannot start it", error) from error
        try:
            self._await_adbd(begin, deadline)
        except BaseException:
            self.kill()
            raise

    def _await_adbd(self, begin: int, deadline: Deadline) -> None:
        while True:
            try:
                self._spare.keep(connect_to(self.socket_path, deadline))
            except ConnectionError:
                if not self.alive():
                    raise self._error(f"adbd did not start: {self._log_since(begin)}") from None
                time.sleep(deadline.capped(0.01))
            else:
                return

    def alive(self) -> bool:
        """Whether the first process runs; it does for as long as adbd does."""
        return self._process is not None and self._process.poll() is None

    def connect(self, deadline: Deadline) -> socket.socket:
        """A connection to adbd on which nothing has been said."""
        return self._spare.take() or connect_to(self.socket_path, deadline)

    def kill(self) -> None:
        """Let go of the first process, which then kills everything in the phone and ends."""
        self._spare.drop()
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            raise self._error(f"its first process {process.pid} does not end") from None
        self._process = None

    def freeze(self) -> None:
        """SIGSTOP everything in the phone but its first process, which must notice the keeper's end."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT what was stopped."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End the phone and remove its files."""
        self.kill()
        remove_tree(self._directory)

    def _locks(self) -> list[int]:
        """Our descriptors of the phone's lock: its directory is owned for as long as the first process is."""
        path = self._spec.directory / LOCK
        return [int(entry.name) for entry in Path("/proc/self/fd").iterdir() if _target(entry) == path]

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.alive():
            deadline = Deadline(f"{number.name} to all its processes", _SIGNAL_SECONDS, self._spec.name)
            family.signal_all(self._process.pid, number, deadline)

    def _error(self, message: str) -> VirtualPhoneError:
        return VirtualPhoneError(message, device=self._spec.name)

    def _log_since(self, begin: int) -> str:
        """The end of what the phone's processes have printed since, in one line."""
        with self._spec.log.open("rb") as file:
            file.seek(begin)
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
        return " / ".join(lines[-4:]) or "it said nothing"

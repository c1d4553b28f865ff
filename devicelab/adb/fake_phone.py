"""What a fake phone is: its files, its commands' answers, and what may happen to it."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event

from devicelab.adb.connection import EndpointState

__all__ = ["FEATURES", "OLD_FEATURES", "Answer", "FakePhone", "FakeResult", "Shell"]

FEATURES = frozenset({"shell_v2", "cmd", "stat_v2", "ls_v2", "fixed_push_mkdir", "apex", "sendrecv_v2"})
"""What an Android of today announces, apart from compression (``sendrecv_v2_zstd`` and the like)."""

OLD_FEATURES = frozenset[str]()
"""What Android 6 and older announce."""


@dataclass(frozen=True, slots=True)
class FakeResult:
    """How a command on a fake phone ends.

    Attributes:
        code: Its exit code.
        stdout: What it prints.
        stderr: What it prints to standard error.
        hangs: It prints that, and then runs until it is killed.
    """

    code: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    hangs: bool = False


Answer = FakeResult | str | bytes
Shell = Callable[[Sequence[str], bytes], Answer] | Mapping[str, Answer]


@dataclass(eq=False)
class FakePhone:
    """One phone. Its attributes may be changed at any time, from any thread.

    ``rm``, and what a push does to finish, work on ``files``; all other commands answer what ``shell`` says.

    Attributes:
        serial: The ADB serial.
        shell: What commands answer: a function of the words and the standard input, or a table by command line
            as ``shlex.join`` writes it. Text stands for that output and exit code 0. A command that is in no
            table ends with 127, like one that does not exist.
        files: Content by absolute path. Directories are there where files are below them.
        features: What its adbd announces.
        banner: Properties in its adbd's banner.
        state: What transports list. Only an online phone can be connected to.
        capacity: Bytes that fit into ``files``; None for no limit.
        modes: Permission bits of pushed files, by path.
        mtimes: Time stamps of pushed files, by path.
        commands: All commands that were run, in order.
    """

    serial: str
    shell: Shell = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    features: frozenset[str] = FEATURES
    banner: Mapping[str, str] = field(default_factory=dict)
    state: EndpointState = EndpointState.ONLINE
    capacity: int | None = None
    modes: dict[str, int] = field(default_factory=dict)
    mtimes: dict[str, int] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._pids = itertools.count(1000)
        self._running: dict[int, Event] = {}  # by process id: set when it is killed
        self._cables: set[Callable[[], None]] = set()  # what breaks when it is unplugged
        self._awake = Event()
        self._awake.set()
        self.losses = 0

    def unplug(self) -> None:
        """Pull the cable: all its streams break, and it is absent until :meth:`replug`."""
        with self._lock:
            self.state = EndpointState.ABSENT
            self.losses += 1
            cables = list(self._cables)
        for cut in cables:
            cut()
        self._awake.set()

    def replug(self) -> None:
        """Plug it in again; connections from before stay lost."""
        self.state = EndpointState.ONLINE

    def freeze(self) -> None:
        """Make it fall silent: still listed and connected, but nothing answers any more."""
        self._awake.clear()

    def thaw(self) -> None:
        """Let it go on where it was frozen."""
        self._awake.set()

    @property
    def running(self) -> list[int]:
        """Process ids of the commands that run."""
        with self._lock:
            return sorted(self._running)

    # --- for the services ---

    @contextlib.contextmanager
    def cable(self, cut: Callable[[], None]) -> Iterator[None]:
        """While in it, ``cut`` is called when the phone is unplugged."""
        with self._lock:
            self._cables.add(cut)
        try:
            yield
        finally:
            with self._lock:
                self._cables.discard(cut)

    def wait_awake(self, seconds: float) -> bool:
        """Whether it is not frozen, waiting up to ``seconds`` for that."""
        return self._awake.wait(seconds)

    @contextlib.contextmanager
    def process(self) -> Iterator[tuple[int, Event]]:
        """A process on the phone: its id, and what is set when somebody kills it."""
        killed = Event()
        with self._lock:
            pid = next(self._pids)
            self._running[pid] = killed
        try:
            yield pid, killed
        finally:
            with self._lock:
                del self._running[pid]

    def kill(self, pid: int) -> None:
        """End a process, if there is one of that id."""
        with self._lock:
            killed = self._running.get(pid)
        if killed is not None:
            killed.set()

    def answer(self, argv: Sequence[str], stdin: bytes) -> FakeResult:
        """What ``shell`` says to a command."""
        self.commands.append(list(argv))
        answer: Answer
        if callable(self.shell):
            answer = self.shell(argv, stdin)
        else:
            missing = FakeResult(127, stderr=f"sh: {argv[0]}: inaccessible or not found\n".encode())
            answer = self.shell.get(shlex.join(argv), missing)
        if isinstance(answer, FakeResult):
            return answer
        return FakeResult(stdout=answer.encode() if isinstance(answer, str) else answer)

    def fits(self, path: str, size: int) -> bool:
        """Whether a file of that size has room in place of ``path``."""
        with self._lock:
            used = sum(len(data) for name, data in self.files.items() if name != path)
            return self.capacity is None or used + size <= self.capacity

    def store(self, path: str, content: bytes, mode: int, mtime: int) -> None:
        """Write a file."""
        with self._lock:
            self.files[path] = content
            self.modes[path], self.mtimes[path] = mode, mtime

    def rename(self, path: str, name: str, mode: int) -> None:
        """Give a file another name and mode."""
        with self._lock:
            self.files[name] = self.files.pop(path)
            self.mtimes[name] = self.mtimes.pop(path, 0)
            self.modes.pop(path, None)
            self.modes[name] = mode

    def delete(self, path: str, *, recursive: bool) -> None:
        """Remove a file, or all that is below a directory."""
        with self._lock:
            for name in [
                name for name in self.files if name == path or (recursive and name.startswith(path + "/"))
            ]:
                del self.files[name]

    def is_directory(self, path: str) -> bool:
        """Whether there is something below ``path``."""
        return path == "/" or any(name.startswith(path.rstrip("/") + "/") for name in list(self.files))

    def children(self, path: str) -> list[str]:
        """The names in a directory."""
        prefix = path.rstrip("/") + "/"
        below = [name.removeprefix(prefix) for name in list(self.files) if name.startswith(prefix)]
        return sorted({name.split("/", 1)[0] for name in below})

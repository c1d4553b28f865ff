"""The adb program: where it is, how old it is, which known holes it has, and how its server is started."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devicelab.deadline import Deadline
from devicelab.errors import AdbUnavailableError, ConfigError

__all__ = [
    "KNOWN_HOLES",
    "AdbProgram",
    "Hole",
    "ServerAddress",
    "adb_version",
    "find_adb",
    "holes",
    "parse_version",
    "start_server",
]

DEFAULT_PORT = 5037
_LOOPBACK = {"", "localhost", "127.0.0.1", "::1", "[::1]"}


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where an adb server listens.

    Attributes:
        host: Host name or IP address; unused where ``path`` is set.
        port: TCP port.
        path: A Unix socket instead of TCP (``ADB_SERVER_SOCKET=localfilesystem:PATH``).
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    path: str | None = None

    def __str__(self) -> str:
        return self.path if self.path is not None else f"{self.host}:{self.port}"

    @property
    def local(self) -> bool:
        """Whether a server can be started there from this machine."""
        return self.path is not None or self.host in _LOOPBACK

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> ServerAddress:
        """The address that adb itself would use.

        ``ADB_SERVER_SOCKET`` (``tcp:PORT``, ``tcp:HOST:PORT``, ``localfilesystem:PATH``) comes first, then
        ``ANDROID_ADB_SERVER_ADDRESS`` and ``ANDROID_ADB_SERVER_PORT``, then 127.0.0.1:5037 (adb's manual page).

        Raises:
            ConfigError: A variable holds something else.
        """
        variables = os.environ if environ is None else environ
        if spec := variables.get("ADB_SERVER_SOCKET"):
            return _parse_socket_spec(spec)
        port = variables.get("ANDROID_ADB_SERVER_PORT") or str(DEFAULT_PORT)
        host = variables.get("ANDROID_ADB_SERVER_ADDRESS") or "127.0.0.1"
        return cls(host, _parse_port(port, f"ANDROID_ADB_SERVER_PORT={port}"))


@dataclass(frozen=True, slots=True)
class AdbProgram:
    """An adb program and what it says of itself.

    Attributes:
        path: The executable.
        protocol: "1.0.41": what client and server compare before they talk.
        release: (36, 0, 0), or None where the program does not say (before platform-tools 26).
        build: What stands behind the release: "13206524", "debian".
    """

    path: Path
    protocol: str
    release: tuple[int, int, int] | None
    build: str = ""

    def __str__(self) -> str:
        release = ".".join(map(str, self.release)) if self.release else f"protocol {self.protocol}"
        return f"adb {release} ({self.path})"


@dataclass(frozen=True, slots=True)
class Hole:
    """A published weakness of the adb program on the host.

    Attributes:
        cve: Its number.
        fixed_in: The first platform-tools release without it.
        summary: What a rogue phone can do with it.
    """

    cve: str
    fixed_in: tuple[int, int, int]
    summary: str


KNOWN_HOLES = (
    Hole(
        "CVE-2022-20128",
        (33, 0, 3),
        "`adb pull` of a directory writes outside its destination for hostile names",
    ),
    Hole("CVE-2022-3168", (33, 0, 3), "a rogue phone makes the adb server open sockets on this host"),
)


def holes(release: tuple[int, int, int] | None) -> list[Hole]:
    """The known holes of a release; of one that does not name itself, which is old, all of them."""
    return [hole for hole in KNOWN_HOLES if release is None or release < hole.fixed_in]


def parse_version(text: str) -> tuple[str, tuple[int, int, int] | None, str]:
    """Read what ``adb version`` prints: protocol, release, build.

    Raises:
        ValueError: This is not adb's output.
    """
    protocol = re.search(r"^Android Debug Bridge version (\d+\.\d+\.\d+)", text, re.MULTILINE)
    if protocol is None:
        raise ValueError(f"not what `adb version` prints: {text[:100]!r}")
    release = re.search(r"^Version (\d+)\.(\d+)\.(\d+)(?:-(\S+))?", text, re.MULTILINE)
    if release is None:
        return protocol[1], None, ""
    return protocol[1], (int(release[1]), int(release[2]), int(release[3])), release[4] or ""


def find_adb(environ: Mapping[str, str] | None = None) -> Path | None:
    """The adb program that would be used, or None.

    In this order: ``$ADB`` (as scrcpy has it), the PATH, ``platform-tools`` in ``$ANDROID_HOME`` and
    ``$ANDROID_SDK_ROOT``, the one in the adbutils wheel where that package is installed.

    Raises:
        ConfigError: ``$ADB`` names something that cannot be run.
    """
    variables = os.environ if environ is None else environ
    path = variables.get("PATH", os.defpath)
    if named := variables.get("ADB"):
        found = shutil.which(named, path=path)
        if found is None:
            raise ConfigError(f"$ADB names {named}, which is no program", hint="unset ADB, or correct it")
        return Path(found).absolute()
    if found := shutil.which("adb", path=path):
        return Path(found).absolute()
    candidates = [
        Path(root) / "platform-tools" / "adb"
        for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT")
        if (root := variables.get(name))
    ]
    package = importlib.util.find_spec("adbutils")  # located, not imported
    if package is not None and package.origin is not None:
        candidates.append(Path(package.origin).parent / "binaries" / "adb")
    return next((path.absolute() for path in candidates if os.access(path, os.X_OK) and path.is_file()), None)


def adb_version(path: Path, deadline: Deadline) -> AdbProgram:
    """Ask a program for its version (this starts no server).

    Raises:
        AdbUnavailableError: It does not run, or is not adb.
        DeadlineError: It hangs.
    """
    code, said = _run([str(path), "version"], dict(os.environ), deadline)
    try:
        protocol, release, build = parse_version(said)
    except ValueError as error:
        raise AdbUnavailableError(f"{path} is not a working adb program (exit {code}): {error}") from error
    return AdbProgram(path, protocol, release, build)


def start_server(path: Path, address: ServerAddress, deadline: Deadline) -> None:
    """Start an adb server, which then belongs to the desk and is never ended by us.

    Only call this where none answers: an adb program of another version *replaces* a running server, and with
    it everybody's connections.

    Raises:
        AdbUnavailableError: It did not start; the message holds what adb printed.
        DeadlineError: It is still starting.
    """
    if not address.local:
        raise AdbUnavailableError(
            f"no adb server answers on {address}, and one can only be started on this machine",
            hint=f"start it there (`adb -a nodaemon server`), or unset the variables that name {address.host}",
        )
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_ADDRESS", "ANDROID_ADB_SERVER_PORT")
    }
    if address.path is not None:
        environ["ADB_SERVER_SOCKET"] = f"localfilesystem:{address.path}"
    else:
        # By its port alone: adb takes "tcp:127.0.0.1:PORT" for another machine and refuses to start a server.
        environ["ANDROID_ADB_SERVER_PORT"] = str(address.port)
    code, said = _run([str(path), "start-server"], environ, deadline)
    if code != 0:
        raise AdbUnavailableError(f"`{path} start-server` failed (exit {code}): {said.strip()[-300:]}")


def _parse_socket_spec(spec: str) -> ServerAddress:
    kind, _, rest = spec.partition(":")
    if kind == "localfilesystem" and rest:
        return ServerAddress(path=rest)
    if kind != "tcp":
        raise ConfigError(
            f"ADB_SERVER_SOCKET={spec} is none of tcp:PORT, tcp:HOST:PORT and localfilesystem:PATH"
        )
    host, _, port = rest.rpartition(":")
    return ServerAddress(host.strip("[]") or "127.0.0.1", _parse_port(port, f"ADB_SERVER_SOCKET={spec}"))


def _parse_port(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise ConfigError(f"{where}: {text!r} is no TCP port")
    return int(text)


def _run(argv: list[str], environ: dict[str, str], deadline: Deadline) -> tuple[int, str]:
    """Exit code and output of a short-lived program, which is killed at the deadline.

    Its output goes to a file and not a pipe: a server that it leaves behind would hold the pipe open for ever.
    """
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environ,
                start_new_session=True,  # Ctrl-C in this terminal must not reach a server that it starts
            )
        except OSError as error:
            raise AdbUnavailableError(f"{argv[0]} does not run: {error.strerror}") from error
        try:
            code = process.wait(deadline.remaining())
        except subprocess.TimeoutExpired:
            raise deadline.error() from None
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
        output.seek(0)
        return code, output.read(65536).decode("utf-8", "replace")

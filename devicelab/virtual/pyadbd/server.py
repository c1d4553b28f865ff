"""Accepts hosts and gives each a session; knows which services there are."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from dataclasses import dataclass

from devicelab.virtual.packets import MAX_PAYLOAD, VERSION_NO_CHECKSUMS
from devicelab.virtual.pyadbd.session import Service, Session, Stream
from devicelab.virtual.pyadbd.shell import parse_command, run_command
from devicelab.virtual.pyadbd.sync import SyncService
from devicelab.virtual.pyadbd.tree import Tree

__all__ = ["FEATURES", "Server", "python_banner"]

FEATURES = frozenset({"shell_v2", "cmd", "stat_v2", "ls_v2", "fixed_push_mkdir", "sendrecv_v2"})
"""What this adbd can do; a phone may announce less."""

_log = logging.getLogger(__name__)

_CONNECTIONS_LIMIT = 64
_MARK = "ro.devicelab.adbd=python"


def python_banner(banner: str) -> str:
    """A banner that announces no more than this adbd can do, and says whose it is.

    Args:
        banner: ``device::NAME=VALUE;…;features=…``, as Google's adbd takes it.
    """
    kind, _, rest = banner.partition("::")
    entries = [entry for entry in rest.split(";") if entry]
    features = next((entry[9:].split(",") for entry in entries if entry.startswith("features=")), [])
    kept = [entry for entry in entries if not entry.startswith("features=")]
    known = ",".join(feature for feature in features if feature in FEATURES)
    return f"{kind or 'device'}::{';'.join([*kept, _MARK, f'features={known}'])}"


@dataclass(frozen=True, slots=True)
class Server:
    """One phone's services.

    Attributes:
        tree: Its files.
        alias: Another name for their root, which commands see; it needs no quoting in a shell.
        banner: What it says of itself.
        version: The highest protocol version that it speaks.
        max_payload: The largest packet that it takes, in bytes.
    """

    tree: Tree
    alias: str
    banner: str
    version: int = VERSION_NO_CHECKSUMS
    max_payload: int = MAX_PAYLOAD

    def open(self, name: str) -> Service | None:
        """What serves a service name."""
        if name == "sync:":
            return lambda stream: SyncService(stream, self.tree).run()
        command = parse_command(name)
        if command is None:
            return None

        def run(stream: Stream) -> None:
            run_command(
                stream,
                command.translated(lambda text: self.tree.translate(text, self.alias)),
                directory=self.tree.root,
                environment=self.environment(),
            )

        return run

    def environment(self) -> dict[str, str]:
        """Of every command: Android's variables, and the phone's own tools before the host's."""
        return {
            "PATH": f"{self.alias}/system/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "ANDROID_ROOT": f"{self.alias}/system",
            "ANDROID_DATA": f"{self.alias}/data",
            "EXTERNAL_STORAGE": f"{self.alias}/sdcard",
            "HOME": self.alias,
            "TMPDIR": f"{self.alias}/data/local/tmp",
        }

    def serve(self, listener: socket.socket) -> None:
        """Serve connections until the listener is shut down; returns once all of them have ended."""
        sessions: dict[threading.Thread, socket.socket] = {}
        with contextlib.suppress(OSError):  # EINVAL once it is shut down
            while True:
                sock, _ = listener.accept()
                sessions = {thread: each for thread, each in sessions.items() if thread.is_alive()}
                if len(sessions) >= _CONNECTIONS_LIMIT:
                    _log.warning("more than %d connections: refused", _CONNECTIONS_LIMIT)
                    sock.close()
                    continue
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                session = Session(
                    sock,
                    banner=self.banner,
                    opener=self.open,
                    version=self.version,
                    max_payload=self.max_payload,
                )
                thread = threading.Thread(target=session.run, name="session")
                sessions[thread] = sock
                thread.start()
        for thread, sock in sessions.items():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            thread.join()

"""The cable: from a port on the host's 127.0.0.1 to adbd in the phone, as slow as asked."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from devicelab.errors import DevicelabError

__all__ = ["Link", "Relay", "bind_port"]

Handshake = Callable[[socket.socket], socket.socket | None]
"""Given a host's connection, the phone's end of it, ready to be joined; None if there shall be none."""

_MAX_PIPE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 18
_MAX_SESSIONS = 64
_BACKLOG = 16
_MAX_UNDER_WAY = 16 << 20  # bytes on a link that only delays
_LOOK_UP_SECONDS = 0.1  # how late a change of the link may be noticed


def bind_port(port: int) -> socket.socket:
    """A socket that has a port on 127.0.0.1 for itself and refuses connections until a relay listens on it.

    Raises:
        OSError: The port is taken (EADDRINUSE).
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        _listen(sock)
        _stop_listening(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen(sock: socket.socket) -> None:
    """Listen; old connections in TIME_WAIT do not matter, but nobody else may share the port from then on."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.listen(_BACKLOG)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def _stop_listening(sock: socket.socket) -> None:
    """Refuse connections from now on and keep the port: a bound socket that is shut down (Linux)."""
    sock.shutdown(socket.SHUT_RD)


@dataclass(slots=True)
class Link:
    """How fast the cable is, both ways alike; may be changed at any time from another thread.

    Attributes:
        bytes_per_second: The rate of each direction over all connections; None for no limit.
        latency: Seconds that each byte is under way, on top.
        changes: How often it has been changed.
    """

    bytes_per_second: float | None = None
    latency: float = 0.0
    changes: int = 0
    _free_at: list[float] = field(default_factory=lambda: [0.0, 0.0])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def shaped(self) -> bool:
        """Whether bytes are held back at all."""
        return self.bytes_per_second is not None or self.latency > 0

    def chunk(self) -> int:
        """How many bytes to take at a time: a twentieth of a second's worth."""
        rate = self.bytes_per_second
        return _CHUNK_BYTES if rate is None else max(256, min(_CHUNK_BYTES, int(rate / 20)))

    def window(self) -> int:
        """How many bytes of a connection may be under way before its sender has to wait."""
        rate = self.bytes_per_second
        return _MAX_UNDER_WAY if rate is None else max(1024, int(rate * (self.latency + 0.25)))

    def arrival(self, direction: int, size: int) -> float:
        """When bytes that are sent now arrive, on time.monotonic's clock; they occupy the link until then."""
        now = time.monotonic()
        with self._lock:
            begin = max(now, self._free_at[direction])
            end = begin + (size / self.bytes_per_second if self.bytes_per_second else 0.0)
            self._free_at[direction] = end
        return end + self.latency

    def set(self, bytes_per_second: float | None, latency: float) -> None:
        """Change it; what is under way arrives now."""
        with self._lock:
            self.changes += 1
            self.bytes_per_second = bytes_per_second
            self.latency = latency
            self._free_at = [0.0, 0.0]


class Relay:
    """Accepts connections while plugged in and joins each with one to adbd.

    Args:
        sock: From :func:`bind_port`; owned by the relay.
        handshake: Opens the phone's end; called in a thread of the connection's own.
        link: The cable.
    """

    def __init__(self, sock: socket.socket, handshake: Handshake, link: Link) -> None:
        self._sock = sock
        self._handshake = handshake
        self._link = link
        self._lock = threading.Lock()
        self._sessions: set[_Session] = set()
        self._plugged = False
        self._accepting: threading.Thread | None = None

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._sessions)

    def plug(self) -> None:
        """Listen; does nothing if it does already."""
        if self._plugged:
            return
        self._plugged = True
        _listen(self._sock)
        self._accepting = threading.Thread(target=self._accept, name="relay", daemon=True)
        self._accepting.start()

    def unplug(self) -> None:
        """Refuse new connections and end the open ones; does nothing if it does already."""
        if not self._plugged:
            return
        self._plugged = False
        _stop_listening(self._sock)
        if self._accepting is not None:
            self._accepting.join()
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.end()

    def close(self) -> None:
        """Unplug for good."""
        self.unplug()
        self._sock.close()

    def _accept(self) -> None:
        """Start a session per connection, until the socket stops listening."""
        while True:
            try:
                host, _ = self._sock.accept()
            except OSError:
                return  # EINVAL: no longer listening
            host.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            host.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                if not self._plugged or len(self._sessions) >= _MAX_SESSIONS:
                    host.close()
                    continue
                session = _Session(host)
                self._sessions.add(session)
            threading.Thread(target=self._serve, args=(session,), name="session", daemon=True).start()

    def _serve(self, session: _Session) -> None:
        """One connection's life."""
        try:
            phone = self._handshake(session.host)
            if phone is not None and session.join(phone):
                back = threading.Thread(target=_pump, args=(phone, session, self._link, 1), daemon=True)
                back.start()
                _pump(session.host, session, self._link, 0)
                back.join()
        except (OSError, DevicelabError):
            pass  # the phone is off or the host has gone: all it means is the end of this connection
        finally:
            with self._lock:
                self._sessions.discard(session)
            session.close()


class _Session:
    """Two joined sockets that end together."""

    def __init__(self, host: socket.socket) -> None:
        self.host = host
        self.phone: socket.socket | None = None
        self._ended = False
        self._lock = threading.Lock()

    def join(self, phone: socket.socket) -> bool:
        """Add the phone's end; False if the session has been ended meanwhile."""
        phone.settimeout(None)
        self.host.settimeout(None)
        with self._lock:
            self.phone = phone
            return not self._ended

    def other(self, sock: socket.socket) -> socket.socket:
        """The end that is not ``sock``."""
        assert self.phone is not None
        return self.phone if sock is self.host else self.host

    def end(self) -> None:
        """Wake both directions, which then find the end of their streams."""
        with self._lock:
            self._ended = True
            for sock in (self.host, self.phone):
                if sock is not None:
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close both ends, once nobody uses them any more."""
        self.end()
        self.host.close()
        if self.phone is not None:
            self.phone.close()


def _pump(source: socket.socket, session: _Session, link: Link, direction: int) -> None:
    """Carry one direction until either end closes, then end the other direction, too."""
    target = session.other(source)
    reader, writer = os.pipe()
    capacity = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    try:
        while True:
            if link.shaped:
                if not _carry_shaped(source, target, link, direction):
                    return
                continue
            size = os.splice(source.fileno(), writer, _MAX_PIPE_BYTES)
            if size == 0:
                return
            late = link.arrival(direction, size) - time.monotonic()
            if late > 0:  # shaped since we began to wait for these bytes
                time.sleep(late)
            bulk = size >= capacity // 2  # a pipe is full before that many bytes if they come in small pieces
            while size:
                size -= os.splice(reader, target.fileno(), size)
            if bulk and capacity < _MAX_PIPE_BYTES:
                capacity = _enlarge(writer)
    except OSError:
        return  # reset or closed: the same as an end
    finally:
        session.end()
        os.close(reader)
        os.close(writer)


def _enlarge(pipe: int) -> int:
    """Widen a pipe that carries much: a third faster, but only for who needs it.

    The kernel limits the pipe memory of all of a user's processes together (pipe(7), pipe-user-pages-soft), and
    cuts down everybody's new pipes beyond that.

    Returns:
        How many bytes need to be in it before it is tried again.
    """
    with contextlib.suppress(OSError):  # beyond that limit: then it stays as it is
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _MAX_PIPE_BYTES)
    return _MAX_PIPE_BYTES


def _carry_shaped(source: socket.socket, target: socket.socket, link: Link, direction: int) -> bool:
    """Carry bytes at the link's pace until it is no longer shaped (True) or the source ends (False)."""
    under_way: deque[tuple[float, bytes]] = deque()  # (arrival, bytes)
    held = 0
    open_end = True
    changes = link.changes
    while under_way or (open_end and link.shaped):
        hurry = changes != link.changes
        while under_way and (hurry or under_way[0][0] <= time.monotonic()):
            data = under_way.popleft()[1]
            held -= len(data)
            target.sendall(data)
        changes = link.changes
        wait = _LOOK_UP_SECONDS
        if under_way:
            wait = min(wait, max(0.0, under_way[0][0] - time.monotonic()))
        if not open_end or held >= link.window():
            time.sleep(wait)
        elif select.select([source], [], [], wait if under_way else None)[0] and changes == link.changes:
            data = source.recv(link.chunk())
            open_end = bool(data)
            if data:
                held += len(data)
                under_way.append((link.arrival(direction, len(data)), data))
    return open_end

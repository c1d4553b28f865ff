"""One phone's own process: it owns the body, the port and the control socket, and outlives ``virtual up``.

Started by :mod:`devicelab.virtual.launcher`. The phone's directory then holds::

    phone.json      what others need to know, written once the phone runs
    control.sock    faults and questions, one JSON object per connection
    lock            held (flock) from before the directory's birth until the last process of the phone has gone
    keeper.log, adbd.log, vendor/, body/
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from types import FrameType

from devicelab.devices.processes import start_time
from devicelab.errors import DevicelabError
from devicelab.files import write_atomically
from devicelab.virtual.binfmt import emulation
from devicelab.virtual.body import Body
from devicelab.virtual.facts import Facts
from devicelab.virtual.image import hold_image
from devicelab.virtual.phone import Phone
from devicelab.virtual.sandbox import NamespaceBody
from devicelab.virtual.spec import PhoneSpec

__all__ = ["CONTROL", "PHONE", "Keeper"]

CONTROL = "control.sock"
PHONE = "phone.json"
_REQUEST_BYTES = 1 << 16
_REQUEST_SECONDS = 5.0


def _make_body(spec: PhoneSpec) -> Body:
    """Build the body that the spec asks for; the fallbacks are imported only where they are used."""
    if spec.body_kind == "namespaces":
        emulator = spec.body.emulator
        return NamespaceBody(spec.body, emulation(emulator) if emulator is not None else None)
    if spec.body_kind == "proot":
        from devicelab.virtual.proot import ProotBody  # noqa: PLC0415 (few phones need it)

        return ProotBody(spec.body)
    from devicelab.virtual.pythonbody import PythonBody  # noqa: PLC0415 (the same)

    return PythonBody(spec.body)


class Keeper:
    """Serve one phone until told to stop.

    Args:
        spec: The phone.
        sock: Its port.
    """

    def __init__(self, spec: PhoneSpec, sock: socket.socket) -> None:
        self._spec = spec
        self._running = True
        self._image = hold_image(spec.body.image) if spec.body.image is not None else None
        facts = Facts(spec)
        facts.write()
        body = _make_body(spec)
        self._phone = Phone(spec, body, facts, sock)
        try:
            self._phone.start()
            self._control = self._listen()
        except BaseException:
            self._phone.close()
            raise
        self._selector = selectors.DefaultSelector()
        self._requests: dict[socket.socket, tuple[float, bytearray]] = {}
        self._write_phone(body)

    def run(self) -> None:
        """Serve requests and timers until SIGTERM; then end the phone."""
        signal.signal(signal.SIGTERM, self._stop)
        # A signal's handler runs between bytecodes; the wake-up pipe gets it noticed during select, too.
        wake, poke = socket.socketpair()
        poke.settimeout(0)
        wake.settimeout(0)
        signal.set_wakeup_fd(poke.fileno())
        self._selector.register(self._control, selectors.EVENT_READ)
        self._selector.register(wake, selectors.EVENT_READ)
        try:
            while self._running:
                waits = [self._phone.timers.wait(), _REQUEST_SECONDS if self._requests else None]
                for key, _ in self._selector.select(min((w for w in waits if w is not None), default=None)):
                    if key.fileobj is self._control:
                        self._accept()
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj is not wake:
                        self._read(key.fileobj)
                self._phone.timers.run()
                self._drop_slow()
        finally:
            self._phone.close()

    def close(self) -> None:
        """End the phone without ever having served."""
        self._phone.close()

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._running = False

    def _listen(self) -> socket.socket:
        """The control socket, for its owner alone. Bound by way of a descriptor: its path may be too long."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        folder = os.open(self._spec.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        old = os.umask(0o177)
        try:
            sock.bind(f"/proc/self/fd/{folder}/{CONTROL}")
        finally:
            os.umask(old)
            os.close(folder)
        sock.listen(16)
        sock.settimeout(0)
        return sock

    def _write_phone(self, body: Body) -> None:
        spec = self._spec
        facts = {
            "name": spec.name,
            "profile": spec.profile,
            "serial": spec.serial,
            "port": spec.port,
            "body": body.kind,
            "limits": list(body.limits),
            "pid": os.getpid(),
            "start": start_time(os.getpid()),
        }
        write_atomically(spec.directory / PHONE, json.dumps(facts).encode(), mode=0o600)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # gone again
            connection, _ = self._control.accept()
            connection.settimeout(0)
            self._requests[connection] = (time.monotonic() + _REQUEST_SECONDS, bytearray())
            self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        """Take what there is of a request and answer it once it is whole."""
        buffer = self._requests[connection][1]
        try:
            data = connection.recv(_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        buffer += data
        if b"\n" in buffer:
            with contextlib.suppress(OSError):  # whoever asked has gone; the answer fits the socket's buffer
                connection.send(self._answer(bytes(buffer)))
        if not data or b"\n" in buffer or len(buffer) > _REQUEST_BYTES:
            self._drop(connection)

    def _answer(self, request: bytes) -> bytes:
        """Do what a request says; every failure becomes an answer."""
        try:
            message = json.loads(request)
            name, value = message["command"], message.get("value")
            answer: dict[str, object] = {"result": self._phone.commands[name](value)}
        except DevicelabError as error:
            answer = {"error": error.message, "hint": error.hint}
        except OSError as error:
            answer = {"error": f"cannot do it: {error}"}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            answer = {"error": f"bad request: {error!r}"}
        return json.dumps(answer).encode() + b"\n"

    def _drop_slow(self) -> None:
        now = time.monotonic()
        for connection in [sock for sock, (end, _) in self._requests.items() if end <= now]:
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._requests[connection]
        connection.close()

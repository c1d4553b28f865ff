"""A virtual phone as its keeper has it: a body, a cable and facts, and the faults that change them."""

from __future__ import annotations

import heapq
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from devicelab.deadline import Deadline
from devicelab.errors import DevicelabError, VirtualPhoneError
from devicelab.virtual.authorization import Answer, Authorization
from devicelab.virtual.body import Body
from devicelab.virtual.curves import Curve, value_at
from devicelab.virtual.facts import Facts
from devicelab.virtual.gate import Gate
from devicelab.virtual.packets import MAX_PAYLOAD, VERSION_NO_CHECKSUMS
from devicelab.virtual.peer import is_ours
from devicelab.virtual.relay import Link, Relay
from devicelab.virtual.spec import PhoneSpec

__all__ = ["Phone", "Timers"]

BOOT_SECONDS = 20.0
_CONNECT_SECONDS = 5.0
_HANDSHAKE_SECONDS = 30.0  # for what a host has to say; the phone's owner may think for longer
_TICK = 0.5
_LONGEST_SECONDS = 86_400.0
_LARGEST_DISK = 1 << 50
_FASTEST_LINK = 1e12


_log = logging.getLogger(__name__)


class Timers:
    """What the keeper's loop has to do later. A failure is logged and ends nothing else."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str, Callable[[], None]]] = []
        self._count = 0

    def set(self, key: str, seconds: float, action: Callable[[], None]) -> None:
        """Do something later, in place of what was to be done under the same key."""
        self.cancel(key)
        self._count += 1
        heapq.heappush(self._heap, (time.monotonic() + seconds, self._count, key, action))

    def cancel(self, key: str) -> None:
        """Forget what was to be done."""
        self._heap = [item for item in self._heap if item[2] != key]
        heapq.heapify(self._heap)

    def wait(self) -> float | None:
        """Seconds until something is due; None if nothing ever is."""
        return max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else None

    def run(self) -> None:
        """Do what is due."""
        while self._heap and self._heap[0][0] <= time.monotonic():
            _, _, key, action = heapq.heappop(self._heap)
            try:
                action()
            except (DevicelabError, OSError) as error:
                _log.error("%s failed: %s", key, error)  # and the phone stays as it is; `status` shows how


class Phone:
    """All of one phone. Its methods are called from the keeper's one thread.

    Args:
        spec: What it is.
        body: Made from it, not booted yet; owned by the phone.
        facts: Written already.
        sock: Its port, from :func:`devicelab.virtual.relay.bind_port`; owned by the phone.
    """

    def __init__(self, spec: PhoneSpec, body: Body, facts: Facts, sock: socket.socket) -> None:
        self._spec = spec
        self._body = body
        self._facts = facts
        self.timers = Timers()
        self._link = Link()
        self._gate = Gate(
            authorization=Authorization(spec.directory / "adb_keys", required=spec.authorization == "ask"),
            version=None if spec.version == VERSION_NO_CHECKSUMS else spec.version,
            max_payload=None if spec.max_payload == MAX_PAYLOAD else spec.max_payload,
        )
        self._relay = Relay(sock, self._handshake, self._link)
        self._plugged = True
        self._frozen = False
        self._on = False
        self._filled = spec.filled
        self.commands: dict[str, Callable[[Any], object]] = {
            "status": self._status,
            "kill": self._kill,
            "start": self._start,
            "freeze": self._freeze,
            "thaw": self._thaw,
            "unplug": self._unplug,
            "replug": self._replug,
            "reboot": self._reboot,
            "disk": self._set_disk,
            "fill": self._fill,
            "link": self._set_link,
            "authorize": self._authorize,
            "battery": self._set_battery,
            "temperature": self._set_temperature,
            "thermal": self._set_thermal,
        }

    def start(self) -> None:
        """Boot for the first time and plug in.

        Raises:
            VirtualPhoneError: adbd does not start.
        """
        self._facts.write_filled(self._filled)
        self._start(None)
        self._watch()

    def close(self) -> None:
        """Everything ends."""
        self._relay.close()
        self._body.close()

    def _handshake(self, host: socket.socket) -> socket.socket | None:
        """The phone's end for a new connection (in a thread of that connection's own)."""
        if self._body.kind != "namespaces" and not is_ours(host):
            _log.warning("a connection of another user's is refused: this phone's shell is the host's")
            return None

        def connect() -> socket.socket:
            return self._body.connect(Deadline("connecting to adbd", _CONNECT_SECONDS, self._spec.name))

        return self._gate.handshake(
            host, connect, Deadline("the handshake", _HANDSHAKE_SECONDS, self._spec.name)
        )

    def _watch(self) -> None:
        """Look after a body that ended by itself."""
        self.timers.set("watch", _TICK, self._watch)
        if self._on and not self._body.alive():
            self._power_off()

    def _start(self, _value: object) -> None:
        if self._on:
            raise VirtualPhoneError("it is running already", device=self._spec.name)
        self.timers.cancel("reboot")
        self._facts.new_boot()
        self._body.boot(Deadline("booting the phone", BOOT_SECONDS, self._spec.name))
        self._on, self._frozen = True, False
        self.timers.set("boot", self._spec.boot_seconds, self._facts.boot_completed)
        if self._plugged:
            self._relay.plug()

    def _kill(self, _value: object) -> None:
        self.timers.cancel("reboot")
        self._power_off()

    def _power_off(self) -> None:
        self.timers.cancel("boot")
        self._relay.unplug()
        self._body.kill()
        self._on = self._frozen = False

    def _reboot(self, seconds: float) -> None:
        self._check("seconds", seconds, 0, _LONGEST_SECONDS)
        self._power_off()
        self.timers.set("reboot", seconds, lambda: self._start(None))

    def _freeze(self, _value: object) -> None:
        self._needs_power("freeze")
        self._body.freeze()
        self._frozen = True

    def _thaw(self, _value: object) -> None:
        self._needs_power("thaw")
        self._body.thaw()
        self._frozen = False

    def _needs_power(self, what: str) -> None:
        if not self._on:
            raise VirtualPhoneError(f"cannot {what}: it is off", device=self._spec.name, hint="start it first")

    def _unplug(self, _value: object) -> None:
        self._plugged = False
        self._relay.unplug()

    def _replug(self, _value: object) -> None:
        self._plugged = True
        if self._on:
            self._relay.plug()

    def _set_disk(self, size: int) -> None:
        self._check("size", size, 0, _LARGEST_DISK)
        self._body.set_disk(size)
        self._filled = 0
        self._facts.write_filled(self._filled)

    def _fill(self, free: int) -> None:
        """Leave so many bytes: the partition shrinks to that, and df counts the rest as used."""
        self._check("free", free, 0, _LARGEST_DISK)
        size, used = self._body.disk_usage()
        self._body.set_disk(used + free)
        self._filled = max(0, self._filled + size - used - free)
        self._facts.write_filled(self._filled)

    def _set_link(self, value: dict[str, float | None]) -> None:
        rate, latency = value["bytes_per_second"], value["latency"] or 0.0
        if rate is not None:
            self._check("bytes_per_second", rate, 1, _FASTEST_LINK)
        self._check("latency", latency, 0, 60)
        self._link.set(rate, latency)

    def _authorize(self, answer: str) -> None:
        self._gate.authorization.answer(Answer(answer))

    def _set_battery(self, value: float | Curve) -> None:
        def apply(level: float) -> None:
            self._facts.level = round(level)

        self._follow("battery", self._curve(value, "level", 0, 100), apply)

    def _set_temperature(self, value: float | Curve) -> None:
        def apply(celsius: float) -> None:
            self._facts.celsius = celsius

        self._follow("temperature", self._curve(value, "celsius", -100, 200), apply)

    def _set_thermal(self, status: int) -> None:
        self._check("status", status, 0, 6)
        self._facts.thermal_status = status
        self._facts.write_health()

    def _curve(self, value: float | Curve, what: str, low: float, high: float) -> Curve:
        """A number or a curve as a curve, checked."""
        curve = [(0.0, value)] if isinstance(value, int | float) else [(point[0], point[1]) for point in value]
        for seconds, number in curve:
            self._check("seconds", seconds, 0, _LONGEST_SECONDS)
            self._check(what, number, low, high)
        if not curve or curve != sorted(curve, key=lambda point: point[0]):
            raise VirtualPhoneError("a curve is points in order of time", device=self._spec.name)
        return curve

    def _follow(self, key: str, curve: Curve, apply: Callable[[float], None]) -> None:
        """Set a sensor now, and again at every tick until the curve's last point."""
        begin = time.monotonic()

        def step() -> None:
            seconds = time.monotonic() - begin
            apply(value_at(curve, seconds))
            self._facts.write_health()
            if seconds < curve[-1][0]:
                self.timers.set(key, min(_TICK, curve[-1][0] - seconds), step)

        self.timers.cancel(key)
        step()

    def _check(self, what: str, value: float, low: float, high: float) -> None:
        """Refuse numbers that make no sense, NaN among them."""
        if not low <= value <= high:
            raise VirtualPhoneError(f"{what} is {value:g}, outside {low:g} … {high:g}", device=self._spec.name)

    def _status(self, _value: object) -> dict[str, object]:
        power = "frozen" if self._frozen else "on" if self._on else "off"
        return {
            "power": power,
            "plugged": self._plugged,
            "connections": self._relay.connections,
            "boot_id": self._facts.boot_id,
            "bytes_per_second": self._link.bytes_per_second,
            "latency": self._link.latency,
            "level": self._facts.level,
            "celsius": self._facts.celsius,
            "thermal_status": self._facts.thermal_status,
            "questions": [str(question) for question in self._gate.authorization.pending()],
        }

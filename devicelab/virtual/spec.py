"""What a phone's keeper is told: plain values that travel as JSON from ``virtual up`` to its process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from devicelab.virtual.body import BodyKind

__all__ = ["BodySpec", "PhoneSpec"]


@dataclass(frozen=True, slots=True)
class BodySpec:
    """What a body is built from; each of the three bodies takes exactly one of these.

    A body shows these host directories inside the phone, read-only unless said otherwise::

        image            /                     the root file system, shared by all phones
        bin, if given    /system/bin           in place of the image's own
        vendor           /vendor               what getprop, dumpsys and df read; the keeper rewrites it at will
        vendor/proc/*    /proc/*               cpuinfo, meminfo, sys/kernel/random/boot_id: one file over each,
                                               bound afresh at every boot (the keeper writes a new boot id
                                               before)
        vendor/sys       /sys
        (the body's own) /data                 writable, survives kill and boot
        (the body's own) /dev                  with a writable, empty /dev/__properties__ at each boot (setprop)

    Attributes:
        name: The phone's name, for messages.
        directory: The phone's own directory on the host. A body may keep what it needs below ``body/`` in it.
        image: The root file system (see :mod:`devicelab.virtual.image`); None for a body that needs none.
        bin: Replaces the image's ``/system/bin`` where the profile's phone lacks commands; else None.
        vendor: The phone's facts.
        banner: What adbd is given as ``--device_banner``.
        disk: Size of the data partition in bytes.
        log: Where adbd's own output goes (appended).
        emulator: A static qemu-user program that runs the image's foreign executables; None for the host's own.
    """

    name: str
    directory: Path
    image: Path | None
    bin: Path | None
    vendor: Path
    banner: str
    disk: int
    log: Path
    emulator: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneSpec:
    """A whole phone: the body's share, the link, and the facts that the keeper writes.

    Attributes:
        body_kind: Which body to build.
        body: What to build it from.
        profile: The profile's name.
        serial: ``ro.serialno``.
        port: Where it listens on 127.0.0.1.
        version: ``A_VERSION`` of its handshake.
        max_payload: Its longest packet in bytes.
        authorization: ``none`` or ``ask``.
        page_size: What getconf says, in bytes.
        boot_seconds: From adbd's start until ``sys.boot_completed`` is 1.
        properties: What getprop prints, but for the boot's progress.
        dumpsys: Text of each service, with ``$level``, ``$tenths``, ``$status``, ``$battery``, ``$skin`` in it.
        proc: Files to show over those below /proc.
        sys: Files below /sys.
        level: Battery in percent, at first.
        celsius: Battery temperature, at first.
        thermal_status: 0 to 6, at first.
        filled: Bytes of the data partition that are taken from the start, on top of ``body.disk``.
    """

    body_kind: BodyKind
    body: BodySpec
    profile: str
    serial: str
    port: int
    version: int
    max_payload: int
    authorization: str
    page_size: int
    boot_seconds: float
    properties: Mapping[str, str]
    dumpsys: Mapping[str, str]
    proc: Mapping[str, str]
    sys: Mapping[str, str]
    level: int
    celsius: float
    thermal_status: int
    filled: int

    @property
    def name(self) -> str:
        """The phone's name."""
        return self.body.name

    @property
    def directory(self) -> Path:
        """The phone's directory on the host."""
        return self.body.directory

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> PhoneSpec:
        """The inverse of :meth:`to_json`."""
        values: dict[str, Any] = json.loads(text)
        body = values.pop("body")
        paths = {item.name for item in fields(BodySpec) if "Path" in str(item.type)}
        body = {
            key: Path(value) if key in paths and value is not None else value for key, value in body.items()
        }
        return cls(body=BodySpec(**body), **values)

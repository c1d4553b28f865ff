"""Everything that is known of a phone, from the texts that it printed about itself.

Bytes become mebibytes here, words are cleaned for terminals, and whatever is missing or unbelievable is None:
a fact is either good or unknown, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from devicelab.devices.battery import BatteryFacts, parse_battery
from devicelab.devices.cpu import parse_cpu_ranges, parse_cpuinfo, soc_name
from devicelab.devices.getprop import parse_getprop
from devicelab.devices.memory import parse_meminfo, parse_page_size
from devicelab.devices.storage import parse_df
from devicelab.devices.text import clean, whole
from devicelab.devices.thermal import ThermalFacts, ThermalStatus, parse_thermalservice

__all__ = ["WORK_DIR", "DeviceFacts", "RawFacts", "read_facts"]

WORK_DIR = "/data/local/tmp"
"""The one directory that the shell user of every Android may write to and run programs from."""

_MEBI = 1 << 20
_ABI = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
_BOOT_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_UID = re.compile(r"(?:uid=)?([0-9]{1,10})", re.ASCII)
_TOOL = re.compile(r"[a-z0-9_]{1,32}", re.ASCII)
_ANDROID_15 = 35  # the first release that runs with pages other than 4 KiB


@dataclass(frozen=True, slots=True)
class RawFacts:
    """The texts that facts are read from; an empty one was not asked for or not answered.

    Attributes:
        getprop: Output of ``getprop``.
        battery: Output of ``dumpsys battery``.
        thermal: Output of ``dumpsys thermalservice``.
        proc: ``/proc/meminfo`` and ``/proc/cpuinfo``, one after the other (their keys do not collide).
        cpus: ``/sys/devices/system/cpu/present``.
        df: Output of ``df -k`` for :data:`WORK_DIR`.
        boot_id: ``/proc/sys/kernel/random/boot_id``.
        page_size: Output of ``getconf PAGESIZE``.
        uid: The shell's user id, as a number or as ``id`` prints it.
        tools: Names of programs that the phone has, one a line.
    """

    getprop: str = ""
    battery: str = ""
    thermal: str = ""
    proc: str = ""
    cpus: str = ""
    df: str = ""
    boot_id: str = ""
    page_size: str = ""
    uid: str = ""
    tools: str = ""


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a phone is and how it does. None, an empty tuple or an empty set: unknown.

    Attributes:
        model: ``Pixel 8 Pro``.
        manufacturer: ``Google``.
        android: The release as text: ``4.4.2``, ``16``.
        sdk: API level.
        abis: In the phone's own order of preference.
        soc: The chip's name.
        cores: Processors, those that sleep included.
        ram_mb: Main memory in MiB.
        free_memory_mb: What a new program can have of it, in MiB.
        storage_mb: Size of the file system that holds :data:`WORK_DIR`, in MiB.
        free_storage_mb: Free on it, in MiB.
        page_size: Bytes.
        battery: See :class:`BatteryFacts`.
        thermal: See :class:`ThermalFacts`.
        boot_id: Changes with every boot and only then.
        boot_completed: Whether Android has finished starting.
        serialno: ``ro.serialno``, cleaned, maybe a placeholder.
        boot_serialno: ``ro.boot.serialno``, the same way.
        emulator: Whether it says that it is an emulator.
        uid: The shell's user id: 2000, or 0 on a rooted adbd.
        tools: Which of the programs we may use the phone has (``sha256sum``, ``setsid``, …).
    """

    model: str | None = None
    manufacturer: str | None = None
    android: str | None = None
    sdk: int | None = None
    abis: tuple[str, ...] = ()
    soc: str | None = None
    cores: int | None = None
    ram_mb: int | None = None
    free_memory_mb: int | None = None
    storage_mb: int | None = None
    free_storage_mb: int | None = None
    page_size: int | None = None
    battery: BatteryFacts = field(default_factory=BatteryFacts)
    thermal: ThermalFacts = field(default_factory=ThermalFacts)
    boot_id: str | None = None
    boot_completed: bool | None = None
    serialno: str | None = None
    boot_serialno: str | None = None
    emulator: bool = False
    uid: int | None = None
    tools: frozenset[str] = frozenset()

    @property
    def battery_percent(self) -> float | None:
        """Charge, 0 to 100."""
        return self.battery.percent

    @property
    def battery_celsius(self) -> float | None:
        """The battery's temperature: its own sensor, else the thermal service's sensor at the battery."""
        if self.battery.celsius is not None:
            return self.battery.celsius
        return self.thermal.hottest("battery") if self.thermal.live else None

    @property
    def thermal_status(self) -> ThermalStatus | None:
        """How much the phone throttles."""
        return self.thermal.status

    @property
    def sha256sum(self) -> bool:
        """Whether the phone can hash files itself."""
        return "sha256sum" in self.tools

    def summary(self) -> dict[str, object]:
        """The facts that ``discover --json`` lists, in its order and ready for JSON."""
        return {
            "model": self.model,
            "manufacturer": self.manufacturer,
            "android": self.android,
            "sdk": self.sdk,
            "abis": list(self.abis),
            "ram_mb": self.ram_mb,
            "free_storage_mb": self.free_storage_mb,
            "battery_percent": _tenths(self.battery_percent),
            "battery_celsius": _tenths(self.battery_celsius),
            "thermal_status": None if self.thermal_status is None else self.thermal_status.label,
            "soc": self.soc,
            "cores": self.cores,
        }


def read_facts(raw: RawFacts) -> DeviceFacts:
    """Parse all that a phone answered. Never raises, whatever the texts hold."""
    properties = parse_getprop(raw.getprop)
    memory = parse_meminfo(raw.proc)
    cpuinfo = parse_cpuinfo(raw.proc)
    disk = parse_df(raw.df, WORK_DIR)
    sdk = whole(properties.get("ro.build.version.sdk", ""), 1, 999)
    return DeviceFacts(
        model=_word(properties, "ro.product.model", "ro.product.vendor.model", "ro.product.name"),
        manufacturer=_word(
            properties, "ro.product.manufacturer", "ro.product.vendor.manufacturer", "ro.product.brand"
        ),
        android=_word(properties, "ro.build.version.release", limit=20),
        sdk=sdk,
        abis=_abis(properties),
        soc=soc_name(properties, cpuinfo),
        cores=parse_cpu_ranges(raw.cpus) or cpuinfo.online,
        ram_mb=_mebibytes(memory.total),
        free_memory_mb=_mebibytes(memory.available),
        storage_mb=_mebibytes(disk.total if disk else None),
        free_storage_mb=_mebibytes(disk.free if disk else None),
        page_size=_page_size(raw.page_size, properties, sdk),
        battery=parse_battery(raw.battery),
        thermal=parse_thermalservice(raw.thermal),
        boot_id=_boot_id(raw.boot_id, properties),
        boot_completed=_boot_completed(properties),
        serialno=_word(properties, "ro.serialno", limit=64),
        boot_serialno=_word(properties, "ro.boot.serialno", limit=64),
        emulator="1" in (properties.get("ro.kernel.qemu"), properties.get("ro.boot.qemu")),
        uid=_uid(raw.uid),
        tools=frozenset(word for word in raw.tools[:4096].split() if _TOOL.fullmatch(word)),
    )


def _word(properties: Mapping[str, str], *keys: str, limit: int = 80) -> str | None:
    """The first property of several that says something; ``unknown`` is how Android says nothing."""
    words = (clean(properties.get(key, ""), limit) for key in keys)
    return next((word for word in words if word.lower() not in {"", "unknown"}), None)


def _abis(properties: Mapping[str, str]) -> tuple[str, ...]:
    """ABIs, best first: Android 5 and newer list them in one property, older ones have a first and a second.

    The split lists are no substitute for the joint one, whose order is the phone's preference; they only help
    where a vendor has lost it.
    """
    for keys in (
        ("ro.product.cpu.abilist",),
        ("ro.product.cpu.abilist64", "ro.product.cpu.abilist32"),
        ("ro.product.cpu.abi", "ro.product.cpu.abi2"),
    ):
        words = ",".join(properties.get(key, "")[:400] for key in keys).split(",")
        abis = dict.fromkeys(word.strip() for word in words)
        if found := tuple(abi for abi in abis if _ABI.fullmatch(abi))[:16]:
            return found
    return ()


def _page_size(getconf: str, properties: Mapping[str, str], sdk: int | None) -> int | None:
    """The kernel's own answer, else the boot loader's, else what all phones of that age have."""
    told = parse_page_size(getconf) or parse_page_size(properties.get("ro.boot.hardware.cpu.pagesize", ""))
    return told or (4096 if sdk is not None and sdk < _ANDROID_15 else None)


def _boot_id(text: str, properties: Mapping[str, str]) -> str | None:
    """The kernel's boot id; where it may not be read, the nanosecond at which this boot's init started."""
    word = text.strip().lower()[:64]
    if _BOOT_ID.fullmatch(word):
        return word
    started = whole(properties.get("ro.boottime.init", ""), 1, 10**18)
    return None if started is None else f"init-{started}"


def _boot_completed(properties: Mapping[str, str]) -> bool | None:
    """Whether Android has started; None for a phone without properties (no Android, or a broken getprop)."""
    if not properties:
        return None
    return properties.get("sys.boot_completed", properties.get("dev.bootcomplete")) == "1"


def _uid(text: str) -> int | None:
    match = _UID.match(text.strip())
    return int(match[1]) if match else None


def _tenths(number: float | None) -> float | None:
    return None if number is None else round(number, 1)


def _mebibytes(size: int | None) -> int | None:
    return None if size is None else size // _MEBI

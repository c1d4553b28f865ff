"""Which phone is which: the same one on another cable, the same one after a reboot, or two with one serial.

A device's identity is ``ro.serialno``. Cheap boards and emulators carry placeholders there, and some factories
burn one serial into a whole batch, so an identity is only believed as far as the kernel's boot id agrees.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from devicelab.devices.facts import DeviceFacts

__all__ = ["Relation", "Sighting", "Unit", "compare", "identity_of", "is_placeholder", "merge"]

_PLACEHOLDERS = {"", "unknown", "none", "null", "default", "n/a", "serial", "serialno", "emulator", "android"}
_COUNTING = ("0123456789abcdef", "123456789abcdef0", "1234567890", "9876543210")
# The emulator puts its own version there: the same on every emulator of that version.
_EMULATOR = re.compile(r"emulator[0-9]{1,3}x[0-9x]{1,20}", re.ASCII)


class Relation(StrEnum):
    """What became of a phone between two sightings."""

    SAME = "same"  # nothing happened
    REPLUGGED = "replugged"  # the way to it was lost and found; what ran on it still runs
    REBOOTED = "rebooted"  # or, for all that is known, may have been: nothing that ran on it can be relied on
    OTHER = "other"  # another phone


@dataclass(frozen=True, slots=True)
class Sighting:
    """A phone as it was seen once over one way.

    Attributes:
        serial: The ADB serial by which it was reached.
        identity: From :func:`identity_of`.
        boot_id: From its facts.
        session: The caller's number for the connection; another number means that it was lost in between.
    """

    serial: str
    identity: str
    boot_id: str | None = None
    session: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """One physical phone (as far as can be told) and the ways to it.

    Attributes:
        identity: Unique among the units of one :func:`merge`.
        serial: The ADB serial to use.
        alternatives: Other ADB serials that lead to the same phone.
        warning: What a person should know about its identity, or None.
    """

    identity: str
    serial: str
    alternatives: tuple[str, ...] = ()
    warning: str | None = None


def is_placeholder(serialno: str) -> bool:
    """Whether a serial number tells nothing: empty, ``unknown``, ``0123456789ABCDEF``, one repeated digit."""
    word = serialno.strip().lower()
    return (
        word in _PLACEHOLDERS
        or len(set(word)) == 1
        or any(len(word) >= 6 and counting.startswith(word) for counting in _COUNTING)
        or _EMULATOR.fullmatch(word) is not None
    )


def identity_of(facts: DeviceFacts, serial: str) -> str:
    """``ro.serialno``, else ``ro.boot.serialno``, else the ADB serial; placeholders are passed over."""
    for serialno in (facts.serialno, facts.boot_serialno):
        if serialno is not None and not is_placeholder(serialno):
            return serialno
    return serial


def compare(before: Sighting, after: Sighting) -> Relation:
    """Tell a replug from a reboot from another phone.

    Where a boot id is unknown, only an unbroken connection proves that the phone has not been rebooted.
    """
    if before.identity != after.identity:
        return Relation.OTHER
    unbroken = (before.serial, before.session) == (after.serial, after.session)
    if before.boot_id is None or after.boot_id is None:
        return Relation.SAME if unbroken else Relation.REBOOTED
    if before.boot_id != after.boot_id:
        return Relation.REBOOTED
    return Relation.SAME if unbroken else Relation.REPLUGGED


def merge(sightings: Iterable[Sighting]) -> list[Unit]:
    """Make one unit of each phone, whatever the number of ways to it.

    One identity with one boot id is one phone, reached over several ways: the best (USB, then a local emulator,
    then the network) is kept and the others are its alternatives. One identity with several boot ids is as many
    phones with a cloned serial number: each gets its ADB serial appended, ``SERIAL@emulator-5554``, and a
    warning. Where a boot id is unknown the phone is taken for the one with the same identity, because handing
    one phone out twice does more harm than leaving one of two aside.

    Returns:
        Units sorted by ADB serial.
    """
    by_identity: dict[str, dict[str | None, list[str]]] = {}
    for sighting in sightings:
        by_identity.setdefault(sighting.identity, {}).setdefault(sighting.boot_id, []).append(sighting.serial)
    units: list[Unit] = []
    for identity, boots in by_identity.items():
        units += _units(identity, boots)
    return sorted(units, key=lambda unit: unit.serial)


def _units(identity: str, boots: dict[str | None, list[str]]) -> list[Unit]:
    """The phones behind one identity; ``boots`` maps boot ids to ADB serials."""
    unsure = boots.pop(None, [])
    groups = [sorted(set(serials), key=_preference) for serials in boots.values()]
    groups.sort(key=lambda serials: _preference(serials[0]))
    if unsure and groups:
        groups[0] = sorted({*groups[0], *unsure}, key=_preference)
    elif unsure:
        groups = [sorted(set(unsure), key=_preference)]
    if len(groups) == 1:
        serials = groups[0]
        warning = None
        if unsure and len(serials) > 1:
            warning = "taken for one phone by its serial number alone, since it does not tell its boot id"
        return [Unit(identity, serials[0], tuple(serials[1:]), warning)]
    return [
        Unit(
            f"{identity}@{serials[0]}",
            serials[0],
            tuple(serials[1:]),
            f"{len(groups)} phones carry the serial number {identity}; this one goes by its ADB serial as well",
        )
        for serials in groups
    ]


def _preference(serial: str) -> tuple[int, str]:
    """Sort key of an ADB serial: USB, emulator, network (``host:port`` or an mDNS service name)."""
    if ":" in serial or "._adb" in serial:
        return 2, serial
    return (1 if serial.startswith("emulator-") else 0), serial

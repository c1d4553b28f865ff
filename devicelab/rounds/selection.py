"""Which devices may have a part in a round, with a reason for each that may not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from devicelab.devices.device import Device
from devicelab.devices.selectors import select
from devicelab.devices.states import DeviceState
from devicelab.errors import DevicelabError
from devicelab.rounds.events import Exclusion
from devicelab.runner.installation import pack_for
from devicelab.runner.packs import Pack

__all__ = ["Selection", "fit_for_work", "meant"]

_ASKERS = 16  # devices that are asked at a time


@dataclass(frozen=True)
class Selection:
    """Who may work.

    Attributes:
        ready: Each device with the pack that fits it, sorted by identity.
        excluded: The others that are on the desk, and why not.
    """

    ready: tuple[tuple[Device, Pack], ...]
    excluded: tuple[Exclusion, ...]


def meant(devices: Iterable[Device], experiment: Sequence[str], command: Sequence[str]) -> list[Device]:
    """The devices that both the experiment and the command line mean; each means all if it names none.

    Raises:
        ConfigError: A selector makes no sense.
    """
    both = list(devices)
    for selectors in (experiment, command):
        both = select(both, list(selectors), allow_none=True)
    return both


def fit_for_work(
    devices: Sequence[Device],
    *,
    chosen: Sequence[Device],
    engine: Path | None = None,
    known: dict[str, Pack] | None = None,
) -> Selection:
    """Sort devices into those that may work and those that may not.

    Args:
        devices: All that were found.
        chosen: Those of them that are meant.
        engine: An engine that somebody gave.
        known: Packs by identity from earlier looks; what is found out is added.

    Raises:
        ConfigError: This host has no engine or runner for a device, or cannot fetch it.
    """
    packs = known if known is not None else {}
    excluded = [Exclusion(device.serial, "no selector means it") for device in devices if device not in chosen]
    able = [device for device in chosen if device.ready and device.identity is not None]
    excluded += [
        Exclusion(device.serial, _state_words(device.state, device.reason))
        for device in chosen
        if device not in able
    ]
    ready = []
    with ThreadPoolExecutor(_ASKERS, thread_name_prefix="select") as pool:
        for device, found in zip(able, pool.map(lambda each: _pack(each, engine, packs), able), strict=True):
            if isinstance(found, Pack):
                ready.append((device, found))
            else:
                excluded.append(Exclusion(device.serial, found))
    ready.sort(key=lambda each: each[0].identity or "")
    excluded.sort(key=lambda each: each.device)
    return Selection(tuple(ready), tuple(excluded))


def _pack(device: Device, engine: Path | None, known: dict[str, Pack]) -> Pack | str:
    """The pack for a device, or why it can have none."""
    identity = device.identity or ""
    if identity not in known:
        try:
            known[identity] = pack_for(device, engine=engine)
        except DevicelabError as error:
            if error.device is None:
                raise  # this host's trouble, not the device's
            return f"{error.message}: {error.hint}" if error.hint else error.message
    return known[identity]


def _state_words(state: DeviceState, reason: str) -> str:
    return f"is {state}: {reason}" if reason else f"is {state}"

"""The eight states of a device, and which one it is in.

The first line that applies decides:

============  ==================================================================  ====================
state         when                                                                where known from
============  ==================================================================  ====================
absent        an address that was asked for and where nothing answers, or a       endpoint, connecting
              phone that left while it was being asked
unauthorized  the phone waits for "Allow", or this user may not open it on USB    endpoint, connecting
offline       listed, but it does not answer ADB, or not with what was asked      endpoint, connecting,
                                                                                  probe (no nonce)
booting       it answers, but Android has not finished starting                   probe
quarantined   it kept failing and is kept out until a given time                  quarantine file
quarantined   its work directory cannot be written, read or deleted in            probe
busy          somebody else has leased it                                         lease file
cooling       battery or chip too hot; waiting is all it takes                    health gates
quarantined   another health gate says no: charge, storage, memory, or unknown    health gates
              under strict gates
ready         otherwise
============  ==================================================================  ====================

So *cooling* is about heat only, and *quarantined* is every reason of the lab's own to keep a reachable phone
out until somebody or something mends it; the reason always says which and what to do. A failed check ranks
above a lease, because the end of the lease would not help, and a lease above the gates, because a phone at work
is warm. Where heat and another gate fail together the state is cooling and the reason lists both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from devicelab.adb.connection import Endpoint, EndpointState
from devicelab.devices.health import Gates, check
from devicelab.devices.leases import LeaseInfo
from devicelab.devices.probe import Probe
from devicelab.devices.quarantine import Quarantined
from devicelab.devices.text import clean
from devicelab.errors import DevicelabError, DeviceLostError, DeviceUnauthorizedError

__all__ = ["DeviceState", "Verdict", "derive"]

_ALLOW = 'unlock it and press "Allow" on its screen (tick "Always allow from this computer")'
_USB_RULES = (
    "this user may not open it on USB: add a udev rule for it (Debian: android-sdk-platform-tools-common)"
)


class DeviceState(StrEnum):
    """What can be done with a device now."""

    ABSENT = "absent"
    UNAUTHORIZED = "unauthorized"
    OFFLINE = "offline"
    BOOTING = "booting"
    READY = "ready"
    BUSY = "busy"
    COOLING = "cooling"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A state and why.

    Attributes:
        state: One of the eight.
        reason: What is the matter and what to do, for people; empty when ready.
    """

    state: DeviceState
    reason: str = ""

    @property
    def ready(self) -> bool:
        """Whether it may be given work."""
        return self.state is DeviceState.READY


def derive(
    endpoint: Endpoint,
    *,
    probe: Probe | None = None,
    failure: DevicelabError | None = None,
    gates: Gates | None = None,
    lease: LeaseInfo | None = None,
    quarantined: Quarantined | None = None,
) -> Verdict:
    """Decide a device's state. Pure.

    Args:
        endpoint: What the transport lists.
        probe: What the phone answered, if it could be asked.
        failure: Why it could not.
        gates: The health limits; the default ones if left out.
        lease: Who holds it; one that the caller holds itself does not make it busy.
        quarantined: Until when it is kept out.
    """
    return (
        _unreachable(endpoint, probe, failure)
        or _unfit(probe, quarantined)
        or _taken(lease)
        or _unwell(probe, gates or Gates())
        or Verdict(DeviceState.READY)
    )


def _unreachable(endpoint: Endpoint, probe: Probe | None, failure: DevicelabError | None) -> Verdict | None:
    detail = clean(endpoint.detail)
    match endpoint.state:
        case EndpointState.ABSENT:
            return Verdict(DeviceState.ABSENT, detail or "nothing answers at this address: is the phone on?")
        case EndpointState.UNAUTHORIZED:
            return Verdict(DeviceState.UNAUTHORIZED, _ALLOW)
        case EndpointState.NO_PERMISSION:
            return Verdict(DeviceState.UNAUTHORIZED, _USB_RULES)
        case EndpointState.OFFLINE:
            what = f"adb says {detail}" if detail else "it does not answer adb"
            return Verdict(DeviceState.OFFLINE, f"{what}: replug it, or switch USB debugging off and on")
        case EndpointState.ONLINE:
            return _unanswered(probe, failure)


def _unanswered(probe: Probe | None, failure: DevicelabError | None) -> Verdict | None:
    if isinstance(failure, DeviceUnauthorizedError):
        return Verdict(DeviceState.UNAUTHORIZED, failure.hint or _ALLOW)
    if failure is not None:
        words = clean(failure.message)
        left = isinstance(failure, DeviceLostError)  # between the listing and the question
        state = DeviceState.ABSENT if left else DeviceState.OFFLINE
        return Verdict(state, f"{words}: {clean(failure.hint)}" if failure.hint else words)
    if probe is None:
        return Verdict(DeviceState.OFFLINE, "it has not been asked yet")
    if not probe.answered:
        return Verdict(DeviceState.OFFLINE, probe.problem or "it does not answer")
    if probe.facts.boot_completed is False:
        return Verdict(DeviceState.BOOTING, "Android is still starting: wait")
    return None


def _unfit(probe: Probe | None, quarantined: Quarantined | None) -> Verdict | None:
    if quarantined is not None:
        until = quarantined.until.astimezone()
        reason = f"kept out until {until:%Y-%m-%d %H:%M}: {clean(quarantined.reason)}"
        return Verdict(DeviceState.QUARANTINED, reason)
    if probe is not None and probe.problem:
        return Verdict(DeviceState.QUARANTINED, probe.problem)
    return None


def _taken(lease: LeaseInfo | None) -> Verdict | None:
    if lease is None or lease.mine:
        return None
    return Verdict(DeviceState.BUSY, lease.words)


def _unwell(probe: Probe | None, gates: Gates) -> Verdict | None:
    reasons = check(probe.facts, gates) if probe is not None else []
    if not reasons:
        return None
    hot = any(reason.gate.heat and not reason.unknown for reason in reasons)
    state = DeviceState.COOLING if hot else DeviceState.QUARANTINED
    return Verdict(state, "; ".join(reason.text for reason in reasons))

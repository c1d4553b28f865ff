"""One of eight states for every phone, by a stated precedence, with a reason that helps."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.adb.connection import Endpoint, EndpointState
from devicelab.devices.battery import BatteryFacts
from devicelab.devices.facts import DeviceFacts
from devicelab.devices.health import Gates
from devicelab.devices.leases import LeaseInfo
from devicelab.devices.probe import Probe
from devicelab.devices.quarantine import Quarantined
from devicelab.devices.states import DeviceState, Verdict, derive
from devicelab.devices.thermal import ThermalFacts, ThermalStatus
from devicelab.errors import (
    DeadlineError,
    DevicelabError,
    DeviceLostError,
    DeviceUnauthorizedError,
)

ONLINE = Endpoint("R58M123", EndpointState.ONLINE)
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WELL = Probe(
    facts=DeviceFacts(
        boot_completed=True,
        battery=BatteryFacts(percent=80.0, celsius=25.0),
        thermal=ThermalFacts(status=ThermalStatus.NONE),
        free_storage_mb=5000,
        free_memory_mb=2000,
    )
)
HOT = replace(WELL, facts=replace(WELL.facts, thermal=ThermalFacts(status=ThermalStatus.SEVERE)))
EMPTY = replace(WELL, facts=replace(WELL.facts, battery=BatteryFacts(percent=3.0, plugged=False)))
FULL = replace(WELL, problem="cannot write to /data/local/tmp: No space left on device")
BOOTING = replace(WELL, facts=replace(WELL.facts, boot_completed=False))
LEASE = LeaseInfo("R58M123", "leased by anna on desk (process 7, run-round)", "wait", NOON)
KEPT_OUT = Quarantined("R58M123", "the runner crashed", NOON)


def test_ready() -> None:
    assert derive(ONLINE, probe=WELL) == Verdict(DeviceState.READY, "")
    assert derive(ONLINE, probe=WELL).ready


def test_the_eight_states() -> None:
    assert [str(state) for state in DeviceState] == [
        "absent", "unauthorized", "offline", "booting", "ready", "busy", "cooling", "quarantined",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("endpoint", "detail", "state", "words"),
    [
        (EndpointState.ABSENT, "", DeviceState.ABSENT, "is the phone on?"),
        (EndpointState.ABSENT, "connection refused", DeviceState.ABSENT, "connection refused"),
        (EndpointState.UNAUTHORIZED, "", DeviceState.UNAUTHORIZED, 'press "Allow"'),
        (EndpointState.NO_PERMISSION, "", DeviceState.UNAUTHORIZED, "udev"),
        (EndpointState.OFFLINE, "", DeviceState.OFFLINE, "replug"),
        (EndpointState.OFFLINE, "recovery", DeviceState.OFFLINE, "adb says recovery"),
        (EndpointState.OFFLINE, "\x1b[31mevil", DeviceState.OFFLINE, "adb says evil"),
    ],
)
def test_what_the_transport_knows(endpoint: EndpointState, detail: str, state: DeviceState, words: str) -> None:
    verdict = derive(Endpoint("x", endpoint, detail), lease=LEASE, quarantined=KEPT_OUT)
    assert verdict.state is state
    assert words in verdict.reason
    assert not verdict.ready


@pytest.mark.parametrize(
    ("failure", "state", "reason"),
    [
        (DeviceLostError("connection reset", device="x"), DeviceState.ABSENT, "connection reset"),
        (
            DeviceLostError("connection reset", device="x", hint="look at the cable"),
            DeviceState.ABSENT,
            "connection reset: look at the cable",
        ),
        (
            DeadlineError("health check", seconds=5, device="x"),
            DeviceState.OFFLINE,
            "health check: no end within 5 s",
        ),
        (DeviceUnauthorizedError("no", device="x", hint="press it"), DeviceState.UNAUTHORIZED, "press it"),
    ],
)
def test_a_phone_that_could_not_be_asked(failure: DevicelabError, state: DeviceState, reason: str) -> None:
    assert derive(ONLINE, failure=failure) == Verdict(state, reason)


def test_a_phone_that_talks_nonsense_is_offline() -> None:
    verdict = derive(ONLINE, probe=Probe(problem="its shell did not echo", answered=False))
    assert verdict == Verdict(DeviceState.OFFLINE, "its shell did not echo")
    assert derive(ONLINE).state is DeviceState.OFFLINE


def test_the_labs_own_reasons() -> None:
    assert derive(ONLINE, probe=BOOTING).state is DeviceState.BOOTING
    assert derive(ONLINE, probe=FULL) == Verdict(DeviceState.QUARANTINED, str(FULL.problem))
    assert derive(ONLINE, probe=WELL, lease=LEASE) == Verdict(DeviceState.BUSY, LEASE.words)
    assert derive(ONLINE, probe=WELL, lease=replace(LEASE, mine=True)).ready
    kept_out = derive(ONLINE, probe=WELL, quarantined=KEPT_OUT)
    assert kept_out.state is DeviceState.QUARANTINED
    assert kept_out.reason.startswith("kept out until 2026-03-01 ")
    assert kept_out.reason.endswith("the runner crashed")


def test_cooling_is_about_heat_only() -> None:
    assert derive(ONLINE, probe=HOT).state is DeviceState.COOLING
    empty = derive(ONLINE, probe=EMPTY)
    assert empty.state is DeviceState.QUARANTINED
    assert "plug in a charger" in empty.reason
    both = replace(HOT, facts=replace(HOT.facts, free_storage_mb=1))
    verdict = derive(ONLINE, probe=both)
    assert verdict.state is DeviceState.COOLING
    assert "thermal status severe" in verdict.reason
    assert "1 MB free" in verdict.reason


def test_what_is_unknown_does_not_cool() -> None:
    unknown = Probe(facts=DeviceFacts(boot_completed=True))
    assert derive(ONLINE, probe=unknown).ready
    assert derive(ONLINE, probe=unknown, gates=Gates(strict=True)).state is DeviceState.QUARANTINED


def test_a_phone_that_does_not_tell_whether_it_has_booted_may_work() -> None:
    assert derive(ONLINE, probe=replace(WELL, facts=replace(WELL.facts, boot_completed=None))).ready


OFFLINE = Endpoint("x", EndpointState.OFFLINE)


@given(
    endpoint=st.sampled_from([ONLINE, OFFLINE]),
    lost=st.booleans(),
    booting=st.booleans(),
    kept_out=st.booleans(),
    full=st.booleans(),
    leased=st.booleans(),
    hot=st.booleans(),
)
def test_the_first_thing_that_is_wrong_decides(
    *, endpoint: Endpoint, lost: bool, booting: bool, kept_out: bool, full: bool, leased: bool, hot: bool
) -> None:
    facts = replace(HOT.facts if hot else WELL.facts, boot_completed=not booting)
    verdict = derive(
        endpoint,
        probe=None if lost else Probe(facts=facts, problem=FULL.problem if full else None),
        failure=DeviceLostError("gone", device="x") if lost else None,
        lease=LEASE if leased else None,
        quarantined=KEPT_OUT if kept_out else None,
    )
    order = [
        (endpoint is OFFLINE, DeviceState.OFFLINE),
        (lost, DeviceState.ABSENT),
        (booting, DeviceState.BOOTING),
        (kept_out or full, DeviceState.QUARANTINED),
        (leased, DeviceState.BUSY),
        (hot, DeviceState.COOLING),
        (True, DeviceState.READY),
    ]
    assert verdict.state is next(state for applies, state in order if applies)
    assert verdict.ready is (verdict.reason == "")

"""--device: what fits, what makes no sense, and why nothing fits."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.adb.connection import TransportName
from devicelab.devices.battery import BatteryFacts
from devicelab.devices.facts import DeviceFacts
from devicelab.devices.selectors import parse_selector, select
from devicelab.devices.states import DeviceState
from devicelab.devices.thermal import ThermalFacts, ThermalStatus
from devicelab.errors import ConfigError, NoDeviceError


@dataclass
class Phone:
    serial: str
    identity: str | None = None
    state: DeviceState = DeviceState.READY
    facts: DeviceFacts = field(default_factory=DeviceFacts)
    transport_name: str = "server"
    alternatives: tuple[str, ...] = ()
    name: str | None = None
    labels: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        return self.state is DeviceState.READY


PIXEL = Phone(
    "R58M1234",
    "ZP16000042",
    facts=DeviceFacts(
        model="Pixel 8 Pro", manufacturer="Google", android="16", sdk=36, abis=("arm64-v8a",), ram_mb=11530,
        free_storage_mb=90000, soc="Tensor G3", cores=9, page_size=16384,
        battery=BatteryFacts(percent=55.0, celsius=31.5), thermal=ThermalFacts(status=ThermalStatus.LIGHT),
    ),
    alternatives=("192.168.0.7:5555",),
    name="kitchen",
    labels=("fast", "new"),
)  # fmt: skip
OLD = Phone(
    "127.0.0.1:7001",
    "FJ4400A17C",
    state=DeviceState.COOLING,
    facts=DeviceFacts(
        model="Skerry One", manufacturer="Fjord", android="4.4.4", sdk=19, abis=("armeabi-v7a", "armeabi"),
        ram_mb=960, cores=4, page_size=4096, battery=BatteryFacts(percent=20.0),
    ),
    transport_name="direct",
)  # fmt: skip
MUTE = Phone("R58M9999", state=DeviceState.OFFLINE)
ALL = [PIXEL, OLD, MUTE]


@pytest.mark.parametrize(
    ("selectors", "meant"),
    [
        ([], ALL),
        (["R58M1234"], [PIXEL]),
        (["r58m1234"], [PIXEL]),
        (["ZP16000042"], [PIXEL]),
        (["192.168.0.7:5555"], [PIXEL]),
        (["127.0.0.1:7001"], [OLD]),
        (["FJ44"], [OLD]),
        (["kitchen"], [PIXEL]),
        (["kitc"], [PIXEL]),
        (["name=kit*"], [PIXEL]),
        (["name!=kitchen"], [OLD, MUTE]),
        (["label=new"], [PIXEL]),
        (["labels=f*"], [PIXEL]),
        (["label!=fast"], [OLD, MUTE]),
        (["R58M*"], [PIXEL, MUTE]),
        (["R58M12"], [PIXEL]),
        (["serial=R58M*"], [PIXEL, MUTE]),
        (["identity=FJ*"], [OLD]),
        (["model=Pixel*"], [PIXEL]),
        (["model = pixel 8 pro"], [PIXEL]),
        (["model!=Pixel*"], [OLD, MUTE]),
        (["MODEL=Pixel*"], [PIXEL]),
        (["manufacturer=google"], [PIXEL]),
        (["abi=armeabi"], [OLD]),
        (["abis=arm*"], [PIXEL, OLD]),
        (["abi!=armeabi*"], [PIXEL, MUTE]),
        (["sdk>=29"], [PIXEL]),
        (["sdk<29"], [OLD]),
        (["sdk==19"], [OLD]),
        (["sdk!=19"], [PIXEL, MUTE]),
        (["ram_mb>2000"], [PIXEL]),
        (["android>=4.4"], [PIXEL, OLD]),
        (["android<5"], [OLD]),
        (["android=4.4.4"], [OLD]),
        (["android=4.4*"], [OLD]),
        (["battery_percent>=50"], [PIXEL]),
        (["battery_celsius<32"], [PIXEL]),
        (["thermal_status<=light"], [PIXEL]),
        (["thermal_status>none"], [PIXEL]),
        (["page_size=16384"], [PIXEL]),
        (["cores>=4,cores<9"], [OLD]),
        (["soc=tensor*"], [PIXEL]),
        (["state=ready"], [PIXEL]),
        (["state!=ready"], [OLD, MUTE]),
        (["ready=yes"], [PIXEL]),
        (["ready=no"], [OLD, MUTE]),
        (["ready!=true"], [OLD, MUTE]),
        (["transport=direct"], [OLD]),
        (["abi=arm*, sdk<29"], [OLD]),
        (["sdk>=29", "R58M9999"], [PIXEL, MUTE]),
        (["model=Pixel*", "model=Skerry?One"], [PIXEL, OLD]),
    ],
)
def test_what_is_meant(selectors: list[str], meant: list[Phone]) -> None:
    assert select(ALL, selectors) == meant


@pytest.mark.parametrize(
    ("selector", "message", "hint"),
    [
        ("", "empty", "model=Pixel*"),
        ("sdk>=29,", "empty", "model=Pixel*"),
        ("modle=Pixel*", "no key 'modle'", "did you mean model?"),
        ("xyzzy=1", "no key 'xyzzy'", "Keys: serial"),
        ("sdk>=", "value is missing", "sdk>=29"),
        ("sdk>=ten", "'ten' is nothing to compare sdk with", "sdk>=29"),
        ("sdk>=1_0", "nothing to compare", "sdk>=29"),
        ("android>=KitKat", "nothing to compare", "android>=10"),
        ("model>Pixel", "model knows only = and !=", "model=Pixel*"),
        ("thermal_status<warm", "nothing to compare", "thermal_status<=light"),
        ("label>=fast", "label knows only = and !=", "label=fast"),
        ("ready=maybe", "nothing to compare", "ready=yes"),
        ("ready>=yes", "nothing to compare", "ready=yes"),
        ("ram=x", "nothing to compare", "ram_mb>2000"),
        ("R58M", "several devices begin with 'R58M': R58M1234, R58M9999", "more of the name"),
    ],
)
def test_what_makes_no_sense(selector: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select(ALL, [selector])
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_nothing_fits() -> None:
    with pytest.raises(NoDeviceError) as caught:
        select(ALL, ["abi=arm*,sdk>=99", "model=Nexus*"])
    assert "'abi=arm*,sdk>=99' (abi=arm* fits 2, sdk>=99 fits 0 of 3)" in caught.value.message
    assert "'model=Nexus*' (model=Nexus* fits 0 of 3)" in caught.value.message
    assert "R58M1234 (Pixel 8 Pro, arm64-v8a, ready)" in str(caught.value.hint)
    assert "R58M9999 (offline)" in str(caught.value.hint)
    assert caught.value.exit_code == 3


def test_nothing_fits_because_there_is_nothing() -> None:
    assert select([], []) == []
    with pytest.raises(NoDeviceError, match="no device is there"):
        select([], ["sdk>=29"])
    assert select([], ["sdk>=29"], allow_none=True) == []
    assert select(ALL, ["sdk>=99"], allow_none=True) == []


def test_many_devices_are_not_all_listed() -> None:
    crowd = [Phone(f"PHONE{n:03}") for n in range(50)]
    with pytest.raises(NoDeviceError) as caught:
        select(crowd, ["sdk>=29"])
    assert str(caught.value.hint).endswith("and 42 more")


def test_a_whole_name_wins_over_a_beginning() -> None:
    assert select([Phone("ABCD"), Phone("ABCD2")], ["ABCD"]) == [Phone("ABCD")]


def test_an_address_that_looks_like_a_pattern() -> None:
    assert select([Phone("[::1]:5555"), Phone("x:5555")], ["[::1]:5555"]) == [Phone("[::1]:5555")]


def test_short_beginnings_are_not_guessed() -> None:
    assert select([Phone("ABCD")], ["ABC"], allow_none=True) == []


@given(st.text(max_size=40))
def test_any_selector_is_understood_or_explained(text: str) -> None:
    with suppress(ConfigError):
        selector = parse_selector(text, ALL)
        assert [selector.fits(phone) for phone in ALL].count(True) <= len(ALL)


@given(
    st.sampled_from(["sdk", "ram_mb", "android", "thermal_status", "cores"]),
    st.integers(0, 6),
)
def test_comparisons_are_each_others_opposites(key: str, number: int) -> None:
    value = ThermalStatus(number).label if key == "thermal_status" else str(number)
    for phone in (PIXEL,):
        less = parse_selector(f"{key}<{value}").fits(phone)
        more = parse_selector(f"{key}>{value}").fits(phone)
        same = parse_selector(f"{key}={value}").fits(phone)
        assert [less, more, same].count(True) == 1
        assert parse_selector(f"{key}<={value}").fits(phone) is (less or same)
        assert parse_selector(f"{key}>={value}").fits(phone) is (more or same)
        assert parse_selector(f"{key}!={value}").fits(phone) is not same


def test_the_documentation_has_every_key_and_what_transport_takes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scripting.md").read_text()
    section = page.partition("## Selectors")[2].partition("\n## ")[0]
    with pytest.raises(ConfigError) as refused:
        parse_selector("nosuch=1")
    keys = (refused.value.hint or "").rpartition("Keys: ")[2].split(", ")
    assert "transport" in keys
    assert [key for key in keys if f"`{key}`" not in section] == []
    transports = " or ".join(f"`{word}`" for word in get_args(TransportName))
    assert f"`transport` is {transports}" in " ".join(section.split())

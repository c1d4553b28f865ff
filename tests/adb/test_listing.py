"""The server's listing, in all the states that adb has words for."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from devicelab.adb.connection import Endpoint, EndpointState
from devicelab.adb.listing import parse_listing

LONG = (
    "emulator-5554          device product:sdk_x model:sdk_gphone64_x86_64 device:emu64x transport_id:1\n"
    "R58M42                 unauthorized usb:1-4 transport_id:2\n"
    "192.168.0.7:5555       offline product:x model:Y_1 device:z transport_id:3\n"
    "8A3X                   no permissions (user in plugdev group; are your udev rules wrong?); "
    "see [http://developer.android.com/tools/device.html] usb:1-2 transport_id:4\n"
    "HT4                    recovery usb:1-5 product:a model:b device:c transport_id:5\n"
    "(no serial number)     no permissions; see [http://x] usb:2-1 transport_id:6\n"
    "adb-R58-x._adb-tls-connect._tcp device product:q model:Q device:q transport_id:7\n"
)


def test_a_long_listing() -> None:
    phones = parse_listing(LONG.encode())
    assert {serial: (phone.endpoint.state, phone.endpoint.detail) for serial, phone in phones.items()} == {
        "emulator-5554": (EndpointState.ONLINE, ""),
        "R58M42": (EndpointState.UNAUTHORIZED, "unauthorized"),
        "192.168.0.7:5555": (EndpointState.OFFLINE, "offline"),
        "8A3X": (
            EndpointState.NO_PERMISSION,
            "no permissions (user in plugdev group; are your udev rules wrong?); "
            "see [http://developer.android.com/tools/device.html] usb:1-2",
        ),
        "HT4": (EndpointState.OFFLINE, "recovery"),
        "(no serial number)": (EndpointState.NO_PERMISSION, "no permissions; see [http://x] usb:2-1"),
        "adb-R58-x._adb-tls-connect._tcp": (EndpointState.ONLINE, ""),
    }
    assert phones["emulator-5554"].banner == {
        "ro.product.name": "sdk_x",
        "ro.product.model": "sdk_gphone64_x86_64",
        "ro.product.device": "emu64x",
    }
    assert phones["R58M42"].banner == {}


@pytest.mark.parametrize(
    "word", ["connecting", "authorizing", "sideload", "rescue", "bootloader", "host", "detached"]
)
def test_other_states_are_offline_with_the_servers_own_word(word: str) -> None:
    assert parse_listing(f"R58\t{word}\n".encode())["R58"].endpoint == Endpoint(
        "R58", EndpointState.OFFLINE, word
    )


def test_of_two_phones_with_one_serial_the_usable_one_counts() -> None:
    clones = b"0123456789ABCDEF\toffline\n0123456789ABCDEF\tdevice\n0123456789ABCDEF\tunauthorized\n"
    assert parse_listing(clones)["0123456789ABCDEF"].endpoint.state is EndpointState.ONLINE


def test_nothing_listed() -> None:
    assert parse_listing(b"") == {}
    assert parse_listing(b"\n\nR58\n\t\n") == {}


@given(st.binary(max_size=400))
@example(b"\xff\xfe device\n")
@settings(max_examples=600)
def test_whatever_is_listed_every_serial_stands_once(block: bytes) -> None:
    for serial, phone in parse_listing(block).items():
        assert phone.endpoint.serial == serial != ""

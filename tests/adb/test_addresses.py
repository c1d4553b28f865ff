"""Addresses of phones on TCP: which are valid, and which answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devicelab.adb.addresses import Address, Resolver, parse_address, probe, require_address
from devicelab.errors import ConfigError


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.168.1.20:5555", Address("192.168.1.20", 5555)),
        ("phone.local:65535", Address("phone.local", 65535)),
        ("pixel-7:1", Address("pixel-7", 1)),
        ("[::1]:5555", Address("::1", 5555)),
        ("[fe80::1%eth0]:5555", Address("fe80::1%eth0", 5555)),
    ],
)
def test_valid_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":5555",
        "R58M123ABC",
        "emulator-5554",
        "host:0",
        "host:65536",
        "host:123456",
        "host:-1",
        "host:५",
        "::1:5555",
        "[::1]",
        "[not:v6]:5555",
        "[1.2.3.4]:5555",
        "-oProxy:5555",
        "a b:5555",
        "a/b:5555",
        "host:5555\n",
        "ho\0st:5555",
    ],
)
def test_what_is_no_address(text: str) -> None:
    assert parse_address(text) is None


@settings(max_examples=300)
@given(st.text(max_size=40))
def test_any_text_is_an_address_that_comes_back_or_none(text: str) -> None:
    address = parse_address(text)
    if address is not None:
        assert 1 <= address.port <= 65535
        assert parse_address(str(address)) == address


def test_without_a_port_the_usual_one_is_meant() -> None:
    assert require_address("192.168.1.20") == Address("192.168.1.20", 5555)
    assert require_address("[::1]") == Address("::1", 5555)


def test_nonsense_is_a_config_error_that_says_what_to_write() -> None:
    with pytest.raises(ConfigError, match="'a b'") as caught:
        require_address("a b")
    assert "HOST:PORT" in str(caught.value.hint)


def test_probe_tells_who_listens(listener: socket.socket) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: refused
        verdicts = probe(
            {
                "there": Address("127.0.0.1", listener.getsockname()[1]),
                "by name": Address("localhost", listener.getsockname()[1]),
                "refused": Address("127.0.0.1", unused.getsockname()[1]),
            },
            Resolver(),
            10.0,
        )
    assert verdicts == {"there": None, "by name": None, "refused": "Connection refused"}


def test_probe_looks_at_all_addresses_at_once_and_gives_up_in_time() -> None:
    """A listener whose queue is full does not answer; forty of them must not take forty times as long."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.settimeout(0.0)
                filler.connect_ex(full.getsockname())
            targets = {f"silent {n}": Address("127.0.0.1", full.getsockname()[1]) for n in range(40)}
            began = time.monotonic()
            verdicts = probe(targets, Resolver(), 0.5)
            took = time.monotonic() - began
        finally:
            for filler in fillers:
                filler.close()
    assert set(verdicts.values()) == {"no answer"}
    assert 0.4 < took < 15


def test_a_host_without_ipv6_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def only_four(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, kind)

    monkeypatch.setattr(socket, "socket", only_four)
    verdicts = probe({"six": Address("::1", 5555)}, Resolver(), 5.0)
    assert verdicts == {"six": "Address family not supported by protocol"}


def test_a_name_that_does_not_exist_is_not_reachable() -> None:
    verdicts = probe({"x": Address("no-such-phone.invalid", 5555)}, Resolver(), 5.0)
    assert verdicts["x"] is not None


def test_a_slow_name_server_does_not_stop_us(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    real = socket.getaddrinfo

    def slow(host: str, port: int, **options: int) -> object:
        if options.get("flags"):  # only whether it is a number
            return real(host, port, **options)
        answer.wait(20)
        return real("127.0.0.1", port)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    resolver = Resolver()
    try:
        with pytest.raises(TimeoutError, match="not resolved in time"):
            resolver.resolve(Address("slow.example", 5555), 0.2)
    finally:
        answer.set()
    assert resolver.resolve(Address("slow.example", 5555), 10.0)[0].address == ("127.0.0.1", 5555)


def test_names_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = socket.getaddrinfo, []

    def counting(host: str, port: int, **options: int) -> object:
        if not options.get("flags"):
            asked.append(host)
        return real(host, port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", counting)
    resolver = Resolver()
    for port in (1, 2, 3):
        found = resolver.resolve(Address("localhost", port), 10.0)
        assert {target.address[1] for target in found} == {port}
    assert asked == ["localhost"]


@pytest.mark.parametrize("host", ["a..b", "a" * 300])
def test_a_name_that_no_server_could_be_asked_for_leads_nowhere(host: str) -> None:
    with pytest.raises(OSError, match="no host can be called so"):
        Resolver().resolve(Address(host, 5555), 2.0)

"""Devices that keep failing are kept out, for a while."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.devices.quarantine import Quarantine, QuarantineRule
from devicelab.errors import ConfigError

RULE = QuarantineRule(strikes=3, window=100, period=1000)


class Clock:
    def __init__(self) -> None:
        self.now = 1_750_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quarantine(tmp_path: Path, clock: Clock) -> Quarantine:
    return Quarantine(tmp_path / "state", RULE, clock=clock)


def test_three_strikes_within_the_window_and_out(quarantine: Quarantine, clock: Clock) -> None:
    assert quarantine.strike("A", "first") is None
    clock.now += 10
    assert quarantine.strike("A", "second") is None
    assert quarantine.until("A") is None
    clock.now += 10
    out = quarantine.strike("A", "the runner crashed")
    assert out is not None
    assert out == quarantine.until("A")
    assert (out.reason, out.until.timestamp()) == ("the runner crashed", clock.now + 1000)
    assert quarantine.all() == [out]


def test_strikes_wear_off(quarantine: Quarantine, clock: Clock) -> None:
    for _ in range(10):
        assert quarantine.strike("A", "now and then") is None
        clock.now += 60


def test_strikes_are_per_device(quarantine: Quarantine) -> None:
    for identity in ("A", "B", "C", "A", "B"):
        assert quarantine.strike(identity, "x") is None
    assert quarantine.strike("A", "x") is not None
    assert quarantine.until("B") is None


def test_it_ends_by_itself_and_begins_afresh(quarantine: Quarantine, clock: Clock) -> None:
    for _ in range(3):
        quarantine.strike("A", "x")
    clock.now += 999
    assert quarantine.until("A") is not None
    clock.now += 1
    assert quarantine.until("A") is None
    assert quarantine.all() == []
    assert quarantine.strike("A", "x") is None


def test_more_strikes_do_not_prolong_it(quarantine: Quarantine, clock: Clock) -> None:
    for _ in range(3):
        out = quarantine.strike("A", "x")
    clock.now += 500
    assert quarantine.strike("A", "another") == out


def test_release(quarantine: Quarantine) -> None:
    for _ in range(3):
        quarantine.strike("A", "x")
    assert quarantine.release("A")
    assert quarantine.until("A") is None
    assert not quarantine.release("A")


def test_nothing_is_kept_that_no_longer_matters(quarantine: Quarantine, clock: Clock) -> None:
    for number in range(20):
        quarantine.strike(f"phone {number}", "x")
    clock.now += 5000
    quarantine.strike("A", "x")
    assert list(json.loads(quarantine.path.read_text())["devices"]) == ["A"]


def test_reading_makes_nothing(quarantine: Quarantine) -> None:
    assert quarantine.until("A") is None
    assert quarantine.all() == []
    assert not quarantine.path.parent.exists()


def test_it_survives_the_process(tmp_path: Path, clock: Clock) -> None:
    for _ in range(3):
        Quarantine(tmp_path, RULE, clock=clock).strike("Ä\n", "grün \x1b[31mred")
    (out,) = Quarantine(tmp_path, RULE, clock=clock).all()
    assert (out.identity, out.reason) == ("Ä\n", "grün red")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"version": 2, "devices": {}}',
        b'{"version": 1}',
        b'{"version": 1, "devices": {"A": []}}',
        b'{"version": 1, "devices": {"A": {"strikes": [1], "until": 0, "reason": ""}}}',
        b'{"version": 1, "devices": {"A": {"strikes": [], "until": 1e300, "reason": ""}}}',
        b'{"version": 1, "devices": {"A": {"strikes": [], "until": NaN, "reason": ""}}}',
        b'{"version": 1, "devices": {"A": {"strikes": [], "until": 1' + b"0" * 400 + b', "reason": ""}}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_explained_and_set_aside(
    quarantine: Quarantine, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    quarantine.path.parent.mkdir()
    quarantine.path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert quarantine.all() == []
        assert quarantine.path.read_bytes() == content
        quarantine.strike("A", "x")
    assert quarantine.path.with_suffix(".corrupt").read_bytes() == content
    assert "cannot be understood" in caplog.text
    assert str(quarantine.path) in caplog.text
    assert list(json.loads(quarantine.path.read_text())["devices"]) == ["A"]


def test_a_state_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot use"):
        Quarantine(tmp_path / "file").strike("A", "x")
    (tmp_path / "quarantine.json").mkdir()
    with pytest.raises(ConfigError, match="cannot use"):
        Quarantine(tmp_path).all()


@pytest.mark.parametrize(
    "wrong",
    [{"strikes": 0}, {"window": 0.0}, {"period": float("nan")}, {"period": -1.0}, {"window": float("inf")}],
)
def test_rules_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        QuarantineRule(**wrong)  # type: ignore[arg-type]


STRIKER = """
import sys
from pathlib import Path
from devicelab.devices.quarantine import Quarantine, QuarantineRule

quarantine = Quarantine(Path(sys.argv[1]), QuarantineRule(strikes=1000))
for _ in range(10):
    quarantine.strike("shared", "x")
    quarantine.strike(sys.argv[2], "x")
"""


def test_strikes_of_many_processes_are_all_counted(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", STRIKER, str(tmp_path), f"own {number}"]) for number in range(4)
    ]
    assert [process.wait(150) for process in processes] == [0, 0, 0, 0]
    devices = json.loads((tmp_path / "quarantine.json").read_text())["devices"]
    counts = {name: len(record["strikes"]) for name, record in devices.items()}
    assert counts == {"shared": 40, "own 0": 10, "own 1": 10, "own 2": 10, "own 3": 10}


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["A", "strikes", "until", "reason", "at"]), inner)
    ),
)


@given(DOCUMENTS)
def test_any_json_is_survived(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    directory = tmp_path_factory.mktemp("quarantine")
    (directory / "quarantine.json").write_text(json.dumps({"version": 1, "devices": value}))
    Quarantine(directory).all()

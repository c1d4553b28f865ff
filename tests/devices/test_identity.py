"""Who is who: placeholders, clones, several ways to one phone, replugs and reboots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.devices.facts import DeviceFacts
from devicelab.devices.identity import Relation, Sighting, compare, identity_of, is_placeholder, merge


@pytest.mark.parametrize(
    "serialno",
    ["", " ", "unknown", "UNKNOWN", "0123456789ABCDEF", "0123456789abcdef", "123456789abcdef", "1234567890",
     "0000000000000000", "ffffffff", "x", "null", "EMULATOR35X2X10X0"],
)  # fmt: skip
def test_placeholders(serialno: str) -> None:
    assert is_placeholder(serialno)


@pytest.mark.parametrize("serialno", ["R58M123ABC", "FA6AB0305678", "12ab34cd", "0123X", "emulator-5554"])
def test_real_serial_numbers(serialno: str) -> None:
    assert not is_placeholder(serialno)


@pytest.mark.parametrize(
    ("serialno", "boot_serialno", "identity"),
    [
        ("R58M123", "other", "R58M123"),
        (None, "R58M123", "R58M123"),
        ("unknown", "R58M123", "R58M123"),
        ("0123456789ABCDEF", "0123456789ABCDEF", "127.0.0.1:7001"),
        (None, None, "127.0.0.1:7001"),
    ],
)
def test_identity(serialno: str | None, boot_serialno: str | None, identity: str) -> None:
    facts = DeviceFacts(serialno=serialno, boot_serialno=boot_serialno)
    assert identity_of(facts, "127.0.0.1:7001") == identity


BEFORE = Sighting("USB1", "R58M123", "boot-a", session=1)


@pytest.mark.parametrize(
    ("after", "relation"),
    [
        (BEFORE, Relation.SAME),
        (Sighting("USB1", "R58M123", "boot-a", session=2), Relation.REPLUGGED),
        (Sighting("10.0.0.5:5555", "R58M123", "boot-a", session=1), Relation.REPLUGGED),
        (Sighting("USB1", "R58M123", "boot-b", session=2), Relation.REBOOTED),
        (Sighting("USB1", "R58M123", None, session=2), Relation.REBOOTED),
        (Sighting("USB1", "R58M123", None, session=1), Relation.SAME),
        (Sighting("USB1", "R58M999", "boot-a", session=1), Relation.OTHER),
    ],
)
def test_what_became_of_a_phone(after: Sighting, relation: Relation) -> None:
    assert compare(BEFORE, after) is relation


def test_one_phone_over_several_ways_is_one() -> None:
    units = merge(
        [
            Sighting("10.0.0.5:5555", "R58M123", "boot-a"),
            Sighting("adb-R58M123-x._adb-tls-connect._tcp", "R58M123", "boot-a"),
            Sighting("R58M123", "R58M123", "boot-a"),
        ]
    )
    assert len(units) == 1
    assert units[0].identity == "R58M123"
    assert units[0].serial == "R58M123"
    assert units[0].alternatives == ("10.0.0.5:5555", "adb-R58M123-x._adb-tls-connect._tcp")
    assert units[0].warning is None


def test_cloned_serial_numbers_are_told_apart_by_their_boots() -> None:
    units = merge(
        [
            Sighting("127.0.0.1:7002", "CLONE1", "boot-b"),
            Sighting("127.0.0.1:7001", "CLONE1", "boot-a"),
            Sighting("127.0.0.1:7003", "CLONE1", "boot-b"),
        ]
    )
    assert [(unit.identity, unit.serial, unit.alternatives) for unit in units] == [
        ("CLONE1@127.0.0.1:7001", "127.0.0.1:7001", ()),
        ("CLONE1@127.0.0.1:7002", "127.0.0.1:7002", ("127.0.0.1:7003",)),
    ]
    assert all(unit.warning is not None and "2 phones carry" in unit.warning for unit in units)


def test_an_unknown_boot_counts_as_the_same_phone() -> None:
    (unit,) = merge([Sighting("10.0.0.5:5555", "R58M123"), Sighting("R58M123", "R58M123", "boot-a")])
    assert (unit.serial, unit.alternatives) == ("R58M123", ("10.0.0.5:5555",))
    assert unit.warning is not None
    (unit,) = merge([Sighting("b:1", "R58M123"), Sighting("a:1", "R58M123")])
    assert (unit.serial, unit.alternatives) == ("a:1", ("b:1",))
    (alone,) = merge([Sighting("a:1", "R58M123")])
    assert alone.warning is None


SIGHTINGS = st.lists(
    st.builds(
        Sighting,
        serial=st.sampled_from(["USB1", "USB2", "emulator-5554", "h:1", "h:2", "h:3"]),
        identity=st.sampled_from(["A", "B"]),
        boot_id=st.sampled_from([None, "x", "y"]),
    ),
    unique_by=lambda sighting: sighting.serial,
)


@given(SIGHTINGS, st.randoms())
def test_every_way_belongs_to_exactly_one_unit_whatever_the_order(
    sightings: list[Sighting],
    random: st.randoms,  # type: ignore[valid-type]
) -> None:
    units = merge(sightings)
    ways = [way for unit in units for way in (unit.serial, *unit.alternatives)]
    assert sorted(ways) == sorted(sighting.serial for sighting in sightings)
    assert len({unit.identity for unit in units}) == len(units)
    shuffled = sorted(sightings, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert merge(shuffled) == units

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.data.placement import Capacity, Load, place, relative_speeds
from devicelab.errors import NoDeviceError

_LOADS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4),
    st.builds(Load, st.integers(1, 1000), st.integers(0, 10_000)),
    min_size=1,
    max_size=25,
)
_CAPACITIES = st.builds(
    Capacity,
    speed=st.none() | st.floats(0.1, 1000),
    cores=st.none() | st.integers(1, 16),
    room=st.none(),
)
_DEVICES = st.dictionaries(st.sampled_from("ABCDEFGH"), _CAPACITIES, min_size=1, max_size=6)


def _work(clients: dict[str, Load], placed: dict[str, str]) -> Counter[str]:
    work: Counter[str] = Counter()
    for client, device in placed.items():
        work[device] += clients[client].examples
    return work


@given(_LOADS, _DEVICES)
def test_every_client_is_placed_once_on_a_device_that_is_there(
    clients: dict[str, Load], devices: dict[str, Capacity]
) -> None:
    placed = place(clients, devices)
    assert list(placed) == list(clients)
    assert set(placed.values()) <= set(devices)


@given(_LOADS, _DEVICES)
def test_no_device_has_more_than_its_share_by_more_than_the_tolerance_and_one_client(
    clients: dict[str, Load], devices: dict[str, Capacity]
) -> None:
    placed = place(clients, devices)
    speeds = relative_speeds(devices)
    ideal = sum(load.examples for load in clients.values()) / sum(speeds.values())
    largest = max(load.examples for load in clients.values())
    slowest = max(work / speeds[device] for device, work in _work(clients, placed).items())
    # Graham's bound for machines of different speeds: the last client might as well go to the fastest.
    assert slowest <= 1.1 * ideal + largest * len(devices) / sum(speeds.values()) + 1e-6


@given(_LOADS, _DEVICES, st.data())
def test_the_order_of_names_plays_no_part(
    clients: dict[str, Load], devices: dict[str, Capacity], data: st.DataObject
) -> None:
    shuffled = dict(data.draw(st.permutations(list(clients.items()))))
    mixed = dict(data.draw(st.permutations(list(devices.items()))))
    assert place(shuffled, mixed) == place(clients, devices)


@given(_LOADS, _DEVICES)
def test_the_same_question_has_the_same_answer(clients: dict[str, Load], devices: dict[str, Capacity]) -> None:
    placed = place(clients, devices)
    assert place(clients, devices, previous=placed) == placed


@given(_LOADS, _DEVICES, st.data())
def test_a_device_that_leaves_moves_its_own_clients_only(
    clients: dict[str, Load], devices: dict[str, Capacity], data: st.DataObject
) -> None:
    placed = place(clients, devices)
    gone = data.draw(st.sampled_from(sorted(devices)))
    # Speeds in the unit of before: without a measured device others' cores would count differently.
    speeds = relative_speeds(devices)
    rest = {name: Capacity(speed=speeds[name]) for name in devices if name != gone}
    if not rest:
        with pytest.raises(NoDeviceError, match="no device to place"):
            place(clients, rest, previous=placed)
        return
    after = place(clients, rest, previous=placed)
    assert {c: d for c, d in after.items() if placed[c] != gone} == {
        c: d for c, d in placed.items() if d != gone
    }


@given(_LOADS, _DEVICES, st.data())
def test_a_device_that_comes_is_no_reason_for_worse(
    clients: dict[str, Load], devices: dict[str, Capacity], data: st.DataObject
) -> None:
    speeds = relative_speeds(devices)
    before = {name: Capacity(speed=speed) for name, speed in speeds.items()}
    placed = place(clients, before)
    after = place(clients, before | {"new": Capacity(speed=data.draw(st.floats(0.1, 1000)))}, previous=placed)
    finish = {name: work / speeds[name] for name, work in _work(clients, placed).items()}
    for client, device in after.items():
        if device not in {placed[client], "new"}:  # moved between the old: it must have been slow where it was
            assert finish[placed[client]] > sum(x.examples for x in clients.values()) / (
                sum(speeds.values()) + 1000
            )
    slowest = max(finish.values())
    later = _work(clients, after)
    assert all(work / speeds[name] <= slowest + 1e-9 for name, work in later.items() if name != "new")


@given(_LOADS, _DEVICES, _DEVICES, st.data())
def test_pinned_clients_stay_where_they_were(
    clients: dict[str, Load], devices: dict[str, Capacity], others: dict[str, Capacity], data: st.DataObject
) -> None:
    placed = place(clients, devices)
    pinned = data.draw(st.sets(st.sampled_from(sorted(clients))))
    now = {name: Capacity(speed=1.0) for name in (devices | others)}
    after = place(clients, now, previous=placed, pinned=pinned)
    assert all(after[client] == placed[client] for client in pinned)


@given(_LOADS, st.dictionaries(st.sampled_from("ABCD"), st.integers(0, 60_000), min_size=1))
def test_room_is_respected(clients: dict[str, Load], rooms: dict[str, int]) -> None:
    devices = {name: Capacity(cores=4, room=room) for name, room in rooms.items()}
    try:
        placed = place(clients, devices)
    except NoDeviceError:
        largest = max(load.size for load in clients.values())
        total = sum(load.size for load in clients.values())
        # Refused only where some device would be full with any one client more.
        assert total > sum(max(0, room - largest) for room in rooms.values())
        return
    used: Counter[str] = Counter()
    for client, device in placed.items():
        used[device] += clients[client].size
    assert all(used[name] <= room for name, room in rooms.items())


def test_a_phone_whose_room_shrank_keeps_what_fits() -> None:
    clients = {f"c{n}": Load(10, 100) for n in range(20)}
    devices = {"A": Capacity(cores=4), "B": Capacity(cores=4)}
    placed = place(clients, devices)
    small = {"A": Capacity(cores=4, room=400), "B": Capacity(cores=4)}
    after = place(clients, small, previous=placed)
    assert Counter(after.values())["A"] == 4
    assert all(placed[client] == "A" for client, device in after.items() if device == "A")


def _users() -> dict[str, Load]:
    return {str(n): Load(20 + (n * n * 7919) % 700, 5000) for n in range(943)}


def test_943_people_on_four_phones_are_balanced_and_a_fifth_phone_takes_from_all() -> None:
    clients = _users()
    devices = {name: Capacity(speed=speed) for name, speed in zip("ABCD", (1000, 1000, 2000, 500), strict=True)}
    placed = place(clients, devices)
    total = sum(load.examples for load in clients.values())
    for name, work in _work(clients, placed).items():
        share = total * (devices[name].speed or 0) / 4500
        assert 0.8 * share < work <= 1.1 * share
    more = devices | {"E": Capacity(speed=1000)}
    after = place(clients, more, previous=placed)
    moved = {client for client in clients if after[client] != placed[client]}
    assert {after[client] for client in moved} == {"E"}
    assert 0.05 * len(clients) < len(moved) < 0.25 * len(clients)
    again = place(clients, devices, previous=after)
    assert {c for c in clients if again[c] != after[c]} == {c for c in clients if after[c] == "E"}


def test_hashing_alone_is_stable_where_there_is_no_history() -> None:
    clients = _users()
    devices = {name: Capacity(speed=1000) for name in "ABCD"}
    placed = place(clients, devices)
    after = place(clients, {name: devices[name] for name in "ABC"})
    moved = sum(after[client] != device for client, device in placed.items() if device != "D")
    assert moved < 0.1 * len(clients)


def test_speeds_that_change_a_little_move_nobody_and_a_lot_move_some() -> None:
    clients = _users()
    placed = place(clients, {name: Capacity(speed=1000) for name in "ABCD"})
    wobbly = {name: Capacity(speed=speed) for name, speed in zip("ABCD", (990, 1010, 1005, 995), strict=True)}
    wobbled = place(clients, wobbly, previous=placed)
    moved = sum(wobbled[client] != device for client, device in placed.items())
    assert moved <= 0.02 * len(clients)
    slow = {name: Capacity(speed=speed) for name, speed in zip("ABCD", (200, 1000, 1000, 1000), strict=True)}
    after = place(clients, slow, previous=placed)
    assert {placed[c] for c in clients if after[c] != placed[c]} == {"A"}
    assert _work(clients, after)["A"] < 0.15 * sum(load.examples for load in clients.values())


def test_unmeasured_phones_are_reckoned_by_their_cores() -> None:
    speeds = relative_speeds(
        {
            "fast": Capacity(speed=800, cores=8),
            "new": Capacity(cores=4),
            "mute": Capacity(),
            "odd": Capacity(speed=0),
        }
    )
    assert speeds == {"fast": 800, "new": 400, "mute": 100, "odd": 100}
    assert relative_speeds({"a": Capacity(cores=8), "b": Capacity()}) == {"a": 8, "b": 1}


def test_a_client_that_fits_nowhere_is_named() -> None:
    with pytest.raises(NoDeviceError, match=r"no device has room for client big \(11 bytes\)"):
        place({"big": Load(1, 11)}, {"A": Capacity(room=10)})

"""df: the right row, whatever the generation and whatever the mount column says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.devices.facts import WORK_DIR, RawFacts
from devicelab.devices.storage import DiskSpace, parse_df

HEADLINE = "Filesystem       1K-blocks     Used Available Use% Mounted on\n"
TOOLBOX = "Filesystem               Size     Used     Free   Blksize\n"
MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "free_mib", "mount"),
    [
        ("android-4.4", 713, "/data/local/tmp"),
        ("android-5", 7372, "/data"),
        ("android-6", 5396, "/data"),
        ("android-10", 52405, "/data/user/0"),
        ("android-12", 157418, "/storage/emulated/0/Android/obb"),
        ("emulator-15", 4860, "/data"),
    ],
)
def test_known_phones(phone: Callable[[str], RawFacts], name: str, free_mib: int, mount: str) -> None:
    space = parse_df(phone(name).df, WORK_DIR)
    assert space is not None
    assert (space.free // MIB, space.mount) == (free_mib, mount)


def test_the_longest_mount_that_holds_the_path_wins() -> None:
    rows = "/dev/a 1000 0 1000 0% /\n/dev/b 2000 0 2000 0% /data\n/dev/c 3000 0 3000 0% /data/loc\n"
    assert parse_df(HEADLINE + rows, WORK_DIR) == DiskSpace(2000 * 1024, 2000 * 1024, "/data")
    assert parse_df(HEADLINE + rows, "/data/loc/x") == DiskSpace(3000 * 1024, 3000 * 1024, "/data/loc")
    assert parse_df(HEADLINE + rows, "/sdcard") == DiskSpace(1000 * 1024, 1000 * 1024, "/")


def test_of_several_rows_none_of_which_holds_the_path_none_is_chosen() -> None:
    rows = "/dev/b 2000 0 2000 0% /vendor\n/dev/c 3000 0 3000 0% /system\n"
    assert parse_df(HEADLINE + rows, WORK_DIR) is None


def test_one_file_system_listed_twice_is_one() -> None:
    rows = "/dev/dm 2000 0 2000 0% /data/user/0\n/dev/dm 2000 8 1992 1% /data/user/0\n"
    assert parse_df(HEADLINE + rows, WORK_DIR) == DiskSpace(1992 * 1024, 2000 * 1024, "/data/user/0")


def test_a_full_disk_is_full_and_not_unknown() -> None:
    space = parse_df(HEADLINE + "/dev/dm 2000 2000 0 100% /data\n", WORK_DIR)
    assert space == DiskSpace(0, 2000 * 1024, "/data")


@pytest.mark.parametrize(
    ("size", "expected"),
    [("27G", 27 << 30), ("905.5M", int(905.5 * MIB)), ("0.0K", 0), ("512", 512), ("1.5T", 3 << 39)],
)
def test_sizes_for_people(size: str, expected: int) -> None:
    space = parse_df(f"{TOOLBOX}/data  2000T  1K  {size}  4096\n", WORK_DIR)
    assert space is not None
    assert space.free == expected


def test_toybox_for_people() -> None:
    text = "Filesystem        Size  Used Avail Use% Mounted on\n/dev/block/dm-0   110G   91G   19G  83% /data\n"
    assert parse_df(text, WORK_DIR) == DiskSpace(19 << 30, 110 << 30, "/data")


def test_other_block_sizes() -> None:
    text = "Filesystem     512-blocks Used Available Capacity Mounted on\n/dev/a 100 50 50 50% /data\n"
    assert parse_df(text, WORK_DIR) == DiskSpace(50 * 512, 100 * 512, "/data")
    text = "Filesystem     1024-blocks Used Available Capacity Mounted on\n/dev/a 100 50 50 50% /data\n"
    assert parse_df(text, WORK_DIR) == DiskSpace(50 * 1024, 100 * 1024, "/data")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "df: /data/local/tmp: Permission denied\n",
        HEADLINE,
        "/dev/a 100 50 50 50% /data\n",  # no headline: who knows what the columns are
        TOOLBOX + "/data: Permission denied\n",
        TOOLBOX + "/data  -1.0K  -1.0K  -1.0K  4096\n",
        HEADLINE + "/dev/a - - - - /data\n",
        HEADLINE + "/dev/a 1e308 0 1e308 0% /data\n",
        HEADLINE + "/dev/a 100 50 50 50% data\n",
        HEADLINE + "/dev/a 0 0 0 0% /data\n",
    ],
)
def test_what_tells_nothing(text: str) -> None:
    assert parse_df(text, WORK_DIR) is None


@given(
    total=st.integers(1, 1 << 40),
    used=st.integers(0, 1 << 40),
    mount=st.sampled_from(["/data", "/data/user/0", "/", "/mnt/with space"]),
    device=st.text("abc/-_.0:", min_size=1, max_size=80),
    newline=st.sampled_from(["\n", "\r\n"]),
    wrap=st.booleans(),
)
def test_what_df_prints_is_read_back(
    *, total: int, used: int, mount: str, device: str, newline: str, wrap: bool
) -> None:
    free = max(0, total - used)
    gap = newline + " " * 20 if wrap else " "
    row = f"{device}{gap}{total:>10} {used:>10} {free:>10}  50% {mount}"
    text = newline.join([HEADLINE.strip(), "df: /x: Permission denied", row, ""])
    assert parse_df(text, WORK_DIR) == DiskSpace(free * 1024, total * 1024, mount)


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    parse_df(text, WORK_DIR)
    for headline in (HEADLINE, TOOLBOX):
        parse_df(headline + text, WORK_DIR)
        parse_df(f"{headline}/dev/a {text} 1 1 1% /data", WORK_DIR)


def test_a_hostile_megabyte_takes_no_time() -> None:
    for piece in ("a ", "/", " ", "1 ", "/data 1 1 1 1\n", "%"):
        for headline in (HEADLINE, TOOLBOX):
            parse_df(headline + piece * (1_000_000 // len(piece)), WORK_DIR)

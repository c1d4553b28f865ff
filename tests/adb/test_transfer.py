"""Whole transfers: names, verification, caps, and what is left behind when they fail."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from devicelab.adb.compression import METHODS
from devicelab.adb.fake import FEATURES, OLD_FEATURES, FakeConnection, FakePhone, FakeTransport
from devicelab.adb.transfer import PART, pull_bytes, pull_file, push_file, remove, sweep_parts
from devicelab.deadline import Deadline
from devicelab.errors import (
    DeadlineError,
    DeviceFullError,
    DeviceLostError,
    ProtocolError,
    RemoteCommandError,
    RemoteFileError,
)
from tests.adb.scripted import SERIAL, ScriptedConnection, Step, soon

MB = 1 << 20
REMOTE = "/data/local/tmp/lab/model.onnx"


@pytest.fixture(params=["new", "old"])
def phone(request: pytest.FixtureRequest) -> FakePhone:
    features = FEATURES | {f"sendrecv_v2_{method}" for method in METHODS}
    return FakePhone(SERIAL, features=features if request.param == "new" else OLD_FEATURES)


@pytest.fixture
def connection(phone: FakePhone) -> Iterator[FakeConnection]:
    with FakeTransport([phone]).connect(phone.serial, soon()) as made:
        yield made


# --- push ---


def test_a_push_is_verified_and_takes_its_name(phone: FakePhone, connection: FakeConnection) -> None:
    content = os.urandom(2 * MB + 3)
    report = push_file(connection, content, REMOTE, mode=0o750, mtime=99, deadline=soon())
    assert phone.files == {REMOTE: content}
    assert (phone.modes[REMOTE], phone.mtimes[REMOTE]) == (0o750, 99)
    assert (report.path, report.size, report.verified, report.compression) == (
        REMOTE,
        len(content),
        "sha256",
        "none",
    )
    assert report.sha256 == hashlib.sha256(content).hexdigest()
    assert report.seconds > 0


def test_a_file_a_stream_and_an_older_file_in_its_place(
    phone: FakePhone, connection: FakeConnection, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"from a file")
    os.utime(source, (7, 7))
    push_file(connection, source, REMOTE, deadline=soon())
    assert (phone.files[REMOTE], phone.mtimes[REMOTE]) == (b"from a file", 7)
    push_file(connection, io.BytesIO(b"from a stream"), REMOTE, deadline=soon())
    assert phone.files == {REMOTE: b"from a stream"}


def test_only_the_size_on_request(connection: FakeConnection) -> None:
    report = push_file(connection, b"content", REMOTE, verify="size", deadline=soon())
    assert (report.verified, report.sha256) == ("size", None)


def test_what_shrinks_is_compressed_if_both_sides_can(phone: FakePhone, connection: FakeConnection) -> None:
    can = bool(phone.features)
    assert push_file(connection, bytes(MB), REMOTE, deadline=soon()).compression == ("zstd" if can else "none")
    assert push_file(connection, os.urandom(MB), REMOTE, deadline=soon()).compression == "none"
    assert push_file(connection, b"", REMOTE, deadline=soon()).compression == "none"
    assert push_file(connection, bytes(MB), REMOTE, compression="none", deadline=soon()).compression == "none"
    if can:
        assert push_file(connection, b"x", REMOTE, compression="lz4", deadline=soon()).compression == "lz4"
    else:
        with pytest.raises(ValueError, match="lz4 is not to be had here"):
            push_file(connection, b"x", REMOTE, compression="lz4", deadline=soon())


def test_a_full_phone_is_left_as_it_was(phone: FakePhone, connection: FakeConnection) -> None:
    phone.files[REMOTE] = b"the old one"
    phone.capacity = MB
    expected = r"model\.onnx\.[0-9a-f]{8}\.part: write failed: No space left on device"
    with pytest.raises(DeviceFullError, match=expected):
        push_file(connection, os.urandom(4 * MB), REMOTE, deadline=soon())
    assert phone.files == {REMOTE: b"the old one"}


def test_what_arrived_damaged_does_not_take_the_name(
    phone: FakePhone, connection: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone.files[REMOTE] = b"the old one"
    store = FakePhone.store

    def bend(self: FakePhone, path: str, content: bytes, mode: int, mtime: int) -> None:
        store(self, path, content[:-1] + b"!", mode, mtime)

    monkeypatch.setattr(FakePhone, "store", bend)
    with pytest.raises(RemoteFileError, match="arrived damaged"):
        push_file(connection, b"content", REMOTE, deadline=soon())
    assert phone.files == {REMOTE: b"the old one"}


def test_what_arrived_short_does_not_take_the_name(
    phone: FakePhone, connection: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FakePhone.store
    monkeypatch.setattr(
        FakePhone,
        "store",
        lambda self, path, content, mode, mtime: store(self, path, content[:3], mode, mtime),
    )
    with pytest.raises(RemoteFileError, match="7 bytes were sent, but 3 arrived"):
        push_file(connection, b"content", REMOTE, deadline=soon())
    assert phone.files == {}


def test_a_directory_is_not_replaced_by_a_file(phone: FakePhone, connection: FakeConnection) -> None:
    phone.files[REMOTE + "/child"] = b""
    with pytest.raises(RemoteFileError, match=r"model\.onnx: it is a directory"):
        push_file(connection, b"content", REMOTE, deadline=soon())
    assert list(phone.files) == [REMOTE + "/child"]


def test_a_deadline_in_the_middle_leaves_no_part(phone: FakePhone, connection: FakeConnection) -> None:
    class Slow:
        def read(self, size: int, /) -> bytes:
            threading.Event().wait(0.02)
            return bytes(size)

    with pytest.raises(DeadlineError, match="push of the model"):
        push_file(connection, Slow(), REMOTE, deadline=Deadline("push of the model", 0.5, SERIAL))
    assert phone.files == {}


def test_what_a_lost_phone_keeps_is_swept_up_later(phone: FakePhone) -> None:
    phone.files |= {
        REMOTE + PART: b"half",
        "/data/local/tmp/lab/x.part": b"",
        "/data/local/tmp/lab/sub/y.part": b"",
    }
    phone.files[REMOTE] = b"whole"
    with FakeTransport([phone]).connect(SERIAL, soon()) as connection:
        assert sweep_parts(connection, "/data/local/tmp/lab", deadline=soon()) == [
            REMOTE + PART,
            "/data/local/tmp/lab/x.part",
        ]
        assert sorted(phone.files) == [REMOTE, "/data/local/tmp/lab/sub/y.part"]
        assert sweep_parts(connection, "/data/local/tmp/lab", deadline=soon()) == []
        assert sweep_parts(connection, "/nowhere", deadline=soon()) == []


def test_a_phone_lost_in_the_middle_is_not_talked_to_any_more(
    phone: FakePhone, connection: FakeConnection
) -> None:
    class Unplugging:
        def __init__(self) -> None:
            self.left = 20

        def read(self, size: int, /) -> bytes:
            self.left -= 1
            if self.left == 10:
                phone.unplug()
            return bytes(size) if self.left else b""

    with pytest.raises(DeviceLostError):
        push_file(connection, Unplugging(), REMOTE, deadline=soon())


@pytest.mark.parametrize("path", ["relative", "", "/data/", "/", "/data/..", "/a\0b"])
def test_paths_that_are_no_files(path: str, connection: FakeConnection, tmp_path: Path) -> None:
    for operation in (
        lambda: push_file(connection, b"x", path, deadline=soon()),
        lambda: pull_file(connection, path, tmp_path / "x", max_bytes=10, deadline=soon()),
        lambda: pull_bytes(connection, path, max_bytes=10, deadline=soon()),
        lambda: remove(connection, ["/good", path], deadline=soon(), recursive=True),
    ):
        with pytest.raises(ValueError, match="no absolute path of a file"):
            operation()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_source_is_found_before_the_phone_is_asked(tmp_path: Path) -> None:
    connection = ScriptedConnection([])
    with pytest.raises(FileNotFoundError):
        push_file(connection, tmp_path / "none", REMOTE, deadline=soon())
    assert connection.services == []


# --- pull ---


def test_a_pull_replaces_the_local_file_as_a_whole(
    phone: FakePhone, connection: FakeConnection, tmp_path: Path
) -> None:
    phone.files[REMOTE] = os.urandom(3 * MB + 1)
    local = tmp_path / "model.onnx"
    local.write_bytes(b"old")
    report = pull_file(connection, REMOTE, local, max_bytes=4 * MB, deadline=soon())
    assert local.read_bytes() == phone.files[REMOTE]
    assert (report.path, report.size) == (local, 3 * MB + 1)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert pull_bytes(connection, REMOTE, max_bytes=4 * MB, deadline=soon()) == phone.files[REMOTE]


def test_compressed_pulls(connection: FakeConnection, phone: FakePhone, tmp_path: Path) -> None:
    phone.files[REMOTE] = b"text " * MB
    for method in METHODS:
        if f"sendrecv_v2_{method}" in phone.features:
            pull_file(
                connection, REMOTE, tmp_path / method, max_bytes=6 * MB, compression=method, deadline=soon()
            )
            assert (tmp_path / method).read_bytes() == phone.files[REMOTE]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/none", "there is no such file"),
        ("/data", "it is no regular file"),
        (REMOTE, "1000 bytes are more than the 999 allowed"),
    ],
)
def test_what_is_not_pulled_at_all(path: str, words: str, connection: FakeConnection, phone: FakePhone) -> None:
    phone.files[REMOTE] = bytes(1000)
    with pytest.raises(RemoteFileError, match=f"^{SERIAL}: {path}: {words}$"):
        pull_bytes(connection, path, max_bytes=999, deadline=soon())


def _stat(size: int, mode: int = 0o100644) -> bytes:
    return b"STA2" + struct.pack("<IQQIIIIQqqq", 0, 1, 1, mode, 1, 0, 0, size, 1, 2, 3)


def _data(content: bytes) -> bytes:
    return struct.pack("<4sI", b"DATA", len(content)) + content


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        (
            [_stat(10), _data(b"five!") + b"DONE" + bytes(4)],
            RemoteFileError,
            "10 bytes were announced, but 5 came",
        ),
        ([_stat(10), _data(bytes(11))], RemoteFileError, "more than 10 bytes"),
        ([_stat(0), _data(b"x") + b"DONE" + bytes(4)], RemoteFileError, "more than 0 bytes"),
        ([_stat(1 << 60)], RemoteFileError, "1152921504606846976 bytes are more than"),
        ([_stat(10, 0o020666)], RemoteFileError, "no regular file"),
        ([_stat(10, 0o120777)], RemoteFileError, "no regular file"),
        ([_stat(10), _data(b"five!")], ProtocolError, "the end of the stream"),
        ([_stat(10), b"DATA\xff\xff\xff\xff"], ProtocolError, "a length of 4294967295"),
        ([_stat(10), DeviceLostError("gone", device=SERIAL)], DeviceLostError, "gone"),
    ],
)
def test_lies_and_losses_leave_nothing_on_the_host(
    script: list[Step], kind: type[Exception], words: str, tmp_path: Path
) -> None:
    local = tmp_path / "model.onnx"
    local.write_bytes(b"old")
    with pytest.raises(kind, match=words):
        pull_file(ScriptedConnection([script]), REMOTE, local, max_bytes=1000, deadline=soon())
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert local.read_bytes() == b"old"


def test_a_phone_without_stat_v2_tells_sizes_modulo_four_gibibytes(tmp_path: Path) -> None:
    said = b"STAT" + struct.pack("<III", 0o100644, 5, 1)
    connection = ScriptedConnection([[said, _data(b"five!") + b"DONE" + bytes(4)]], OLD_FEATURES)
    assert pull_bytes(connection, REMOTE, max_bytes=1000, deadline=soon()) == b"five!"
    connection = ScriptedConnection([[said, _data(b"seven!!") + b"DONE" + bytes(4)]], OLD_FEATURES)
    with pytest.raises(RemoteFileError, match="5 bytes were announced, but 7 came"):
        pull_bytes(connection, REMOTE, max_bytes=1000, deadline=soon())


def test_many_tiny_pieces_are_written_in_order(tmp_path: Path) -> None:
    content = os.urandom(20_000)
    wire = b"".join(_data(content[n : n + 1]) for n in range(len(content)))
    connection = ScriptedConnection([[_stat(len(content)), wire + b"DONE" + bytes(4)]])
    pull_file(connection, REMOTE, tmp_path / "x", max_bytes=len(content), deadline=soon())
    assert (tmp_path / "x").read_bytes() == content


def test_a_local_directory_that_is_missing(
    connection: FakeConnection, phone: FakePhone, tmp_path: Path
) -> None:
    phone.files[REMOTE] = b"x"
    with pytest.raises(FileNotFoundError):
        pull_file(connection, REMOTE, tmp_path / "no" / "x", max_bytes=10, deadline=soon())


# --- remove ---


def test_removal(phone: FakePhone, connection: FakeConnection) -> None:
    phone.files = {"/d/a": b"", "/d/b": b"", "/d/sub/c": b"", "/e": b""}
    remove(connection, ["/d/a", "/missing"], deadline=soon())
    assert sorted(phone.files) == ["/d/b", "/d/sub/c", "/e"]
    remove(connection, ["/d"], deadline=soon(), recursive=True)
    assert list(phone.files) == ["/e"]
    remove(connection, [], deadline=soon())


def test_a_long_list_goes_in_commands_that_old_phones_can_hold() -> None:
    pid_and_end = b"\1\2\0\0\0001\n\3\1\0\0\0\0"
    connection = ScriptedConnection([[pid_and_end]] * 50)
    paths = [f"/data/local/tmp/{n:04}" + "x" * 80 for n in range(200)]
    remove(connection, paths, deadline=soon())
    assert all(len(service) < 4096 for service in connection.services)
    assert [
        word for service in connection.services for word in service.split() if word.startswith("/data")
    ] == paths


def test_a_removal_that_fails() -> None:
    said = b"\1\2\0\0\0001\n\2\5\0\0\0busy\n\3\1\0\0\0\1"
    with pytest.raises(RemoteCommandError, match="busy"):
        remove(ScriptedConnection([[said]] * 2), ["/d"], deadline=soon())


def test_what_goes_while_it_is_being_removed_is_no_failure() -> None:
    """A frozen adbd that thaws removes the part file of the push it gave up, in the midst of our own rm."""
    raced = b"\1\2\0\0\0001\n\2\x1a\0\0\0No such file or directory\n\3\1\0\0\0\1"
    gone = b"\1\2\0\0\0001\n\3\1\0\0\0\0"
    connection = ScriptedConnection([[raced], [gone]])
    remove(connection, ["/d/a.part"], deadline=soon())
    assert len(connection.services) == 2

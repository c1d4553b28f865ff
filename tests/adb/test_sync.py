"""Conversations with the file service: of fake phones, of old ones, and of those that lie."""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from devicelab.adb.compression import METHODS, Compression
from devicelab.adb.content import BytesContent, StreamContent
from devicelab.adb.fake import FEATURES, OLD_FEATURES, FakeConnection, FakePhone, FakeTransport
from devicelab.adb.sync import SyncSession
from devicelab.adb.sync_protocol import FileStat
from devicelab.deadline import Deadline
from devicelab.errors import (
    DeadlineError,
    DeviceFullError,
    DevicelabError,
    DeviceLostError,
    ProtocolError,
    RemoteFileError,
    StreamClosedError,
)
from tests.adb.scripted import HANG, SERIAL, ScriptedConnection, ScriptedStream, Step, soon
from tests.measures import bounded, threads_end

MB = 1 << 20
DONE = b"DONE\0\0\0\0"


def data(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<4sI", b"DATA", len(content) if length is None else length) + content


def fail(text: bytes) -> bytes:
    return struct.pack("<4sI", b"FAIL", len(text)) + text


def dent(name: bytes, length: int | None = None, mode: int = 0o100644) -> bytes:
    return struct.pack("<4sIIII", b"DENT", mode, 1, 2, len(name) if length is None else length) + name


def dent2(name: bytes, error: int = 0) -> bytes:
    body = struct.pack("<IQQIIIIQqqq", error, 1, 1, 0o100644, 1, 0, 0, 5 << 32, 1, 2, 3)
    return b"DNT2" + body + struct.pack("<I", len(name)) + name


@pytest.fixture(params=["new", "old"])
def phone(request: pytest.FixtureRequest) -> FakePhone:
    features = FEATURES | {f"sendrecv_v2_{method}" for method in METHODS}
    return FakePhone(SERIAL, features=features if request.param == "new" else OLD_FEATURES)


@pytest.fixture
def connection(phone: FakePhone) -> Iterator[FakeConnection]:
    with FakeTransport([phone]).connect(phone.serial, soon()) as made:
        yield made


@pytest.fixture
def session(connection: FakeConnection) -> Iterator[SyncSession]:
    with SyncSession(connection, soon()) as made:
        yield made


def push(session: SyncSession, content: bytes, path: str, compression: Compression = "none") -> int:
    return session.push(
        BytesContent(content), path, mode=0o640, mtime=1234, deadline=soon(), compression=compression
    )


def pull(session: SyncSession, path: str, limit: int = 100 * MB, compression: Compression = "none") -> bytes:
    got = bytearray()

    def sink(pieces: Sequence[memoryview]) -> None:
        for piece in pieces:
            got.extend(piece)

    assert session.pull(path, sink, limit=limit, deadline=soon(), compression=compression) == len(got)
    return bytes(got)


def scripted(*script: Step, features: frozenset[str] = OLD_FEATURES) -> SyncSession:
    return SyncSession(ScriptedConnection([script], features), soon())


# --- honest phones ---


def test_one_session_answers_many_requests(session: SyncSession, phone: FakePhone) -> None:
    content = os.urandom(3 * MB + 17)
    assert push(session, content, "/data/a/b") == len(content)
    assert phone.files == {"/data/a/b": content}
    assert (phone.modes["/data/a/b"], phone.mtimes["/data/a/b"]) == (0o640, 1234)
    assert session.lstat("/data/a/b", soon()) == FileStat(0o100640, len(content), 1234)
    assert session.stat("/data/a/b", soon()) == FileStat(0o100640, len(content), 1234)
    assert session.stat("/data/a/none", soon()) is None
    assert pull(session, "/data/a/b") == content
    push(session, b"", "/data/a/empty")
    assert pull(session, "/data/a/empty") == b""
    found = session.list("/data/a", soon())
    assert [(entry.name, entry.stat.size) for entry in found] == [("b", len(content)), ("empty", 0)]
    assert [entry.name for entry in session.list("/data", soon())] == ["a"]
    assert session.list("/nowhere", soon()) == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("content", [b"", b"x", os.urandom(2 * MB), bytes(5 * MB)])
def test_compressed_both_ways(method: Compression, content: bytes) -> None:
    phone = FakePhone("A", features=FEATURES | {f"sendrecv_v2_{method}"})
    with FakeTransport([phone]).connect("A", soon()) as connection, SyncSession(connection, soon()) as session:
        assert push(session, content, "/f", method) == len(content)
        assert phone.files["/f"] == content
        assert pull(session, "/f", compression=method) == content


def test_progress_and_digest_see_all_of_it(session: SyncSession) -> None:
    content = os.urandom(2 * MB + 5)
    digest, seen = hashlib.sha256(), list[int]()
    session.push(
        BytesContent(content),
        "/f",
        mode=0o600,
        mtime=0,
        deadline=soon(),
        digest=digest,
        progress=seen.append,
    )
    assert digest.digest() == hashlib.sha256(content).digest()
    assert seen == [MB, 2 * MB, 2 * MB + 5]
    seen.clear()
    session.pull("/f", lambda _pieces: None, limit=len(content), deadline=soon(), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(content)


def test_a_missing_file_has_adbds_own_reason(session: SyncSession) -> None:
    with pytest.raises(
        RemoteFileError, match=r"^R58M42: /none: open failed: No such file or directory$"
    ) as caught:
        pull(session, "/none")
    assert caught.value.path == "/none"


def test_a_full_disk_is_told_while_sending(session: SyncSession, phone: FakePhone) -> None:
    phone.capacity = MB
    sent: list[int] = []
    with pytest.raises(DeviceFullError, match="/f: write failed: No space left on device") as caught:
        session.push(
            BytesContent(bytes(200 * MB)), "/f", mode=0o600, mtime=0, deadline=soon(), progress=sent.append
        )
    assert sent[-1:] < [200 * MB]  # not only after everything was sent
    assert caught.value.hint is not None


def test_a_source_that_cannot_be_read_is_the_hosts_error(session: SyncSession) -> None:
    class Broken:
        def read(self, size: int, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        session.push(StreamContent(Broken()), "/f", mode=0o600, mtime=0, deadline=soon())


def test_unplugged_in_the_middle_of_a_push(session: SyncSession, phone: FakePhone) -> None:
    content = BytesContent(bytes(50 * MB))
    with pytest.raises(DeviceLostError, match="unplugged"):
        session.push(content, "/f", mode=0o600, mtime=0, deadline=soon(), progress=lambda _sent: phone.unplug())


def test_frozen_in_the_middle_of_a_push_and_of_a_pull(connection: FakeConnection, phone: FakePhone) -> None:
    phone.files["/f"] = bytes(50 * MB)
    phone.freeze()
    operations: list[Callable[[SyncSession], int]] = [
        lambda session: session.pull("/f", lambda _p: None, limit=50 * MB, deadline=Deadline("pull", 0.2)),
        lambda session: session.push(
            BytesContent(bytes(50 * MB)), "/g", mode=0o600, mtime=0, deadline=Deadline("push", 0.2)
        ),
    ]
    for operation in operations:
        phone.thaw()
        with SyncSession(connection, soon()) as session:
            phone.freeze()
            begin = time.monotonic()
            with pytest.raises(DeadlineError, match=rf"^{SERIAL}: pu(sh|ll): "):
                operation(session)
            assert time.monotonic() - begin < 15
    phone.thaw()


@pytest.mark.parametrize("path", ["", "/a\0b", "/" + "x" * 1024])
def test_a_wrong_path_is_the_callers_mistake_and_costs_nothing(path: str, session: SyncSession) -> None:
    operations: list[Callable[[], object]] = [
        lambda: session.stat(path, soon()),
        lambda: session.list(path, soon()),
        lambda: push(session, b"x", path),
        lambda: pull(session, path),
    ]
    for operation in operations:
        with pytest.raises(ValueError, match="no path on a phone"):
            operation()
    assert session.stat("/none", soon()) is None


# --- phones that lie ---


@pytest.mark.parametrize("name", [b"../../x", b"/abs", b"a\0b", b"a\nb", b"", b"x/..", b"y" * 256])
@pytest.mark.parametrize("version", [1, 2])
def test_names_that_would_lead_elsewhere(name: bytes, version: int) -> None:
    if version == 1:
        session = scripted(dent(b".") + dent(b"good") + dent(name) + b"DONE" + bytes(16))
    else:
        session = scripted(dent2(b"good") + dent2(name) + b"DONE" + bytes(72), features=FEATURES)
    with pytest.raises(ProtocolError, match=r"/d: the phone sent (the|a) file name") as caught:
        session.list("/d", soon())
    assert caught.value.device == SERIAL


def test_dot_and_dotdot_are_left_out_and_large_files_keep_their_size() -> None:
    session = scripted(dent2(b".") + dent2(b"..") + dent2(b"f", 13) + b"DONE" + bytes(72), features=FEATURES)
    assert [(entry.name, entry.stat) for entry in session.list("/d", soon())] == [
        ("f", FileStat(0o100644, 5 << 32, 2))
    ]


def test_a_directory_without_an_end() -> None:
    endless = (dent(b"f%d" % n) for n in itertools.count())
    session = SyncSession(ScriptedConnection([endless], OLD_FEATURES), soon())
    with pytest.raises(ProtocolError, match="more than 500 files in one directory"):
        session.list("/d", soon(), limit=500)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([b""], "the end of the stream in the middle"),
        ([b"STAT\1\0"], "the end of the stream in the middle"),
        ([b"NOPE" + bytes(12)], "b'NOPE' instead of b'STAT'"),
        ([b"FAIL\xff\xff\xff\xff"], "a FAIL of 4294967295 bytes"),
    ],
)
def test_stat_from_a_phone_that_does_not_know_the_protocol(script: list[Step], words: str) -> None:
    with pytest.raises(ProtocolError, match=f"/f: the phone sent {words}"):
        scripted(*script).lstat("/f", soon())


def test_stat_answers_with_a_failure_or_an_error_number() -> None:
    with pytest.raises(RemoteFileError, match="/f: unknown command"):
        scripted(fail(b"unknown command")).lstat("/f", soon())
    denied = b"LST2" + struct.pack("<IQQIIIIQqqq", 13, *[0] * 10)
    with pytest.raises(RemoteFileError, match="/f: Permission denied"):
        scripted(denied, features=FEATURES).lstat("/f", soon())


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([data(b"x", 65537)], "b'DATA' with a length of 65537"),
        ([data(b"x", 0xFFFFFFFF)], "b'DATA' with a length of 4294967295"),
        ([data(b"short", 100)], "the end of the stream in the middle"),
        ([data(b"x"), b"DO"], "the end of the stream in the middle"),
        ([b"STAT" + bytes(12)], "b'STAT' with a length of 0 where file contents should be"),
    ],
)
def test_pull_from_a_phone_that_breaks_the_protocol(script: list[Step], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        pull(scripted(*script), "/f")


def test_a_failure_in_the_middle_of_a_pull() -> None:
    got: list[bytes] = []
    session = scripted(data(b"some"), fail(b"read failed: I/O error"))
    with pytest.raises(RemoteFileError, match="/f: read failed: I/O error"):
        session.pull("/f", lambda pieces: got.extend(map(bytes, pieces)), limit=100, deadline=soon())
    assert got == [b"some"]


def test_more_than_the_cap_never_reaches_the_sink() -> None:
    endless = itertools.repeat(data(bytes(65536)))
    session = SyncSession(ScriptedConnection([endless], OLD_FEATURES), soon())
    received = 0

    def sink(pieces: Sequence[memoryview]) -> None:
        nonlocal received
        received += sum(map(len, pieces))

    with bounded(10), pytest.raises(RemoteFileError, match="/f: more than 5000000 bytes"):
        session.pull("/f", sink, limit=5_000_000, deadline=soon(seconds=60))
    assert received <= 5_000_000


@pytest.mark.parametrize("method", METHODS)
def test_damaged_compressed_content(method: Compression) -> None:
    session = scripted(data(b"\xff\xfe no such thing at all, in any of the formats") + DONE, features=FEATURES)
    with pytest.raises(ProtocolError, match=f"/f: the phone sent damaged {method} data"):
        pull(session, "/f", compression=method)


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        ([fail(b"No space left on device")], DeviceFullError, "No space left on device"),
        ([fail(b"write failed: Disk quota exceeded")], DeviceFullError, "quota"),
        ([fail(b"couldn't create file: Permission denied")], RemoteFileError, "Permission denied"),
        ([fail(b"")], RemoteFileError, "refused without a reason"),
        ([fail(b"\xff\xfe")], RemoteFileError, "\ufffd"),
        ([b"FAIL\xff\xff\xff\x7f"], ProtocolError, "a FAIL of 2147483647 bytes"),
        ([b"WHAT" + bytes(4)], ProtocolError, "b'WHAT' instead of b'OKAY'"),
        ([b""], ProtocolError, "the end of the stream"),
        ([b"OKAY\0\0\0\0"], ProtocolError, "says it has all of it too early"),
        ([HANG], DeadlineError, "push"),
        ([DeviceLostError("gone", device=SERIAL)], DeviceLostError, "gone"),
    ],
)
def test_what_a_phone_may_say_in_the_middle_of_a_push(
    script: list[Step], kind: type[DevicelabError], words: str
) -> None:
    waits = itertools.chain([True] * 50, itertools.repeat(False))

    class Slow:
        """Gives the phone time to say its word before everything is sent."""

        def read(self, size: int, /) -> bytes:
            time.sleep(0.02)
            return bytes(size) if next(waits) else b""

    session = scripted(*script)
    deadline = Deadline("push", 1.5 if kind is DeadlineError else 60, SERIAL)
    with pytest.raises(kind, match=words) as caught:
        session.push(StreamContent(Slow()), "/f", mode=0o600, mtime=0, deadline=deadline)
    assert caught.value.device == SERIAL


class ClosingStream(ScriptedStream):
    """Takes a little, then closes its end, as old adbds do after a FAIL."""

    def write(self, data: bytes | bytearray | memoryview, deadline: Deadline) -> None:
        if len(self.written) > MB:
            raise StreamClosedError("the sync service ended", device=SERIAL)
        super().write(data, deadline)


@pytest.mark.parametrize(
    ("script", "kind"), [([fail(b"No space left on device")], DeviceFullError), ([b""], DevicelabError)]
)
def test_a_phone_that_hangs_up_after_its_failure(
    script: list[Step], kind: type[DevicelabError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.adb.scripted.ScriptedStream", ClosingStream)
    session = scripted(*script)
    with pytest.raises(kind):
        push(session, bytes(50 * MB), "/f")


def test_the_thread_that_listens_ends_with_the_push() -> None:
    session = scripted(HANG)
    with threads_end(), pytest.raises(DeadlineError):
        session.push(BytesContent(b"x"), "/f", mode=0o600, mtime=0, deadline=Deadline("push", 0.2, SERIAL))

"""Commands on fake and on misbehaving phones: what comes back, and what happens when we give up."""

from __future__ import annotations

import itertools
import struct
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from devicelab.adb.fake import OLD_FEATURES, FakeConnection, FakePhone, FakeResult, FakeTransport
from devicelab.adb.shell import Channel, ShellProcess, run
from devicelab.deadline import Deadline
from devicelab.errors import (
    DeadlineError,
    DevicelabError,
    DeviceLostError,
    DeviceNotReadyError,
    OutputLimitError,
    ProtocolError,
    RemoteCommandError,
    ServiceRefusedError,
)
from tests.adb.scripted import HANG, SERIAL, ScriptedConnection, Step, soon
from tests.measures import bounded


def _answer(argv: Sequence[str], stdin: bytes) -> FakeResult | str | bytes:
    match argv:
        case ["echo", *words]:
            return " ".join(words) + "\n"
        case ["cat"]:
            return stdin
        case ["both"]:
            return FakeResult(3, b"out\n", b"err\n")
        case ["sleep"]:
            return FakeResult(stdout=b"zzz\n", hangs=True)
        case ["flood"]:
            return bytes(3_000_000)
    return FakeResult(127, stderr=b"not found\n")


@pytest.fixture(params=["v2", "v1"])
def phone(request: pytest.FixtureRequest) -> FakePhone:
    made = FakePhone("R58M42", shell=_answer)
    if request.param == "v1":
        made.features = OLD_FEATURES
    return made


@pytest.fixture
def connection(phone: FakePhone) -> Iterator[FakeConnection]:
    with FakeTransport([phone]).connect(phone.serial, soon()) as made:
        yield made


def _nothing_runs(phone: FakePhone) -> bool:
    """Whether all commands have ended, or do so now."""
    for _ in range(400):
        if not phone.running:
            return True
        time.sleep(0.02)
    return False


# --- run ---


def test_a_command_gives_its_output_and_code(connection: FakeConnection) -> None:
    result = run(connection, ["echo", "a b", "$HOME"], deadline=soon())
    assert (result.argv, result.code, result.stdout, result.text) == (
        ("echo", "a b", "$HOME"),
        0,
        b"a b $HOME\n",
        "a b $HOME",
    )


def test_a_failure_carries_all_that_was_printed(phone: FakePhone, connection: FakeConnection) -> None:
    with pytest.raises(RemoteCommandError, match=r"^R58M42: `both` exited with 3: err$") as caught:
        run(connection, ["both"], deadline=soon())
    assert caught.value.code == 3
    v2 = "shell_v2" in phone.features
    assert (caught.value.stdout, caught.value.stderr) == ((b"out\n", b"err\n") if v2 else (b"out\nerr\n", b""))
    assert run(connection, ["both"], deadline=soon(), check=False).code == 3


def test_a_command_that_does_not_exist(connection: FakeConnection) -> None:
    with pytest.raises(RemoteCommandError, match=r"`nope` exited with 127: not found"):
        run(connection, ["nope"], deadline=soon())


def test_a_death_by_signal_is_named(connection: FakeConnection, phone: FakePhone) -> None:
    phone.shell = {"crash": FakeResult(139)}
    with pytest.raises(RemoteCommandError, match=r"`crash` crashed \(SIGSEGV\)"):
        run(connection, ["crash"], deadline=soon())


def test_input_reaches_the_command_whatever_its_size() -> None:
    with FakeTransport([FakePhone("A", shell=_answer)]).connect("A", soon()) as connection:
        data = bytes(range(256)) * 20_000
        assert run(connection, ["cat"], stdin=data, deadline=soon()).stdout == data


def test_old_phones_take_no_input_and_say_so() -> None:
    with FakeTransport([FakePhone("A", features=OLD_FEATURES)]).connect("A", soon()) as connection:
        with pytest.raises(DeviceNotReadyError, match="no shell v2") as caught:
            run(connection, ["cat"], stdin=b"x", deadline=soon())
        assert caught.value.hint is not None


@pytest.mark.parametrize("argv", [[], ["a\0b"]])
def test_what_no_command_can_be(argv: list[str], connection: FakeConnection) -> None:
    with pytest.raises(ValueError, match=r"empty command|NUL"):
        run(connection, argv, deadline=soon())


def test_a_deadline_ends_the_command_on_the_phone(phone: FakePhone, connection: FakeConnection) -> None:
    with pytest.raises(DeadlineError, match=r"^R58M42: nap: no end within 0\.5 s$"):
        run(connection, ["sleep"], deadline=Deadline("nap", 0.5))
    assert _nothing_runs(phone)
    assert phone.commands == [["sleep"]]  # the fake's own table never sees what ends a group


def test_too_much_output_ends_the_command(phone: FakePhone, connection: FakeConnection) -> None:
    with pytest.raises(OutputLimitError, match=r"^R58M42: `flood` printed more than 1000 bytes$"):
        run(connection, ["flood"], deadline=soon(), limit=1000)
    assert run(connection, ["flood"], deadline=soon(), limit=3_000_000).stdout == bytes(3_000_000)


def test_a_frozen_phone_costs_the_deadline_and_its_grace_at_most(
    phone: FakePhone, connection: FakeConnection
) -> None:
    process = ShellProcess(connection, ["sleep"], deadline=soon())
    assert process.read(soon()) == (Channel.STDOUT, b"zzz\n")
    phone.freeze()
    begin = time.monotonic()
    with pytest.raises(DeadlineError):
        process.read(Deadline("more", 0.2))
    process.close()
    assert time.monotonic() - begin < 15
    phone.thaw()


def test_an_unplugged_phone_is_lost_at_once(phone: FakePhone, connection: FakeConnection) -> None:
    threading.Timer(0.2, phone.unplug).start()
    begin = time.monotonic()
    with pytest.raises(DeviceLostError, match="unplugged"):
        run(connection, ["sleep"], deadline=soon())
    assert time.monotonic() - begin < 15


# --- a command that is followed ---


def test_output_comes_while_the_command_runs(phone: FakePhone, connection: FakeConnection) -> None:
    with ShellProcess(connection, ["sleep"], deadline=soon()) as process:
        assert process.read(soon()) == (Channel.STDOUT, b"zzz\n")
        assert phone.running == [process.pid]
        assert process.code is None
    assert _nothing_runs(phone)


def test_kill_ends_it_and_its_code_can_still_be_read(connection: FakeConnection) -> None:
    with ShellProcess(connection, ["sleep"], deadline=soon()) as process:
        process.kill(soon())
        assert process.wait(soon()) == 143
        assert process.read(soon()) is None


def test_the_code_is_there_once_all_output_was_read(connection: FakeConnection) -> None:
    with ShellProcess(connection, ["echo", "x"], deadline=soon()) as process:
        assert list(process.output(soon())) == [(Channel.STDOUT, b"x\n")]
        assert process.code == 0


def test_leaving_before_anything_was_read_still_ends_it(phone: FakePhone, connection: FakeConnection) -> None:
    with ShellProcess(connection, ["sleep"], deadline=soon()):
        pass
    assert _nothing_runs(phone)


def test_an_exception_in_between_ends_it_too(phone: FakePhone, connection: FakeConnection) -> None:
    with pytest.raises(KeyboardInterrupt), ShellProcess(connection, ["sleep"], deadline=soon()):
        raise KeyboardInterrupt
    assert _nothing_runs(phone)


def test_input_can_be_written_bit_by_bit() -> None:
    with (
        FakeTransport([FakePhone("A", shell=_answer)]).connect("A", soon()) as connection,
        ShellProcess(connection, ["cat"], stdin=True, deadline=soon()) as process,
    ):
        process.write_stdin(b"one ", soon())
        process.write_stdin(b"two", soon())
        process.close_stdin(soon())
        assert list(process.output(soon())) == [(Channel.STDOUT, b"one two")]
        assert process.wait(soon()) == 0


# --- phones that do not play by the rules ---


def frame(number: int, data: bytes) -> bytes:
    return struct.pack("<BI", number, len(data)) + data


PID = frame(1, b"77\n")


def test_a_command_that_ends_well_needs_one_stream() -> None:
    connection = ScriptedConnection([[PID + frame(1, b"hi") + frame(3, b"\0")]])
    assert run(connection, ["x"], deadline=soon()).stdout == b"hi"
    assert len(connection.streams) == 1
    assert connection.streams[0].closed


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([b""], "the shell of `x` ended without an exit code"),
        ([PID, frame(1, b"half")[:3]], "ended without an exit code"),
        ([PID, frame(1, b"half")], "ended without an exit code"),
        ([frame(1, b"not a pid\n")], "'not a pid' is no process id"),
        ([PID, b"\x07\0\0\0\0"], "unknown id 7"),
        ([PID, struct.pack("<BI", 1, 0xFFFFFFFF)], "of 4294967295 bytes"),
        ([PID, frame(3, b"\0\0\0")], "of 3 bytes"),
    ],
)
def test_a_broken_protocol_names_the_phone_and_the_command(script: list[Step], words: str) -> None:
    connection = ScriptedConnection([script])
    with pytest.raises(ProtocolError, match=words) as caught:
        run(connection, ["x"], deadline=soon())
    assert caught.value.device == SERIAL
    assert "`x`" in str(caught.value)
    assert all(stream.closed for stream in connection.streams)


def test_when_we_give_up_the_group_is_ended_over_a_second_stream_first() -> None:
    connection = ScriptedConnection([[PID, HANG], [PID + frame(3, b"\0")]])
    with pytest.raises(DeadlineError):
        run(connection, ["x"], deadline=Deadline("x", 0.2))
    command, killer = connection.services
    assert command == "shell,v2,raw:echo $$;exec </dev/null;x"
    assert "kill -TERM -77;" in killer
    assert "kill -KILL -77" in killer


@pytest.mark.parametrize(
    "killer",
    [
        [HANG],
        [PID, HANG],  # a phone that always tells a pid and never ends anything
        [DeviceLostError("gone", device=SERIAL)],
        [b"garbage"],
    ],
)
def test_what_goes_wrong_while_giving_up_hides_nothing_and_is_not_repeated(killer: list[Step]) -> None:
    connection = ScriptedConnection([[PID, HANG], killer, [HANG], [HANG]])
    begin = time.monotonic()
    with pytest.raises(DeadlineError, match="operation"):
        run(connection, ["x"], deadline=Deadline("operation", 0.2))
    assert time.monotonic() - begin < 15
    assert len(connection.streams) == 2
    assert all(stream.closed for stream in connection.streams)


def test_a_phone_that_never_said_anything_is_not_asked_again() -> None:
    connection = ScriptedConnection([[HANG], [HANG]])
    with pytest.raises(DeadlineError):
        run(connection, ["x"], deadline=Deadline("x", 0.2))
    assert len(connection.streams) == 1


def test_a_refused_shell() -> None:
    with pytest.raises(ServiceRefusedError):
        run(ScriptedConnection([]), ["x"], deadline=soon())


@pytest.mark.parametrize("size", [1, 65536])
def test_endless_output_is_cut_off_in_little_memory(size: int) -> None:
    endless = itertools.chain([PID], itertools.repeat(frame(1, b"y" * size) * (65536 // size)))
    connection = ScriptedConnection([endless, [PID + frame(3, b"\0")]])
    with bounded(20), pytest.raises(OutputLimitError):
        run(connection, ["yes"], deadline=soon(seconds=60), limit=100_000)


def test_gathering_is_cut_off_and_goes_on(connection: FakeConnection) -> None:
    said = bytearray()
    with ShellProcess(connection, ["sleep"], deadline=soon()) as process:
        while not process.gather(said, Deadline("a moment", 0.1)) and not said:
            pass
        assert not process.gather(said, Deadline("a moment", 0.1))
        process.kill(soon())
        assert process.gather(said, soon())
    assert said == b"zzz\n"


def test_gathering_has_a_limit(connection: FakeConnection) -> None:
    with ShellProcess(connection, ["flood"], deadline=soon()) as process, pytest.raises(OutputLimitError):
        process.gather(bytearray(), soon(), limit=100_000)


def test_a_command_that_is_left_to_itself_is_not_ended() -> None:
    connection = ScriptedConnection([[PID + frame(1, b"started"), HANG], [PID + frame(3, b"\0")]])
    with ShellProcess(connection, ["x"], deadline=soon()) as process:
        assert process.read(soon()) == (Channel.STDOUT, b"started")
        process.leave()
    assert len(connection.streams) == 1  # it takes a second one to end a command
    assert connection.streams[0].closed


def test_after_a_failed_read_there_is_nothing_more_to_read() -> None:
    process = ShellProcess(ScriptedConnection([[PID, b"\x07\0\0\0\0", PID]]), ["x"], deadline=soon())
    errors: list[DevicelabError] = []
    for _ in range(2):
        with pytest.raises(ProtocolError) as caught:
            process.read(soon())
        errors.append(caught.value)
    assert "cut off before" in str(errors[1])
    process.close()

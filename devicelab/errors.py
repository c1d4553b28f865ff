"""Every error that devicelab raises on purpose, and the exit code each one means.

::

    DevicelabError                      1
    ├── ConfigError                     2   a command line, YAML file or host set-up that cannot work
    │   ├── AdbUnavailableError         2   no adb program, or its server does not start or answer
    │   └── StoreError                  2   a run's directory cannot be read or written
    ├── NoDeviceError                   3   nothing on the desk fits
    ├── DeviceError                     4   one phone; names it
    │   ├── DeviceLostError             4   gone: cable pulled, adbd dead, connection refused
    │   ├── DeviceUnauthorizedError     4   the phone's owner has not pressed "Allow" yet
    │   ├── DeviceBusyError             4   leased by somebody else
    │   ├── DeviceNotReadyError         4   reachable, but a check or a gate says no
    │   ├── ProtocolError               4   it answered with something ADB does not allow
    │   ├── ServiceRefusedError         4   adbd refused to open a service
    │   ├── StreamClosedError           4   the service ended while we were still writing to it
    │   ├── RemoteFileError             4   a file on the phone cannot be read or written
    │   │   └── DeviceFullError         4   no space left on the phone
    │   ├── OutputLimitError            4   a command on the phone printed too much and was ended
    │   ├── RemoteCommandError          4   a command on the phone failed; carries all it printed
    │   ├── RunnerError                 4   a job on the phone failed; carries the runner's own code for why
    │   └── UpdateError                 4   what it sent back after training cannot be used
    ├── VirtualPhoneError               4   a virtual phone cannot be built, started or driven
    ├── PlanError                       5   a model cannot become a plan, or a file is not a valid one
    │   └── RowsError                   5   a step needs rows of a table that its data do not name
    ├── DataError                       5   data cannot be read or divided, or do not fit the plan
    ├── RoundError                      6   a round failed: too few updates, or no usable average of them
    └── DeadlineError                   7   a wait was cut off; names what was waited for

130 is an interrupt (Ctrl-C), 1 also a reader of the output that left before its end. A known failure never
shows a traceback: the command line prints the message, the phone it concerns and :attr:`DevicelabError.hint`,
what to do next. What helps in general is a paragraph of each class's docstring; docs/troubleshooting.md is
made of those.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

__all__ = [
    "AdbUnavailableError",
    "ConfigError",
    "DataError",
    "DeadlineError",
    "DeviceBusyError",
    "DeviceError",
    "DeviceFullError",
    "DeviceLostError",
    "DeviceNotReadyError",
    "DeviceUnauthorizedError",
    "DevicelabError",
    "NoDeviceError",
    "OutputLimitError",
    "PlanError",
    "ProtocolError",
    "RemoteCommandError",
    "RemoteFileError",
    "RoundError",
    "RowsError",
    "RunnerError",
    "ServiceRefusedError",
    "StoreError",
    "StreamClosedError",
    "UpdateError",
    "VirtualPhoneError",
    "describe_exit",
]

EXIT_INTERRUPTED = 130


class DevicelabError(Exception):
    """Base of all of them; what is raised is always one of the others.

    What to do: Read the message; the last line, after "what to do", says what comes next.

    Args:
        message: What failed, in one sentence, without the device's name.
        device: How the phone is called (its ADB serial), if one phone is concerned.
        hint: What to do next, if there is something to do.
    """

    exit_code = 1

    def __init__(self, message: str, *, device: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.device = device
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.device}: {self.message}" if self.device else self.message


class ConfigError(DevicelabError):
    """A command line, a YAML file or a host that cannot work as it is.

    What to do: Mend what the message names: for a YAML file it lists every wrong line at once, for a
    command line the option. `devicelab doctor` looks at the host; a full disk needs space, or another
    --state-dir, $DEVICELAB_CACHE or $TMPDIR.
    """

    exit_code = 2


class AdbUnavailableError(ConfigError):
    """There is no adb program, or its server does not start or answer.

    What to do: `devicelab doctor` says which. Install adb (`apt install adb`), name one with $ADB, or do
    without: `--transport direct`.
    """


class StoreError(ConfigError):
    """A run's directory cannot be read or written: missing, damaged, in use or too new, or the disk is full.

    What to do: `devicelab runs list` shows which runs can be read. In use: wait for the other `run-round`,
    or end it. Too new: read it with the devicelab that wrote it. Damaged: begin a new run; the others are
    not touched.
    """


class NoDeviceError(DevicelabError):
    """No device on the desk fits what was asked.

    What to do: `devicelab discover` lists the phones and why they are not ready, `--why` those that an
    experiment leaves out; see whether `--device` and the experiment's `devices` mean what they should.
    """

    exit_code = 3


class DeviceError(DevicelabError):
    """Something about one phone, which the message names.

    What to do: As for the kinds of it below; `devicelab discover` says how the phone is now.
    """

    exit_code = 4
    device: str

    def __init__(self, message: str, *, device: str, hint: str | None = None) -> None:
        super().__init__(message, device=device, hint=hint)


class DeviceLostError(DeviceError):
    """The phone is gone: cable pulled, adbd dead, connection refused or reset.

    What to do: Look at cable, hub and power, then at `devicelab discover`. `run-round --resume` goes on
    with the round: a phone that comes back goes on with its job, which ran on without the cable.
    """


class DeviceUnauthorizedError(DeviceError):
    """The phone does not know this host's key; somebody must press "Allow" on it.

    What to do: Unlock it, tick "Always allow from this computer" and press "Allow". If it does not ask:
    revoke USB debugging authorizations in its developer options, replug, and `devicelab discover
    --authorize 60`.
    """


class DeviceBusyError(DeviceError):
    """The phone is leased by somebody else.

    What to do: Wait until they are done; the message says who has it and until when. A lease ends with the
    program that holds it, a killed one included.
    """


class DeviceNotReadyError(DeviceError):
    """The phone answers, but a check or a health gate says no.

    What to do: The reason says what: charge it, let it cool, make room on it, let it boot. The limits are
    `gates` in lab.yaml.
    """


class ProtocolError(DeviceError):
    """The phone sent something that the ADB protocol does not allow; its connection is closed.

    What to do: Replug it, or switch its USB debugging off and on. If that does not help: another cable or
    hub, and the other `--transport`.
    """


class ServiceRefusedError(DeviceError):
    """A service that adbd refused to open.

    What to do: Some makers' phones lack services or close them while locked: unlock it, replug it, and see
    `devicelab discover`.
    """


class StreamClosedError(DeviceError):
    """The service closed its end while we were still writing: a command that ended without reading its input.

    The phone is still there, and what the service had said before can still be read.

    What to do: Try again; if it stays so, `devicelab discover` says what the phone's shell lacks.
    """


class RemoteFileError(DeviceError):
    """A file on the phone cannot be read or written; the message holds adbd's own reason.

    What to do: Go by the reason: what was removed by hand is sent again by `push-plan`; where
    /data/local/tmp may not be written to, the phone cannot take part.

    Args:
        path: The file's path on the phone.
    """

    def __init__(self, message: str, *, device: str, path: str, hint: str | None = None) -> None:
        super().__init__(message, device=device, hint=hint)
        self.path = path


class DeviceFullError(RemoteFileError):
    """No space left on the phone.

    What to do: Make room on it: `devicelab clean --phones` removes what devicelab left there;
    `min_free_storage_mb` in lab.yaml keeps fuller phones out.
    """


class OutputLimitError(DeviceError):
    """A command on the phone printed more than the caller wants to hold, and was ended.

    What to do: In Python, ask for less, or send the output to a file on the phone and pull it. From a
    command of devicelab: the phone is broken or hostile; leave it out with `--device`.
    """


class RemoteCommandError(DeviceError):
    """A command on the phone ended badly.

    What to do: Its last words are in the message. "Killed" is mostly the phone's want of memory, "not
    found" a shell without what every Android has.

    Args:
        argv: The command as a list of words.
        code: Its exit code, 128 + n where signal n ended it.
        stdout: What it printed, possibly cut.
        stderr: The same for standard error (empty where the phone has no shell v2: the two are one).
    """

    def __init__(self, argv: Sequence[str], *, device: str, code: int, stdout: bytes, stderr: bytes) -> None:
        self.argv = list(argv)
        self.code = code
        self.stdout = stdout
        self.stderr = stderr
        tail = (stderr or stdout).decode("utf-8", "replace").strip().splitlines()
        said = f": {tail[-1][:200]}" if tail else ""
        super().__init__(f"`{' '.join(argv)[:200]}` {describe_exit(code)}{said}", device=device)


class RunnerError(DeviceError):
    """A job on the phone failed, was stopped, or its result is not what it should be.

    What to do: Go by the code in the message (docs/runner.md). `memory` and `killed`: a smaller batch, or
    fewer clients a phone. `not-finite`: a smaller learning rate. `engine`: another engine with `--engine
    FILE`.

    Args:
        message: What failed.
        device: The phone.
        code: The runner's word for why (docs/runner.md: ``input``, ``engine``, ``memory``, ``stopped``, …), or
            the host's: ``killed`` (by the phone, or by its restart), ``crashed``, ``damaged`` (a result that
            cannot be believed), ``busy`` (the job runs already), ``protocol``.
        client: The client concerned, if it is one.
        hint: What to do next.
    """

    def __init__(
        self, message: str, *, device: str, code: str, client: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, device=device, hint=hint)
        self.code = code
        self.client = client


class UpdateError(DeviceError):
    """What a phone sent back after training cannot be used: its names, shapes, numbers or norm.

    What to do: Its part of the round does not count, and nothing needs to be done for one. If it is always
    the same phone, leave it out: it is broken, or lies.
    """


class VirtualPhoneError(DevicelabError):
    """A virtual phone cannot be built, started or driven.

    What to do: `devicelab doctor` says what this machine lacks; `virtual up --body proot` or `--body
    python` needs less. `virtual list` names the phones that run, `virtual fault` what can be done to them.
    """

    exit_code = 4


class PlanError(DevicelabError):
    """A model cannot become a plan, a plan's numbers are wrong, or a file is not a valid plan.

    What to do: The message names the operator and the line of the model, or the number that is off;
    docs/plans.md says what can be exported.
    """

    exit_code = 5


class RowsError(PlanError):
    """A step reads or changes rows of a table that its data do not name: it cannot do with some of them.

    What to do: Take the parameters that the message names out of the plan's `tables`, or what touches all their
    rows (weight decay, scores of all items) out of its training step.
    """


class RoundError(DevicelabError):
    """A round failed: too few updates, or no usable average of them. The global model is as it was.

    What to do: `devicelab runs show` says who was missing and why. Then `run-round --resume`; or a longer
    `deadline`, or a lower `quorum`, for a new run.
    """

    exit_code = 6


class DataError(DevicelabError):
    """Data that cannot be read, cannot be divided as asked, or do not fit the plan.

    What to do: The message names the file, column or tensor; `--explain` shows what the experiment says of
    them.
    """

    exit_code = 5


class DeadlineError(DevicelabError):
    """A wait was cut off at its deadline.

    What to do: Try again, once what is slow has come to rest. For phones the limits are `deadlines` in
    lab.yaml and `--timeout`, for a round `deadline` and `idle` in the experiment.

    Args:
        operation: What was waited for, as a noun phrase: "reply to `host:features`".
        seconds: How long the whole operation was allowed to take.
    """

    exit_code = 7

    def __init__(
        self, operation: str, *, seconds: float, device: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(f"{operation}: no end within {seconds:g} s", device=device, hint=hint)
        self.operation = operation
        self.seconds = seconds


def describe_exit(code: int) -> str:
    """Say what a shell exit code means: ``exited with 1``, ``was killed (SIGKILL)``.

    Codes above 128 are the shell's way to report a signal (POSIX.1-2017, XCU 2.8.2).
    """
    if code > 128:
        try:
            name = signal.Signals(code - 128).name
        except ValueError:
            return f"exited with {code}"
        verb = {"SIGKILL": "was killed", "SIGSEGV": "crashed", "SIGILL": "met an illegal instruction"}
        return f"{verb.get(name, 'was ended')} ({name})"
    return f"exited with {code}"

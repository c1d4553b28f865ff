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
    ├── DataError                       5   data cannot be read or divided, or do not fit the plan
    ├── RoundError                      6   a round failed: too few updates, or no usable average of them
    └── DeadlineError                   7   a wait was cut off; names what was waited for

130 is an interrupt (Ctrl-C), 1 also a reader of the output that left before its end. A known failure never
shows a traceback: the command line prints the message, the phone it concerns and :attr:`DevicelabError.hint`,
what to do next.
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
    """Base of all of them.

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
    """A command line, a YAML file or a host that cannot work as it is."""

    exit_code = 2


class AdbUnavailableError(ConfigError):
    """There is no adb program, or its server does not start or answer."""


class StoreError(ConfigError):
    """A run's directory cannot be read or written: missing, damaged, in use or too new, or the disk is full."""


class NoDeviceError(DevicelabError):
    """No device on the desk fits what was asked."""

    exit_code = 3


class DeviceError(DevicelabError):
    """Something about one phone; :attr:`device` is never None."""

    exit_code = 4
    device: str

    def __init__(self, message: str, *, device: str, hint: str | None = None) -> None:
        super().__init__(message, device=device, hint=hint)


class DeviceLostError(DeviceError):
    """The phone is gone: cable pulled, adbd dead, connection refused or reset."""


class DeviceUnauthorizedError(DeviceError):
    """The phone does not know this host's key; somebody must press "Allow" on it."""


class DeviceBusyError(DeviceError):
    """The phone is leased by somebody else."""


class DeviceNotReadyError(DeviceError):
    """The phone answers, but a check or a health gate says no."""


class ProtocolError(DeviceError):
    """The phone sent something that the ADB protocol does not allow; its connection is closed."""


class ServiceRefusedError(DeviceError):
    """adbd refused to open a service."""


class StreamClosedError(DeviceError):
    """The service closed its end while we were still writing: a command that ended without reading its input.

    The phone is still there, and what the service had said before can still be read.
    """


class RemoteFileError(DeviceError):
    """A file on the phone cannot be read or written; the message holds adbd's own reason.

    Args:
        path: The file's path on the phone.
    """

    def __init__(self, message: str, *, device: str, path: str, hint: str | None = None) -> None:
        super().__init__(message, device=device, hint=hint)
        self.path = path


class DeviceFullError(RemoteFileError):
    """No space left on the phone."""


class OutputLimitError(DeviceError):
    """A command on the phone printed more than the caller wants to hold, and was ended."""


class RemoteCommandError(DeviceError):
    """A command on the phone ended badly.

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
    """What a phone sent back after training cannot be used: its names, shapes, numbers or norm."""


class VirtualPhoneError(DevicelabError):
    """A virtual phone cannot be built, started or driven."""

    exit_code = 4


class PlanError(DevicelabError):
    """A model cannot become a plan, a plan's numbers are wrong, or a file is not a valid plan."""

    exit_code = 5


class RoundError(DevicelabError):
    """A round failed: too few updates, or no usable average of them. The global model is as it was."""

    exit_code = 6


class DataError(DevicelabError):
    """Data that cannot be read, cannot be divided as asked, or do not fit the plan."""

    exit_code = 5


class DeadlineError(DevicelabError):
    """A wait was cut off at its deadline.

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

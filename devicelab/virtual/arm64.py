"""An arm64 phone on a machine that is none: which profiles need one, and the qemu-user that runs it."""

from __future__ import annotations

from pathlib import Path

from devicelab.deadline import Deadline
from devicelab.errors import VirtualPhoneError
from devicelab.fetching import Progress
from devicelab.virtual.libraries import read_elf
from devicelab.virtual.packages import host_arch
from devicelab.virtual.profile import Profile
from devicelab.virtual.programs import fetch_program

__all__ = ["fetch_emulator", "is_foreign"]


def is_foreign(profile: Profile) -> bool:
    """Whether a profile's programs are not this machine's own."""
    return profile.executes == "arm64" and host_arch() != "arm64"


def fetch_emulator(*, deadline: Deadline | None = None, progress: Progress | None = None) -> Path:
    """qemu-user for arm64 programs (17 MB), from the cache or from Debian's package.

    Raises:
        VirtualPhoneError: It cannot be had, or is not static and so of no use in a phone.
        DeadlineError: It took too long.
    """
    packages = ("qemu-user", "qemu-user-static")  # from Debian 13 on the former holds the static one
    emulator = fetch_program("qemu-aarch64", packages, deadline=deadline, progress=progress).path
    if read_elf(emulator).interpreter:
        raise VirtualPhoneError(
            f"{emulator} is not a static program: it would not find its libraries in a phone"
        )
    return emulator

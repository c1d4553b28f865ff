"""What phones stand on: the image and the programs that must be there before any of them is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from devicelab.errors import ConfigError, VirtualPhoneError
from devicelab.fetching import Progress
from devicelab.virtual.arm64 import fetch_emulator, is_foreign
from devicelab.virtual.body import BodyKind
from devicelab.virtual.image import build_image
from devicelab.virtual.probe import arm64_problem
from devicelab.virtual.profile import Profile
from devicelab.virtual.proot import fetch_proot

__all__ = ["Ground", "prepare_ground"]


@dataclass(frozen=True, slots=True)
class Ground:
    """What a phone is built upon.

    Attributes:
        image: The root file system; None where the body has none.
        emulator: What runs the image's programs; None for this machine itself.
    """

    image: Path | None = None
    emulator: Path | None = None


def prepare_ground(profile: Profile, kind: BodyKind, progress: Progress | None = None) -> Ground:
    """Build or fetch what a phone needs, unless the cache holds it.

    Args:
        profile: The phone.
        kind: Its body.
        progress: Told what is being done.

    Raises:
        ConfigError: Such a body cannot be that phone.
        VirtualPhoneError: Something cannot be had, or the kernel refuses emulation.
        DeadlineError: It took too long.
    """
    if is_foreign(profile):
        if kind != "namespaces":
            raise ConfigError(
                f"profile {profile.name} needs a body of namespaces: arm64 programs are emulated in no other",
                hint="`devicelab doctor` says why there can be no namespaces",
            )
        if (problem := arm64_problem()) is not None:
            raise VirtualPhoneError(
                f"profile {profile.name}: this kernel runs no arm64 programs for a phone alone: {problem}",
                hint="Linux 6.7 or newer with CONFIG_BINFMT_MISC can",
            )
        return Ground(build_image(arch="arm64", progress=progress), fetch_emulator(progress=progress))
    if kind == "python":
        return Ground()
    if kind == "proot":
        fetch_proot(progress=progress)  # or every keeper would, and nobody be told
    return Ground(build_image(progress=progress))

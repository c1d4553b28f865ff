"""The ``/system/bin`` of phones that lack commands, or have older ones."""

from __future__ import annotations

import shutil
from pathlib import Path

from devicelab.errors import ConfigError
from devicelab.virtual.profile import Profile

__all__ = ["make_bin"]

_TOOLBOX = Path(__file__).with_name("toolbox")
_ALWAYS = frozenset({"adbd", "dumpsys", "getprop", "init", "setprop", "sh"})


def make_bin(profile: Profile, image: Path | None, directory: Path) -> Path | None:
    """Make a ``/system/bin`` of a phone's own below its directory; None where the image's will do.

    Raises:
        ConfigError: The profile asks for a command that the image does not have.
    """
    if image is None or (profile.commands is None and profile.df == "toybox"):
        return None
    have = {path.name: path for path in (image / "system/bin").iterdir()}
    wanted = have.keys() if profile.commands is None else _ALWAYS.union(profile.commands)
    if missing := sorted(wanted - have.keys()):
        raise ConfigError(f"profile {profile.name}: the phone image has no {', '.join(missing)}")
    target = directory / "bin"
    target.mkdir()
    for name in wanted:
        shutil.copy(have[name], target / name, follow_symlinks=False)
    if profile.df == "toolbox":
        (target / "df").unlink(missing_ok=True)
        shutil.copy(_TOOLBOX / "df", target / "df")
        (target / "df").chmod(0o755)
    return target

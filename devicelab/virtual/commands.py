"""The commands of phones that differ from the image's: fewer of them, other ones in their place."""

from __future__ import annotations

import shutil
from pathlib import Path

from devicelab.virtual.profile import Profile

__all__ = ["make_bin"]


def make_bin(profile: Profile, image: Path | None, directory: Path) -> Path | None:
    """Make a ``/system/bin`` of a phone's own below its directory; None where the image's will do."""
    if image is None or not (profile.without or profile.df != "toybox" or profile.page_size != 4096):
        return None
    target = directory / "bin"
    target.mkdir()
    for source in (image / "system/bin").iterdir():
        if source.name in profile.without:
            continue
        if source.is_symlink():
            (target / source.name).symlink_to(source.readlink())
        else:
            shutil.copy2(source, target / source.name)
    return target

"""getprop, setprop, dumpsys and df for a phone whose shell is the host's.

Run as ``python tools.py ROOT NAME ARGUMENT…`` by small scripts on the phone's PATH; standard library only, so
that each takes no longer than Python needs to start. The files are those of
:class:`devicelab.virtual.spec.BodySpec`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PROPERTY = re.compile(r"[A-Za-z0-9_@:-]+(\.[A-Za-z0-9_@:-]+)*")
_KIB = 1024


def read_properties(*folders: Path) -> dict[str, str]:
    """One file a property; later folders win."""
    found: dict[str, str] = {}
    for folder in folders:
        for path in folder.iterdir():
            if _PROPERTY.fullmatch(path.name):
                found[path.name] = path.read_text(encoding="utf-8").removesuffix("\n")
    return found


def list_properties(properties: Mapping[str, str]) -> str:
    """What ``getprop`` prints without arguments."""
    return "".join(f"[{name}]: [{value}]\n" for name, value in sorted(properties.items()))


def getprop(root: Path, arguments: Sequence[str]) -> int:
    """Print all properties, or one, or its default."""
    properties = read_properties(root / "vendor/properties", root / "properties")
    if arguments:
        default = arguments[1] if len(arguments) > 1 else ""
        sys.stdout.write(f"{properties.get(arguments[0]) or default}\n")
    else:
        sys.stdout.write(list_properties(properties))
    return 0


def setprop(root: Path, arguments: Sequence[str]) -> int:
    """Set a property until the next boot; never a read-only one that is already there."""
    if len(arguments) != 2:
        sys.stderr.write("usage: setprop NAME VALUE\n")
        return 1
    name, value = arguments
    own, other = root / "properties" / name, root / "vendor/properties" / name
    if not _PROPERTY.fullmatch(name) or (name.startswith("ro.") and (own.exists() or other.exists())):
        sys.stderr.write(f"Failed to set property '{name}' to '{value}'.\n")
        return 1
    own.write_text(f"{value}\n", encoding="utf-8")
    return 0


def dumpsys(root: Path, arguments: Sequence[str]) -> int:
    """Print what a service says, or all services."""
    services = {path.name: path for path in sorted((root / "vendor/dumpsys").glob("[!.]*"))}
    if arguments[:1] == ["-l"]:
        sys.stdout.write("Currently running services:\n" + "".join(f"  {name}\n" for name in services))
    elif not arguments:
        for name, path in services.items():
            sys.stdout.write(f"{'-' * 79}\nDUMP OF SERVICE {name}:\n{path.read_text(encoding='utf-8')}")
    elif arguments[0] in services:
        sys.stdout.write(services[arguments[0]].read_text(encoding="utf-8"))
    else:
        sys.stderr.write(f"Can't find service: {arguments[0]}\n")
    return 0


def format_df(size: int, used: int) -> str:
    """What toybox's ``df -k`` prints for the data partition; sizes in bytes."""
    free = max(0, size - used)
    percent = -(-100 * used // max(1, used + free))
    row = f"/dev/block/dm-49 {size // _KIB:9} {used // _KIB:8} {free // _KIB:9} {percent:3}% /data"
    return f"Filesystem       1K-blocks     Used Available Use% Mounted on\n{row}\n"


def df(root: Path, arguments: Sequence[str]) -> int:
    """The data partition for paths on it and for no path at all; everything else is asked of the host's df."""
    paths = [word for word in arguments if not word.startswith("-")]
    data = (root / "data").resolve()
    if not all(Path(path).resolve().is_relative_to(data) for path in paths):
        os.execv("/bin/df", ["df", *arguments])  # noqa: S606 (no shell wanted)
    limit = int((root / "disk").read_text(encoding="ascii"))
    filled = root / "vendor/filled"
    extra = int(filled.read_text(encoding="ascii")) * _KIB if filled.exists() else 0
    used = sum(os.lstat(Path(folder, name)).st_size for folder, _, files in os.walk(data) for name in files)
    sys.stdout.write(format_df(limit + extra, used + extra))
    return 0


TOOLS: Mapping[str, Callable[[Path, Sequence[str]], int]] = {
    "df": df,
    "dumpsys": dumpsys,
    "getprop": getprop,
    "setprop": setprop,
}


def main(argv: Sequence[str]) -> int:
    """Run one tool: ``ROOT NAME ARGUMENT…``."""
    root, name, *arguments = argv
    return TOOLS[name](Path(root), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

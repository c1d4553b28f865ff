"""Profiles: which phone a virtual phone stands for, read from YAML and checked.

A profile is a name of one that comes with devicelab (``profiles/*.yaml``) or a path to a file of your own. It
may be ``based_on`` another and then states only what differs; mappings are merged, everything else is
replaced.

A virtual phone's programs are the host's (``executes: host``), whatever its properties claim: a Pixel's profile
says arm64-v8a, and its shell still runs x86_64 programs on an x86_64 host. ``ro.devicelab.executes`` tells
which. ``executes: arm64`` runs everything, adbd included, as arm64 under qemu-user.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import yaml

from devicelab.errors import ConfigError
from devicelab.virtual.sizes import parse_size

__all__ = ["DEFAULT_PROFILE", "Battery", "Profile", "Protocol", "Thermal", "load_profile", "profile_names"]

DEFAULT_PROFILE = "emulator"
"""The one phone whose properties say what it executes, on an x86_64 host."""

PROFILES = Path(__file__).with_name("profiles")
_PROPERTY = re.compile(r"[A-Za-z0-9_@:-]+(\.[A-Za-z0-9_@:-]+)*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_COMMAND = re.compile(r"[A-Za-z0-9._+-]+")
_MAX_BASES = 5
_MAX_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """The phone's side of the ADB handshake.

    Attributes:
        version: ``A_VERSION``; 0x01000001 since Android 8 (no checksums), 0x01000000 before.
        max_payload: The longest packet it takes, in bytes: 4096 before Android 7, later 256 KiB, then 1 MiB.
        features: What it announces.
    """

    version: int = 0x01000001
    max_payload: int = 1 << 20
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """The battery at first.

    Attributes:
        level: Percent.
        celsius: Temperature.
        text: What ``dumpsys battery`` prints, with ``$level`` and ``$tenths`` (of a degree) in it.
    """

    level: int
    celsius: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Thermal:
    """The thermal service, which came with Android 10.

    Attributes:
        status: 0 (none) to 6 (shutdown).
        text: What ``dumpsys thermalservice`` prints, with ``$status``, ``$battery`` and ``$skin`` (degrees)
        in it.
    """

    status: int = 0
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kind of phone.

    Attributes:
        name: How it is called on the command line.
        title: What it stands for, for people.
        executes: ``host``: programs for the host's processor; ``arm64``: arm64 programs under qemu-user.
        properties: What getprop prints, but ``ro.serialno`` and the boot's progress, which the keeper adds.
        protocol: The handshake.
        authorization: ``none`` (adbd lets everybody in) or ``ask`` (the host's key must be allowed first).
        boot_seconds: From adbd's start until ``sys.boot_completed`` is 1.
        battery: The battery.
        thermal: The thermal service; None before Android 10.
        disk: Size of the data partition in bytes: a limit. What is written there lies in the host's memory.
        free: Bytes left on it from the start, where less than ``disk``.
        df: ``toybox`` (Android 6 and newer) or ``toolbox``.
        page_size: What ``getconf PAGE_SIZE`` says, in bytes.
        cores: Number of processor cores, as ``/sys/devices/system/cpu`` tells it.
        cpuinfo: ``/proc/cpuinfo``.
        meminfo: ``/proc/meminfo``.
        commands: What is in its ``/system/bin``, of what the image has; None for all of it.
    """

    name: str
    title: str
    executes: Literal["host", "arm64"] = "host"
    properties: Mapping[str, str]
    protocol: Protocol
    authorization: Literal["none", "ask"] = "none"
    boot_seconds: float = 0.0
    battery: Battery
    thermal: Thermal | None = None
    disk: int
    free: int | None = None
    df: Literal["toybox", "toolbox"] = "toybox"
    page_size: int = 4096
    cores: int
    cpuinfo: str
    meminfo: str
    commands: tuple[str, ...] | None = None


def profile_names() -> list[str]:
    """The profiles that come with devicelab, sorted."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """Read a profile.

    Args:
        name: One of :func:`profile_names`, or a path to a YAML file (it ends in ``.yaml`` or holds a ``/``).

    Raises:
        ConfigError: There is none, or something in it is wrong; the message says what and where.
    """
    path = _path(name, Path.cwd())
    profile = _build(Profile, {"name": path.stem, **_read(path, depth=0)}, str(path))
    _check(profile, str(path))
    return profile


def _path(name: str, folder: Path) -> Path:
    """Where a profile's file is; ``folder`` is where relative paths start."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        return folder / Path(name).expanduser()
    if name not in profile_names():
        raise ConfigError(
            f"there is no profile {name!r}{_nearest(name, profile_names())}",
            hint=f"profiles: {', '.join(profile_names())}; or give the path of a YAML file",
        )
    return PROFILES / f"{name}.yaml"


def _read(path: Path, depth: int) -> dict[str, Any]:
    """One file's mapping, laid over the one it is based on."""
    if depth > _MAX_BASES:
        raise ConfigError(f"{path}: `based_on` goes round in circles")
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"the profile {path} is no regular file")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigError(f"the profile {path} is larger than {_MAX_BYTES} bytes")
        content = yaml.safe_load(data.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the profile {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # impossible dates, endless numbers and nests
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a profile is a mapping, not a {type(content).__name__}")
    base = content.pop("based_on", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise ConfigError(f"{path}: `based_on` is the name or path of a profile")
    return _merge(_read(_path(base, path.parent), depth + 1), content)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another, mapping by mapping."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


_T = TypeVar("_T")


def _build(cls: type[_T], content: object, where: str) -> _T:
    """Make a dataclass from a mapping, checking every key and type."""
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected a mapping, not {content!r}")
    known = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]  # cls is one of ours
    for key in content:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{_nearest(str(key), list(known))}")
    for name, item in known.items():
        if name not in content and item.default is MISSING and item.default_factory is MISSING:
            raise ConfigError(f"{where}: {name!r} is missing")
    types = get_type_hints(cls)
    return cls(**{key: _convert(types[key], value, f"{where}: {key}") for key, value in content.items()})


def _convert(kind: object, value: object, where: str) -> object:
    """Check one value against its field's type; sizes may be written with units."""
    if kind in _READERS:
        return _READERS[kind](value, where)
    if value in get_args(kind):  # Literal
        return value
    raise ConfigError(f"{where}: {value!r} is not {' or '.join(map(repr, get_args(kind)))}")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {value!r} is not text; quote it if it should be")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where}: {value!r} is not a number")
    return float(value)


def _whole(value: object, where: str) -> int:
    if isinstance(value, str):
        return parse_size(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{where}: {value!r} is not a whole number")
    return value


def _words(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}: {value!r} is not a list")
    return tuple(_text(item, where) for item in value)


def _properties(value: object, where: str) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a mapping, not {value!r}")
    return {str(key): _property(item, f"{where}: {key}") for key, item in value.items()}


_READERS: Mapping[object, Callable[[Any, str], object]] = {
    str: _text,
    int: _whole,
    float: _number,
    int | None: lambda value, where: None if value is None else _whole(value, where),
    tuple[str, ...]: _words,
    tuple[str, ...] | None: lambda value, where: None if value is None else _words(value, where),
    Mapping[str, str]: _properties,
    Protocol: lambda value, where: _build(Protocol, value, where),
    Battery: lambda value, where: _build(Battery, value, where),
    Thermal | None: lambda value, where: None if value is None else _build(Thermal, value, where),
}


def _property(value: object, where: str) -> str:
    """A property's value; YAML's own numbers are taken as written, its booleans as Android writes them."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value).rstrip("\n")
    raise ConfigError(f"{where}: a property is text, not {value!r}")


def _check(profile: Profile, where: str) -> None:
    """What types cannot say."""
    if not _NAME.fullmatch(profile.name):
        raise ConfigError(
            f"{where}: {profile.name!r} cannot be a phone's name",
            hint="letters, digits, `.`, `_` and `-`; rename the file or give it a `name`",
        )
    for name in profile.properties:
        if not _PROPERTY.fullmatch(name):
            raise ConfigError(f"{where}: {name!r} is not a property's name")
    for command in profile.commands or ():
        if not _COMMAND.fullmatch(command):
            raise ConfigError(f"{where}: {command!r} is not a command's name")
    if any(set(feature) & set(",;:") for feature in profile.protocol.features):
        raise ConfigError(f"{where}: a feature's name holds no comma, colon or semicolon")
    limits: Sequence[tuple[str, float, float, float]] = (
        ("battery: level", profile.battery.level, 0, 100),
        ("battery: celsius", profile.battery.celsius, -40, 120),
        ("boot_seconds", profile.boot_seconds, 0, 600),
        ("disk", profile.disk, 1 << 20, 1 << 50),
        ("free", profile.free if profile.free is not None else profile.disk, 0, profile.disk),
        ("cores", profile.cores, 1, 256),
        ("page_size", profile.page_size, 4096, 65536),
        ("protocol: max_payload", profile.protocol.max_payload, 4096, 1 << 20),
        ("thermal: status", profile.thermal.status if profile.thermal else 0, 0, 6),
    )
    for name, value, low, high in limits:
        if not low <= value <= high:
            raise ConfigError(f"{where}: {name} is {value:g}, outside {low:g} … {high:g}")


def _nearest(word: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""

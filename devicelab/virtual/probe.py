"""Which body this machine allows, and why not a fuller one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from devicelab.virtual.body import BodyKind
from devicelab.virtual.image import cached_image
from devicelab.virtual.ownpython import module_command, module_environment
from devicelab.virtual.packages import packages_problem

__all__ = ["arm64_problem", "choose_body", "namespaces_problem", "proot_problem"]

_SECONDS = 30.0


def namespaces_problem() -> str | None:
    """Why phones cannot be made of namespaces here, in words for people; None if they can.

    Tries it for real, in a process of its own that then ends: about 80 ms.
    """
    problem = _try_out("devicelab.virtual.tryout")
    return None if problem is None else f"{problem}{_known_reason()}"


def proot_problem() -> str | None:
    """Why phones cannot run under proot here, in words for people; None if they can.

    Tries out, too, whether the kernel lets us keep such phones off the network; that takes 200 ms.
    """
    if (problem := packages_problem()) is not None:
        return f"{problem}, so neither adbd nor proot can be fetched"
    return _try_out("devicelab.virtual.prootinit", "try")


def arm64_problem() -> str | None:
    """Why phones of namespaces cannot run arm64 programs here, in words for people; None if they can."""
    return _try_out("devicelab.virtual.tryout", "arm64")


def choose_body() -> BodyKind:
    """The fullest body that works here. Two of them need Google's adbd, from the cache or through apt."""
    if cached_image() is None and packages_problem() is not None:
        return "python"
    if namespaces_problem() is None:
        return "namespaces"
    return "proot" if proot_problem() is None else "python"


def _try_out(module: str, *arguments: str) -> str | None:
    """What a module of ours says, if it fails."""
    try:
        done = subprocess.run(
            [*module_command(module), *arguments],
            env=module_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"trying it out took more than {_SECONDS:g} s"
    if done.returncode == 0:
        return None
    said = (done.stdout or done.stderr).strip().splitlines() or ["no word of why"]
    return said[-1]


def _known_reason() -> str:
    """What on this machine may be in the way, and how to change it."""
    switches = (
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "sudo sysctl -w {}=0"),
        ("kernel/unprivileged_userns_clone", "0", "sudo sysctl -w {}=1"),
        ("user/max_user_namespaces", "0", "sudo sysctl -w {}=15000"),
    )
    for name, bad, remedy in switches:
        path = Path("/proc/sys") / name
        if path.exists() and path.read_text(encoding="utf-8").strip() == bad:
            dotted = name.replace("/", ".")
            return f"; {dotted} is {bad}: `{remedy.format(dotted)}` allows it"
    if os.path.lexists("/.dockerenv"):
        return "; a container without extra rights forbids it: `docker run --privileged` allows it"
    return ""

"""What of this host helps or hinders reaching phones, and what to do about it.

Every check looks without changing anything: no server is started, no key made, no phone asked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from devicelab.adb.compression import METHODS, available
from devicelab.adb.keys import android_dir, load_key
from devicelab.adb.program import ServerAddress, adb_version, find_adb, holes
from devicelab.adb.server import ServerTransport
from devicelab.adb.usb import usb_problem
from devicelab.adb.usbfs import UsbPhone, usb_phones
from devicelab.deadline import Deadline
from devicelab.devices.leasefile import lease_directory
from devicelab.errors import ConfigError, DevicelabError
from devicelab.files import state_dir
from devicelab.report.checks import Check
from devicelab.virtual.probe import namespaces_problem

__all__ = ["examine"]

_ASK_SECONDS = 5.0


def examine(directory: Path | None = None) -> list[Check]:
    """Look at everything.

    Args:
        directory: The state directory; see :func:`devicelab.files.state_dir`.
    """
    return [
        *_adb_program(),
        _adb_server(),
        *_usb(usb_phones()),
        _key(),
        _namespaces(),
        _directory(
            "state directory", state_dir(directory), "choose another with --state-dir or $DEVICELAB_HOME"
        ),
        _leases(),
        _compression(),
    ]


def _adb_program() -> Iterator[Check]:
    name = "adb program"
    try:
        path = find_adb()
        if path is None:
            yield Check(
                name,
                "note",
                "there is none; phones are reached directly",
                "for emulators, Wi-Fi pairing and shared USB: apt install adb, or Android's platform-tools",
            )
            return
        program = adb_version(path, Deadline("adb version", _ASK_SECONDS))
    except DevicelabError as error:
        yield Check(name, "problem", error.message, error.hint or "reinstall adb, or take it off the PATH")
        return
    yield Check(name, "ok", str(program))
    yield from _holes("adb program's holes", program.release)


def _holes(name: str, release: tuple[int, int, int] | None) -> Iterator[Check]:
    known = holes(release)
    if known:
        told = "; ".join(f"{hole.cve}: {hole.summary}" for hole in known)
        newest = ".".join(map(str, max(hole.fixed_in for hole in known)))
        yield Check(
            name,
            "note",
            told,
            f"connect only phones that you trust, or use platform-tools {newest} or newer ($ADB names it)",
        )


def _adb_server() -> Check:
    name = "adb server"
    try:
        address = ServerAddress.from_environment()
        server = ServerTransport.running(address, deadline=Deadline("adb server", _ASK_SECONDS))
    except ConfigError as error:
        # None running is the usual state; `auto` starts one when it is needed.
        return Check(name, "note", error.message, error.hint or "nothing: one is started when it is needed")
    except DevicelabError as error:
        return Check(
            name, "problem", error.message, error.hint or "end what listens there, or set ADB_SERVER_SOCKET"
        )
    return Check(name, "ok", server.description)


def _usb(phones: list[UsbPhone]) -> Iterator[Check]:
    problem = usb_problem()
    if problem is not None:
        yield Check(
            "direct USB",
            "note",
            problem,
            "only needed without an adb server: pip install 'devicelab[usb]' and apt install libusb-1.0-0",
        )
    else:
        yield Check("direct USB", "ok", "libusb is there")
    locked = [phone for phone in phones if not phone.accessible]
    if locked:
        named = ", ".join(f"{phone.serial or phone.name} ({phone.vendor}:{phone.product})" for phone in locked)
        vendors = " and ".join(sorted({phone.vendor for phone in locked}))
        yield Check(
            "phones on USB",
            "problem",
            f"this user may not open {named}",
            "apt install android-sdk-platform-tools-common, or add a udev rule with uaccess for vendor"
            f" {vendors}; then replug",
        )
    elif phones:
        yield Check("phones on USB", "ok", ", ".join(phone.serial or phone.name for phone in phones))
    else:
        yield Check(
            "phones on USB",
            "note",
            "the kernel sees none with USB debugging on",
            "if one is plugged in: switch on Developer options > USB debugging; some cables carry no data",
        )


def _key() -> Check:
    name, path = "adb key", android_dir() / "adbkey"
    if not path.exists():
        return Check(name, "note", f"there is no {path} yet", "nothing: it is made when a phone asks for one")
    try:
        key = load_key(path)
    except (DevicelabError, OSError, ValueError) as error:
        return Check(name, "problem", f"{path} cannot be used: {error}", "move it away; a new one is made then")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Check(name, "problem", f"others may read {path} (mode {mode:03o})", f"chmod 600 {path}")
    return Check(name, "ok", f"fingerprint {key.fingerprint}")


def _namespaces() -> Check:
    problem = namespaces_problem()
    if problem is None:
        return Check("namespaces", "ok", "virtual phones run in full")
    return Check("namespaces", "note", problem, "virtual phones fall back to proot or to a Python adbd")


def _directory(name: str, path: Path, advice: str) -> Check:
    existing = path
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check(name, "problem", f"{path} cannot be written to", advice)
    return Check(name, "ok", str(path))


def _leases() -> Check:
    try:
        path = lease_directory()
    except ConfigError as error:
        return Check("leases", "problem", error.message, error.hint or "set $DEVICELAB_LEASES")
    return _directory("leases", path, "set $DEVICELAB_LEASES to a directory that all users may write to")


def _compression() -> Check:
    everything = frozenset({"sendrecv_v2", *(f"sendrecv_v2_{method}" for method in METHODS)})
    missing = [method for method in METHODS if method not in available(everything)]
    if missing:
        return Check(
            "compression",
            "note",
            f"without {', '.join(missing)} transfers to newer phones are not compressed",
            "pip install 'devicelab[compression]'",
        )
    return Check("compression", "ok", "zstd, lz4 and brotli")

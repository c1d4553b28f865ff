"""From a profile to what a phone's keeper is told."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from devicelab.virtual.body import BodyKind
from devicelab.virtual.commands import make_bin
from devicelab.virtual.ground import Ground
from devicelab.virtual.profile import Profile
from devicelab.virtual.spec import BodySpec, PhoneSpec

__all__ = ["plan_phone"]

_BANNER_PROPERTIES = ("ro.product.name", "ro.product.model", "ro.product.device")


def plan_phone(profile: Profile, kind: BodyKind, ground: Ground, directory: Path, port: int) -> PhoneSpec:
    """Describe one phone, in a directory of its own.

    The serial number is made from the directory's path: the same for the same name in the same lab, different
    in any other.
    """
    serial = f"VP{hashlib.sha256(str(directory.absolute()).encode()).hexdigest()[:10].upper()}"
    properties = {
        **profile.properties,
        "ro.serialno": serial,
        "ro.boot.serialno": serial,
        "ro.devicelab.profile": profile.name,
        "ro.devicelab.executes": platform.machine() if profile.executes == "host" else "aarch64",
    }
    cpus = f"0-{profile.cores - 1}\n" if profile.cores > 1 else "0\n"
    dumpsys = {"battery": profile.battery.text}
    if profile.thermal is not None:
        dumpsys["thermalservice"] = profile.thermal.text
    body = BodySpec(
        name=directory.name,
        directory=directory,
        image=ground.image,
        bin=make_bin(profile, ground.image, directory),
        vendor=directory / "vendor",
        banner=_banner(profile),
        disk=profile.disk if profile.free is None else profile.free,
        log=directory / "adbd.log",
        emulator=ground.emulator,
    )
    return PhoneSpec(
        body_kind=kind,
        body=body,
        profile=profile.name,
        serial=serial,
        port=port,
        version=profile.protocol.version,
        max_payload=profile.protocol.max_payload,
        authorization=profile.authorization,
        page_size=profile.page_size,
        boot_seconds=profile.boot_seconds,
        properties=properties,
        dumpsys=dumpsys,
        proc={"cpuinfo": profile.cpuinfo, "meminfo": profile.meminfo},
        sys={f"devices/system/cpu/{name}": cpus for name in ("possible", "present", "online")},
        level=profile.battery.level,
        celsius=profile.battery.celsius,
        thermal_status=profile.thermal.status if profile.thermal is not None else 0,
        filled=profile.disk - body.disk,
    )


def _banner(profile: Profile) -> str:
    """What adbd announces. The closing semicolon parts it from what Debian's adbd adds of its own."""
    parts = [f"{name}={profile.properties[name]}" for name in _BANNER_PROPERTIES if name in profile.properties]
    return f"device::{';'.join([*parts, 'features=' + ','.join(profile.protocol.features)])};"

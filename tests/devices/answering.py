"""Fake phones that answer the probe: what discovery, devices, reports and the lab are tested with."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from devicelab.adb.fake import FakePhone, FakeResult

__all__ = ["Character", "answering"]


@dataclass(frozen=True)
class Character:
    """What one phone says of itself."""

    serialno: str = "SERIAL1"
    boot_id: str = "11111111-2222-3333-4444-555555555555"
    model: str = "Pixel 9"
    sdk: int = 36
    percent: int = 80
    tenths: int = 270
    booted: bool = True
    broken: str = ""  # what the phone says when its work directory is written to

    def but(self, **changes: object) -> Character:
        return replace(self, **changes)  # type: ignore[arg-type]  # the caller names fields of this class

    def reply(self, nonce: str) -> str:
        properties = {
            "ro.serialno": self.serialno,
            "ro.product.model": self.model,
            "ro.product.manufacturer": "Google",
            "ro.product.cpu.abilist": "arm64-v8a",
            "ro.build.version.sdk": self.sdk,
            "ro.build.version.release": "16",
            "sys.boot_completed": int(self.booted),
        }
        sections = {
            "write": self.broken or "ok",
            "read": "ok",
            "delete": "ok",
            "getprop": "\n".join(f"[{name}]: [{value}]" for name, value in properties.items()),
            "proc": "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB",
            "boot_id": self.boot_id,
            "df": "Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/dm 100000000 1 99999999 1% /data",
            "battery": "Current Battery Service state:\n"
            f"  present: true\n  level: {self.percent}\n  scale: 100\n  temperature: {self.tenths}",
            "end": "",
        }
        return "".join(f"\n@{nonce} {name}\n{body}\n" for name, body in sections.items())


def answering(serial: str, say: Callable[[], Character]) -> FakePhone:
    """A fake phone that answers the probe as the character of the moment, and ``echo`` as a shell does."""

    def shell(words: Sequence[str], _stdin: bytes) -> FakeResult | str:
        command = " ".join(words)
        halves = re.search(r"n=([0-9a-f]{16})\s+n=\$\{n\}([0-9a-f]{16})", command)
        if halves is not None:
            return say().reply(halves[1] + halves[2])
        if words[0] == "echo":
            return " ".join(words[1:]) + "\n"
        return FakeResult(127)

    return FakePhone(serial, shell=shell)

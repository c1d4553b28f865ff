"""What a phone says about itself: the files under ``/vendor`` that getprop, dumpsys and df read."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from string import Template

from devicelab.virtual.spec import PhoneSpec

__all__ = ["Facts"]

_BOOT_PROPERTIES = ("dev.bootcomplete", "sys.boot_completed")
_SKIN_ABOVE_BATTERY = 1.6  # degrees; a phone's skin sensor sits nearer to its processor


class Facts:
    """The keeper's pen: every change is one file replaced as a whole, and shows inside the phone at once.

    Attributes:
        level: Battery in percent.
        celsius: Battery temperature.
        thermal_status: 0 to 6.
        boot_id: This boot's.
    """

    def __init__(self, spec: PhoneSpec) -> None:
        self._spec = spec
        self._vendor = spec.body.vendor
        self.level = spec.level
        self.celsius = spec.celsius
        self.thermal_status = spec.thermal_status
        self.boot_id = ""

    def write(self) -> None:
        """Write everything, once, before the body is made (bodies bind what is there)."""
        for folder in ("properties", "dumpsys", "proc", "sys"):
            (self._vendor / folder).mkdir(parents=True)
        for folder, files in (
            ("properties", self._spec.properties),
            ("proc", self._spec.proc),
            ("sys", self._spec.sys),
        ):
            for name, text in files.items():
                path = self._vendor / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{text}\n" if folder == "properties" else text, encoding="utf-8")
        (self._vendor / "page_size").write_text(f"{self._spec.page_size}\n", encoding="utf-8")
        self.new_boot()
        self.write_health()

    def new_boot(self) -> None:
        """A new boot id, and a boot that has not completed."""
        self.boot_id = str(uuid.uuid4())
        path = self._vendor / "proc/sys/kernel/random/boot_id"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{self.boot_id}\n", encoding="utf-8")
        for name in _BOOT_PROPERTIES:
            (self._vendor / "properties" / name).unlink(missing_ok=True)
        self._write_listing(self._spec.properties)

    def boot_completed(self) -> None:
        """Android's own sign that all its services run."""
        for name in _BOOT_PROPERTIES:
            self._replace(self._vendor / "properties" / name, "1\n")
        self._write_listing({**self._spec.properties, **dict.fromkeys(_BOOT_PROPERTIES, "1")})

    def _write_listing(self, properties: Mapping[str, str]) -> None:
        """What getprop prints when nobody has set any: in one file, since it is asked for again and again."""
        lines = (f"[{name}]: [{value}]\n" for name, value in sorted(properties.items()))
        self._replace(self._vendor / "getprop", "".join(lines))

    def write_health(self) -> None:
        """Write battery and thermal state as it is now."""
        skin = self.celsius + _SKIN_ABOVE_BATTERY
        values = {
            "level": str(self.level),
            "tenths": str(round(self.celsius * 10)),
            "status": str(self.thermal_status),
            "battery": f"{self.celsius:.1f}",
            "skin": f"{skin:.3f}",
        }
        for service, text in self._spec.dumpsys.items():
            self._replace(self._vendor / "dumpsys" / service, Template(text).safe_substitute(values))

    def write_filled(self, size: int) -> None:
        """Tell df how many bytes are taken that the data partition does not really hold."""
        if size:
            self._replace(self._vendor / "filled", f"{size // 1024}\n")
        else:
            (self._vendor / "filled").unlink(missing_ok=True)

    def _replace(self, path: Path, text: str) -> None:
        """Write a file so that a reader in the phone sees the old or the new one, whole."""
        part = path.with_name(f".{path.name}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)

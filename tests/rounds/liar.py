"""A phone that lies: its runner is a script that has the real one do the work, then changes what came out."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from devicelab.devices.device import Device
from devicelab.rounds import selection
from devicelab.runner.cache import Blob, DeviceCache
from devicelab.runner.installation import pack_for
from devicelab.runner.kept import artifact
from devicelab.runner.layout import CACHE
from devicelab.runner.packs import Pack

__all__ = ["edited", "instead", "lying"]

_LIAR = r"""#!/system/bin/sh
d=${2%/job.json}
[ "$1" = train ] || exec REAL "$@"
if [ ! -f "$d/lied" ]; then
  REAL train "$2" >"$d/said" || exit
  : >"$d/lied"
  rm -f "$d/result.json"
fi
TRICK
"""


def edited(*edits: str) -> str:
    """The trick of saying something else than the runner did.

    Args:
        edits: For sed.
    """
    return "sed " + " ".join(f"-e '{edit}'" for edit in edits) + ' "$d/said"'


def instead(content: bytes) -> str:
    """The trick of handing over another update, with a result that says so."""
    sha256 = hashlib.sha256(content).hexdigest()
    edit = edited(rf's/"bytes":[0-9]*,"sha256":"[0-9a-f]*"/"bytes":{len(content)},"sha256":"{sha256}"/')
    return f'rm -f "$d/update.safetensors"; cp {CACHE}/{sha256} "$d/update.safetensors"; {edit}'


def lying(monkeypatch: pytest.MonkeyPatch, address: str, trick: str | bytes, directory: Path) -> None:
    """Make one phone lie about all that it trains.

    Args:
        monkeypatch: Of the test.
        address: The phone's.
        trick: What it does when the real runner is done, in shell; or the update that it hands over instead.
        directory: Where the script may be written.
    """

    def tricked(device: Device, *, engine: Path | None = None) -> Pack:
        pack = pack_for(device, engine=engine)
        if device.serial != address:
            return pack
        blobs = [Blob.of(pack.runner, executable=True)]
        if isinstance(trick, bytes):
            blobs.append(Blob.of(trick))
        DeviceCache(device).ensure(blobs)
        script = directory / "liar"
        does = instead(trick) if isinstance(trick, bytes) else trick
        script.write_text(_LIAR.replace("REAL", f"{CACHE}/{pack.runner.sha256}").replace("TRICK", does))
        return replace(pack, runner=artifact(script))

    monkeypatch.setattr(selection, "pack_for", tricked)

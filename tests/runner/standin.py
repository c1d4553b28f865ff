"""A runner that is a shell script: it keeps the contract, trains nothing, and behaves as a test wants it to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from devicelab.devices.device import Device
from devicelab.runner.cache import Blob, DeviceCache
from devicelab.runner.installation import Installation, install
from devicelab.runner.job import Client, Job
from devicelab.runner.kept import artifact
from devicelab.runner.packs import Pack
from devicelab.runner.session import JobSession
from devicelab.runner.targets import TARGETS

CONTENT = b"an update"
_DONE = json.dumps(
    {
        "type": "done",
        "job": "JOB",
        "examples": 3,
        "weight": 3.0,
        "steps": 1,
        "peak_rss_kb": 1,
        "ms": {},
        "update": {
            "file": "update.safetensors",
            "bytes": len(CONTENT),
            "sha256": hashlib.sha256(CONTENT).hexdigest(),
        },
        "clients": [{"client": "17", "examples": 3, "weight": 3.0, "ms": 1}],
    }
)
# WORK is replaced by what it does between the hello and the end.
_SCRIPT = r"""#!/system/bin/sh
d=${2%/job.json}
hello() {
  echo '{"type":"hello","protocol":1,"runner":"0","engine":"1.32.0","abi":"x","system":"linux","pid":'$$'}'
}
hello
trap 'echo "{\"type\":\"error\",\"code\":\"stopped\",\"message\":\"signal\"}"; exit 75' TERM
[ "$1" = commit ] && { echo committed >>"$d/commits" || exit 73; exit 0; }
progress() {
  echo '{"type":"progress","client":"17","index":0,"clients":1,"step":'$1',"steps":9,"examples":1,"ms":1}'
}
if [ ! -f "$d/result.json" ]; then
  echo x >>"$d/starts"
  WORK
  echo -n 'an update' >"$d/update.safetensors"
  echo 'DONE' >"$d/result.json"
fi
cat "$d/result.json"
"""


class Bench:
    """A device with an installed stand-in."""

    def __init__(self, device: Device, directory: Path, work: str = "progress 1") -> None:
        self.device = device
        self.directory = directory
        self.cache = DeviceCache(device)
        self.installation = self.install(work)

    def install(self, work: str) -> Installation:
        runner, engine = self.directory / "runner", self.directory / "engine"
        script = _SCRIPT.replace("WORK", work)
        runner.write_text(script.replace("DONE", _DONE))
        engine.write_bytes(b"no engine")
        pack = Pack(TARGETS["linux-x86_64"], artifact(runner), artifact(engine), None)
        return install(self.device, self.cache, pack)

    def session(self, job: str = "JOB", work: str | None = None) -> JobSession:
        """A session whose runner does that work."""
        installation = self.installation if work is None else self.install(work)
        plan = Blob.of(b"plan")
        self.cache.ensure([plan])
        asked = Job(job=job, verb="train", plan="p", parameters="w", clients=(Client("17", "s"),), epochs=1)
        return JobSession(self.device, asked, installation, uses=[plan.sha256])

    def lines(self, session: JobSession, name: str) -> int:
        """How many lines a file of the job has; 0 where there is none."""
        script = f'[ -f "$1/{name}" ] && cat "$1/{name}"'
        said = self.device.shell("sh", "-c", script, "sh", session.directory, check=False)
        return len(said.text.splitlines())

"""A place where the runner runs as a process of this machine, with ONNX Runtime's library from its wheel."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.numpy import load_file, save_file

from devicelab.files import cache_dir
from devicelab.plans.export import TracedPlan, onnx_model, trace_plan
from devicelab.plans.plan import TrainingPlan
from devicelab.plans.signature import Kind, Role, Signature
from devicelab.runner.job import Client, Job
from devicelab.runner.messages import Failure, Hello, Message, TrainResult
from devicelab.runner.native.build import is_fresh, refresh
from devicelab.runner.parsing import parse_message
from devicelab.runner.reference import LocalTraining, train_locally

Array = np.ndarray[Any, Any]
PACKAGE = Path(__file__).parents[3] / "devicelab" / "runner" / "bin"
SECONDS = 120.0


def runners(*targets: str) -> dict[str, Path]:
    """Programs by target, built if those of the checkout are missing or old; a checkout may be read-only."""
    directory = PACKAGE if all(is_fresh(PACKAGE, target) for target in targets) else cache_dir() / "runners"
    return dict(zip(targets, refresh(directory, targets), strict=True))


@cache
def own_runner() -> Path:
    target = f"linux-{platform.machine()}"
    return runners(target)[target]


@dataclass(frozen=True)
class Exported:
    """A plan as a file's content, and what it was made from."""

    traced: TracedPlan
    content: bytes
    signature: Signature

    def reference(
        self,
        job: Mapping[str, Any],
        shards: Sequence[Mapping[str, Array]],
        *,
        parameters: Mapping[str, Array] | None = None,
        kept: Mapping[str, Mapping[str, Array]] | None = None,
        evaluation: Exported | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> LocalTraining:
        """What a training job must come to in PyTorch; the shards are the clients', in order."""
        owners = tuple(Client(**client) for client in job["clients"])
        settings = {name: value for name, value in job.items() if name not in ("protocol", "clients")}
        return train_locally(
            self.traced.step,
            self.signature,
            Job(**settings, clients=owners),
            self.initial if parameters is None else parameters,
            dict(zip((owner.client for owner in owners), shards, strict=True)),
            kept=kept,
            evaluation=None if evaluation is None else evaluation.traced.step,
            dtype=dtype,
        )

    @property
    def initial(self) -> dict[str, Array]:
        known = self.traced.step.initial_arrays()
        return {i.name: known[i.name] for i in self.signature.inputs if i.name in known}

    @property
    def private(self) -> list[str]:
        return [i.name for i in self.signature.with_role(Role.PRIVATE)]


def export(plan: TrainingPlan, kind: Kind = "train") -> Exported:
    """Without the export's own checks, which other tests make."""
    traced = trace_plan(plan, kind)
    model, signature = onnx_model(traced)
    return Exported(traced, model.SerializeToString(deterministic=True), signature)


@dataclass(frozen=True)
class Outcome:
    """What a process left behind."""

    code: int
    lines: list[bytes]
    errors: str

    @property
    def messages(self) -> list[Message]:
        return [parse_message(line) for line in self.lines]

    @property
    def failure(self) -> Failure:
        last = self.messages[-1]
        assert isinstance(last, Failure), self
        assert isinstance(self.messages[0], Hello)
        return last

    @property
    def document(self) -> dict[str, Any]:
        """The last line."""
        document: dict[str, Any] = json.loads(self.lines[-1])
        assert document["type"] == "done", self
        assert self.code == 0, self
        return document

    @property
    def trained(self) -> TrainResult:
        last = self.messages[-1]
        assert isinstance(last, TrainResult), self
        assert self.code == 0, self
        return last


class Bench:
    """A job's directory. Files that a test puts there are named relative to it.

    Args:
        root: A directory of its own.
        library: The engine; the installed wheel's by default.
    """

    def __init__(self, root: Path, library: Path | None = None) -> None:
        self.root = root
        self.engine = root / "lib"
        self.engine.mkdir(parents=True)
        library = library or next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
        (self.engine / "libonnxruntime.so").symlink_to(library)
        self.job = root / "job"
        self.job.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": str(self.engine)}

    def write(self, name: str, content: bytes | str) -> str:
        path = self.job / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    def tensors(self, name: str, arrays: Mapping[str, Array]) -> str:
        save_file({key: np.array(array, order="C") for key, array in arrays.items()}, self.job / name)
        return name

    def load(self, name: str) -> dict[str, Array]:
        found: dict[str, Array] = load_file(self.job / name)
        return found

    def plan(self, exported: Exported, *shards: Mapping[str, Array], **more: Any) -> dict[str, Any]:
        """A training job whose files are put in place. Fields that are None are left out."""
        for n, each in enumerate(shards):
            self.tensors(f"shard{n}.safetensors", each)
        job = {
            "protocol": 1,
            "job": "test-1",
            "verb": "train",
            "plan": self.write("plan.onnx", exported.content),
            "parameters": self.tensors("parameters.safetensors", exported.initial),
            "clients": clients(shards),
            "batch_size": 8,
            "epochs": 1,
            "combine": "each",
        }
        return {key: value for key, value in (job | more).items() if value is not None}

    def forget(self) -> None:
        """As if the job had never been done."""
        (self.job / "result.json").unlink()

    def ask(self, job: Mapping[str, Any] | bytes | str) -> Path:
        """Write job.json."""
        if isinstance(job, Mapping):
            job = json.dumps(job)
        self.write("job.json", job)
        return self.job / "job.json"

    def start(
        self, verb: str, *, prefix: Sequence[str] = (), stdout: int = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """Start the runner on job.json, behind the words of another command where a test needs one."""
        arguments = [*prefix, str(own_runner()), verb, str(self.job / "job.json")]
        return subprocess.Popen(arguments, env=self.environment, cwd="/", stdout=stdout, stderr=subprocess.PIPE)

    def run(self, verb: str, job: Mapping[str, Any] | bytes | str | None = None, **options: Any) -> Outcome:
        """Run it to its end."""
        if job is not None:
            self.ask(job)
        with self.start(verb, **options) as process:
            try:
                out, errors = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return outcome(process.returncode, out, errors)

    def train(self, job: Mapping[str, Any], **options: Any) -> TrainResult:
        return self.run("train", job, **options).trained

    def names(self) -> list[str]:
        """All files below the job's directory."""
        found = (Path(where) / name for where, _, names in os.walk(self.job) for name in names)
        return sorted(str(path.relative_to(self.job)) for path in found)


def outcome(code: int, out: bytes, errors: bytes) -> Outcome:
    assert out.endswith(b"\n") or not out, out
    return Outcome(code, out.splitlines(), errors.decode(errors="replace"))


def clients(shards: Sequence[object], *, seed: int = 7) -> list[dict[str, Any]]:
    """Clients c0, c1, …, one for each of the bench's shards, with seeds of their own."""
    return [
        {
            "client": f"c{n}",
            "shard": f"shard{n}.safetensors",
            "seed": seed + n,
            "kept": f"private/c{n}.safetensors",
        }
        for n in range(len(shards))
    ]

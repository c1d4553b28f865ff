"""What a device is asked to do: the job, as docs/runner.md describes it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from devicelab.errors import ConfigError

__all__ = ["PROTOCOL", "Client", "Combine", "Job", "Verb", "check_id"]

PROTOCOL: Final = 1

Verb = Literal["train", "evaluate", "run"]
Combine = Literal["each", "sum"]

_ID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", re.ASCII)
_MAX_CLIENTS: Final = 100_000
_MAX_INPUTS: Final = 4
_MAX_JSON: Final = 16 << 20
_COMMON: Final = frozenset({"job", "verb", "plan", "threads"})
_FIELDS: Final[Mapping[Verb, frozenset[str]]] = {
    "train": _COMMON
    | {"parameters", "clients", "batch_size", "hyper", "epochs", "steps", "shuffle", "state", "combine"}
    | {"clip_norm", "evaluation"},
    "evaluate": _COMMON | {"parameters", "clients", "batch_size", "hyper"},
    "run": _COMMON | {"inputs"},
}
_SPECIAL: Final = frozenset().union(*_FIELDS.values()) - _COMMON - {"shuffle", "state", "combine"}


def check_id(what: str, text: str) -> None:
    """Refuse what is no id of a job or client.

    Raises:
        ConfigError: It is none; says what is.
    """
    if _ID.fullmatch(text) is None:
        raise ConfigError(
            f"{what} id {text[:80]!r}: 1 to 64 letters, digits, '.', '_', '-' are expected, the first no '.'"
        )


@dataclass(frozen=True, slots=True)
class Client:
    """The owner of one shard, as a job names it.

    Attributes:
        client: Id, unique in the job.
        shard: Path of its data on the device.
        seed: For shuffling and for the plan's own randomness, in [0, 2^63).
        weight: Of its delta in a sum; the number of its examples if None.
        kept: Path of what it keeps on the device, if it keeps something.
    """

    client: str
    shard: str
    seed: int = 0
    weight: float | None = None
    kept: str | None = None

    def __post_init__(self) -> None:
        check_id("client", self.client)
        _require(bool(self.shard), f"client {self.client} has no shard")
        _require(0 <= self.seed < 1 << 63, f"client {self.client}: seed {self.seed} is not in [0, 2^63)")
        weight = self.weight
        good = weight is None or (weight > 0 and math.isfinite(weight))
        _require(good, f"client {self.client}: weight {weight} is not a positive number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job. Paths are paths on the device, relative to the job's directory.

    Attributes:
        job: Id; the same id is the same job, however often it is started.
        verb: What to do.
        plan: The ONNX file.
        threads: For one operator.
        parameters: The global values (train, evaluate).
        clients: In the order in which they are trained (train, evaluate).
        batch_size: Examples per step; None only where the plan has a fixed batch.
        hyper: Hyper inputs by label; the plan's defaults otherwise.
        epochs: Passes over each shard; either this or ``steps`` (train).
        steps: Steps for each client (train).
        shuffle: Whether each epoch is a new permutation (train).
        state: Whether optimizer state begins anew or is kept on the device (train).
        combine: Whether an update holds each client's delta or their weighted sum (train).
        clip_norm: Each client's delta is scaled down to this norm (train).
        evaluation: The evaluation plan, if the loss before and after is wanted (train).
        inputs: All inputs of the graph; from several files, each input from the first that has it (run).

    Raises:
        ConfigError: On construction, where something is missing, out of range or not for this verb.
    """

    job: str
    verb: Verb
    plan: str
    threads: int = 1
    parameters: str | None = None
    clients: tuple[Client, ...] = ()
    batch_size: int | None = None
    hyper: Mapping[str, float] = field(default_factory=dict)
    epochs: int | None = None
    steps: int | None = None
    shuffle: bool = True
    state: Literal["reset", "keep"] = "reset"
    combine: Combine = "sum"
    clip_norm: float | None = None
    evaluation: str | None = None
    inputs: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_id("job", self.job)
        _require(self.verb in _FIELDS, f"job {self.job}: no verb is called {self.verb!r}")
        _require(1 <= self.threads <= 64, f"job {self.job}: {self.threads} threads")
        for name in sorted(_SPECIAL - _FIELDS[self.verb]):
            _require(not getattr(self, name), f"job {self.job}: {name!r} is not for the verb {self.verb}")
        if self.verb == "run":
            _require(bool(self.inputs), f"job {self.job} has no inputs")
            files = (self.inputs,) if isinstance(self.inputs, str) else self.inputs or ()
            _require(0 < len(files) <= _MAX_INPUTS, f"job {self.job}: {len(files)} files of inputs")
        else:
            self._check_clients()
        if self.verb == "train":
            self._check_training()

    def _check_clients(self) -> None:
        _require(self.parameters is not None, f"job {self.job} has no parameters")
        _require(1 <= len(self.clients) <= _MAX_CLIENTS, f"job {self.job} has {len(self.clients)} clients")
        _require(
            len({client.client for client in self.clients}) == len(self.clients),
            f"job {self.job} names a client twice",
        )
        _require(
            self.batch_size is None or self.batch_size >= 1, f"job {self.job}: batch size {self.batch_size}"
        )
        for name, value in self.hyper.items():
            _require(math.isfinite(value), f"job {self.job}: hyper {name} is {value}")
            _require(name != "seed", f"job {self.job}: the seed is each client's own")

    def _check_training(self) -> None:
        passes = [number for number in (self.epochs, self.steps) if number is not None]
        _require(len(passes) == 1, f"job {self.job}: either epochs or steps must be given")
        _require(passes[0] >= 1, f"job {self.job}: {passes[0]} is no number of epochs or steps")
        norm = self.clip_norm
        good = norm is None or (norm > 0 and math.isfinite(norm))
        _require(good, f"job {self.job}: clip_norm {norm} is not a positive number")

    def to_json(self) -> bytes:
        """The content of ``job.json``: only what is for the verb, in a fixed order.

        Raises:
            ConfigError: It is longer than a runner accepts.
        """
        document: dict[str, Any] = {"protocol": PROTOCOL}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name not in _FIELDS[self.verb] or value is None:
                continue
            if each.name == "clients":
                value = [_without_none(client) for client in value]
            document[each.name] = dict(value) if each.name == "hyper" else value
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        _require(len(text) <= _MAX_JSON, f"job {self.job} is longer than {_MAX_JSON} bytes: fewer clients")
        return text


def _without_none(client: Client) -> dict[str, Any]:
    values = {each.name: getattr(client, each.name) for each in fields(client)}
    return {name: value for name, value in values.items() if value is not None}


def _require(truth: bool, reason: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not truth:
        raise ConfigError(reason)

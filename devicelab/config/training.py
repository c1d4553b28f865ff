"""How a round goes, how updates become a new global model, and when and where it is evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from devicelab.config.base import (
    ROUNDS_MAX,
    Contradiction,
    Positive,
    Seconds,
    Settings,
    Share,
    choice,
    contradict,
    tag,
)

__all__ = [
    "FLOAT32_MAX",
    "AggregationConfig",
    "ClientSample",
    "EvaluationConfig",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "Krum",
    "Median",
    "NoServerOptimizer",
    "PrivacyConfig",
    "RoundConfig",
    "ServerConfig",
    "TrimmedMean",
]


# What a job may say of batch_size, epochs and steps is what runner/native/job.zig takes.
FLOAT32_MAX: Final = 3.4028234e38  # no delta is longer than its type has numbers for


class ClientSample(Settings):
    """How many clients take part in a round; `all` is `fraction: 1.0`."""

    number: int | None = Field(
        default=None, ge=1, description="this many clients a round, or all if there are fewer"
    )
    fraction: float | None = Field(default=None, gt=0, le=1, description="this part of the clients, rounded up")
    probability: float | None = Field(
        default=None,
        ge=1e-9,
        le=1,
        description="each client by itself with this probability, drawn in secret: for `aggregation.privacy`",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(each is not None for each in (self.number, self.fraction, self.probability)) != 1:
            contradict([((), "give exactly one of `number`, `fraction` and `probability`")])
        return self

    def size(self, clients: int) -> int:
        """Clients in a round's cohort, of ``clients`` in all: at least one, at most all.

        With a ``probability`` it is the expected number, rounded up.
        """
        if self.number is not None:
            return min(self.number, clients)
        share = self.probability if self.fraction is None else self.fraction
        # The decimal that was written, not its nearest double: 0.1 of 50 clients are 5 and not 6.
        return math.ceil(Fraction(repr(share)) * clients)

    @property
    def chance(self) -> float | None:
        """The probability with which each client is drawn by itself; None where so many of them are drawn."""
        return 1.0 if self.fraction == 1 else self.probability


def _everybody(value: object) -> object:
    return {"fraction": 1.0} if value == "all" else value


class RoundConfig(Settings):
    """The rounds of an experiment."""

    rounds: int = Field(ge=1, le=ROUNDS_MAX, description="how many rounds a run has")
    clients: Annotated[ClientSample, BeforeValidator(_everybody)] = Field(
        default=ClientSample(fraction=1.0), description="who takes part in a round, drawn anew for each"
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        lt=2**31,
        description="passes of each client over its shard; 1 if `steps` is not given either",
    )
    steps: int | None = Field(
        default=None, ge=1, lt=2**48, description="local steps of each client, instead of `epochs`"
    )
    batch_size: int = Field(default=32, ge=1, lt=2**31, description="examples in a local step")
    hyper: Mapping[str, float] = Field(
        default={}, description="values for the plan's hyper inputs (lr, mu, …); the plan's own otherwise"
    )
    shuffle: bool = Field(default=True, description="whether each epoch goes through the shard in a new order")
    state: Literal["reset", "keep"] = Field(
        default="reset",
        description="the optimizer's state at the next round: begun anew, or kept on the device",
    )
    combine: Literal["auto", "sum", "each"] = Field(
        default="auto",
        description="what a device returns: the weighted sum of its clients' deltas, or each; auto: the sum "
        "wherever the aggregation rule can do with it",
    )
    clip_norm: Positive | None = Field(
        default=None,
        le=FLOAT32_MAX,
        description="each client's delta is scaled down to this L2 norm on its device; null: not",
    )
    subtables: bool = Field(
        default=False,
        description="whether a device gets and returns only those rows of the plan's tables that its clients' "
        "data name: traffic follows the data and not the catalogue; needs `rule: fedavg`, `state: reset`",
    )
    deadline: Seconds = Field(
        default=600.0,
        description="when a device's part of a round is cut off; one that is away may come back until then",
    )
    idle: Seconds = Field(
        default=30.0,
        description="when a device is given up that trains and does not answer, or an evaluation goes on "
        "without one that is away; a job that is silent for so long is started anew, at most `retries` times",
    )
    quorum: float = Field(
        default=0.5, gt=0, le=1, description="part of the cohort's clients without which a round fails"
    )
    retries: int = Field(
        default=2, ge=0, le=20, description="how often a step that can be repeated safely is tried again"
    )
    threads: int = Field(default=1, ge=1, le=64, description="the engine's threads on a device")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found: list[Contradiction] = []
        if self.epochs is not None and self.steps is not None:
            found.append((("steps",), "give `epochs` or `steps`, not both"))
        if "seed" in self.hyper:
            found.append((("hyper", "seed"), "seeds come from the experiment's `seed`"))
        if self.idle > self.deadline:
            found.append((("idle",), "longer than the `deadline`"))
        if self.subtables and self.state == "keep":
            found.append((("subtables",), "not with `state: keep`, for a kept state is that of whole tables"))
        contradict(found)
        return self

    @property
    def local_epochs(self) -> int | None:
        """Passes over the shard; None where steps are counted instead."""
        return None if self.steps is not None else self.epochs or 1


class NoServerOptimizer(Settings):
    """The aggregated delta is added to the global model."""

    optimizer: Literal["none"] = "none"
    lr: Positive = Field(default=1.0, description="what the aggregated delta is multiplied by")


class FedAvgM(Settings):
    """Momentum over rounds (Hsu, Qi & Brown 2019)."""

    optimizer: Literal["fedavgm"]
    lr: Positive = Field(default=1.0, description="the server's learning rate")
    momentum: Share = Field(default=0.9, description="part of the last direction that is kept")


class FedAdagrad(Settings):
    """Adagrad over rounds (Reddi et al. 2021)."""

    optimizer: Literal["fedadagrad"]
    lr: Positive = Field(default=0.1, description="the server's learning rate")
    beta1: Share = Field(default=0.0, description="decay of the mean delta")
    tau: Positive = Field(
        default=1e-3, description="how adaptive it is: added to the root of the squared deltas"
    )


class FedAdam(Settings):
    """Adam over rounds (Reddi et al. 2021)."""

    optimizer: Literal["fedadam"]
    lr: Positive = Field(default=0.01, description="the server's learning rate")
    beta1: Share = Field(default=0.9, description="decay of the mean delta")
    beta2: Share = Field(default=0.99, description="decay of the mean squared delta")
    tau: Positive = Field(
        default=1e-3, description="how adaptive it is: added to the root of the squared deltas"
    )


class FedYogi(Settings):
    """Yogi over rounds (Reddi et al. 2021)."""

    optimizer: Literal["fedyogi"]
    lr: Positive = Field(default=0.01, description="the server's learning rate")
    beta1: Share = Field(default=0.9, description="decay of the mean delta")
    beta2: Share = Field(default=0.99, description="decay of the mean squared delta")
    tau: Positive = Field(
        default=1e-3, description="how adaptive it is: added to the root of the squared deltas"
    )


_OPTIMIZERS = ["none", "fedavgm", "fedadagrad", "fedadam", "fedyogi"]

ServerConfig = Annotated[
    Annotated[NoServerOptimizer, tag("optimizer", "none")]
    | Annotated[FedAvgM, tag("optimizer", "fedavgm")]
    | Annotated[FedAdagrad, tag("optimizer", "fedadagrad")]
    | Annotated[FedAdam, tag("optimizer", "fedadam")]
    | Annotated[FedYogi, tag("optimizer", "fedyogi")],
    choice("optimizer", _OPTIMIZERS, default="none"),
]


class _Aggregation(Settings):
    server: ServerConfig = Field(
        default=NoServerOptimizer(), description="how the aggregated delta changes the global model"
    )

    @property
    def needs_each(self) -> bool:
        """Whether the rule looks at every client's delta, so that devices must not sum them."""
        return True


class PrivacyConfig(Settings):
    """Noise for user-level differential privacy (DP-FedAvg, McMahan et al. 2018)."""

    noise_multiplier: float = Field(
        ge=0.1,
        le=1000,
        description="the noise on the sum of the deltas, its standard deviation in `round.clip_norm`s",
    )
    delta: float = Field(
        default=1e-5,
        gt=0,
        lt=1,
        description="for which ε is told; below one part in the number of clients",
    )


class FedAvg(_Aggregation):
    """The weighted mean of the deltas (McMahan et al. 2017)."""

    rule: Literal["fedavg"] = "fedavg"
    weight: Literal["examples", "sqrt_examples", "uniform"] = Field(
        default="examples", description="what a client counts for"
    )
    privacy: PrivacyConfig | None = Field(
        default=None,
        description="user-level differential privacy of the models, with noise (docs/privacy.md); null: none",
    )

    @property
    def needs_each(self) -> bool:
        """A sum is enough."""
        return False


class Median(_Aggregation):
    """The median of the deltas, coordinate by coordinate (Yin et al. 2018)."""

    rule: Literal["median"]


class TrimmedMean(_Aggregation):
    """The mean without the largest and smallest values of each coordinate (Yin et al. 2018)."""

    rule: Literal["trimmed_mean"]
    fraction: float = Field(default=0.1, ge=0, lt=0.5, description="part of the clients cut off at each end")


class Krum(_Aggregation):
    """The deltas that lie closest to their neighbours (Blanchard et al. 2017)."""

    rule: Literal["krum"]
    byzantine: int = Field(default=1, ge=0, description="how many clients may lie; n clients bear (n - 3) / 2")
    keep: int = Field(default=1, ge=1, description="how many deltas are averaged: 1 is Krum, more Multi-Krum")


AggregationConfig = Annotated[
    Annotated[FedAvg, tag("rule", "fedavg")]
    | Annotated[Median, tag("rule", "median")]
    | Annotated[TrimmedMean, tag("rule", "trimmed_mean")]
    | Annotated[Krum, tag("rule", "krum")],
    choice("rule", ["fedavg", "median", "trimmed_mean", "krum"], default="fedavg"),
]


class EvaluationConfig(Settings):
    """When and where the global model is evaluated."""

    every: int = Field(default=1, ge=0, description="after every so many rounds, and after the last; 0: never")
    on: tuple[Literal["devices", "host"], ...] | None = Field(
        default=None,
        description="devices: on what clients hold out; host: on the test set; null: wherever there are data",
    )
    split: Literal["held_out", "validation"] = Field(
        default="held_out", description="what devices evaluate on; validation while you choose hyperparameters"
    )
    batch_size: int = Field(default=256, ge=1, lt=2**31, description="examples in an evaluation step")
    training_loss: bool = Field(
        default=True, description="whether clients measure the loss of their shard before and after training"
    )

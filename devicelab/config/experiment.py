"""The experiment: everything a person says about a run, as one frozen object."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from devicelab.config.base import Contradiction, Name, Settings, contradict
from devicelab.config.data import DataConfig, NaturalPartition, SyntheticData
from devicelab.config.plan import ClassPlan, FilePlan, PlanConfig
from devicelab.config.training import (
    FLOAT32_MAX,
    AggregationConfig,
    EvaluationConfig,
    FedAvg,
    Krum,
    PrivacyConfig,
    RoundConfig,
)

__all__ = ["Experiment", "Place"]

Place = Literal["devices", "host"]


class Experiment(Settings):
    """An experiment file."""

    name: Name = Field(description="names the experiment's runs and files")
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="drives all chance: partition, sampling of clients, shuffling, dropout",
    )
    plan: PlanConfig = Field(description="what is trained")
    data: DataConfig = Field(description="what it is trained on")
    round: RoundConfig = Field(description="how it is trained")
    aggregation: AggregationConfig = Field(
        default=FedAvg(), description="how the clients' updates become a new global model"
    )
    evaluation: EvaluationConfig = Field(
        default=EvaluationConfig(), description="when and where the global model is evaluated"
    )
    devices: tuple[str, ...] = Field(
        default=(), description="selectors (serial, model=…, sdk>=29) of the devices that take part; none: all"
    )

    _directory: Path = PrivateAttr(default_factory=Path.cwd)

    @property
    def directory(self) -> Path:
        """Where the experiment's file is, absolute; the current directory for one made in Python."""
        return self._directory

    def located(self, directory: Path) -> Self:
        """The same experiment, with its file in another directory."""
        copy = self.model_copy()
        copy._directory = directory
        return copy

    @property
    def combine(self) -> Literal["sum", "each"]:
        """What a device returns, `auto` decided."""
        if self.round.combine == "auto":
            return "each" if self.aggregation.needs_each else "sum"
        return self.round.combine

    @property
    def privacy(self) -> PrivacyConfig | None:
        """The noise that makes the run differentially private; None if it is not."""
        return self.aggregation.privacy if isinstance(self.aggregation, FedAvg) else None

    @property
    def clients(self) -> int | None:
        """How many clients there will be; None if only the data can tell."""
        partition = self.data.partition
        if not isinstance(partition, NaturalPartition):
            return partition.clients
        return self.data.clients if isinstance(self.data, SyntheticData) else None

    @property
    def evaluates_on(self) -> tuple[Place, ...]:
        """Where the global model is evaluated; empty if nowhere."""
        if self.evaluation.every == 0:
            return ()
        if self.evaluation.on is not None:
            return self.evaluation.on
        if isinstance(self.plan, FilePlan) and self.plan.evaluation is None:
            return ()
        devices: tuple[Place, ...] = ("devices",) if self.data.held_out is not None else ()
        host: tuple[Place, ...] = ("host",) if self.data.has_test else ()
        return devices + host

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        contradict([*self._of_aggregation(), *self._of_privacy(), *self._of_evaluation()])
        return self

    def _of_aggregation(self) -> list[Contradiction]:
        found: list[Contradiction] = []
        rule = self.aggregation.rule
        if self.aggregation.needs_each and self.round.combine == "sum":
            found.append((("round", "combine"), f"the rule {rule} needs each client's delta; say each or auto"))
        if self.round.subtables and rule != "fedavg":
            found.append((("round", "subtables"), f"the rule {rule} compares whole tables; only fedavg can do"))
        if isinstance(self.aggregation, Krum):
            number = self.round.clients.number
            cohort = self.round.clients.size(self.clients) if self.clients is not None else number
            least = 2 * self.aggregation.byzantine + 3
            if cohort is not None and cohort < least:
                message = f"{self.aggregation.byzantine} liars need a cohort of {least} clients, not {cohort}"
                found.append((("aggregation", "byzantine"), message))
            if cohort is not None and self.aggregation.keep > cohort:
                found.append((("aggregation", "keep"), f"more than the cohort's {cohort} clients"))
        number = self.round.clients.number
        if number is not None and self.clients is not None and number > self.clients:
            found.append((("round", "clients", "number"), f"there are only {self.clients} clients"))
        return found

    def _of_privacy(self) -> list[Contradiction]:
        """What the guarantee needs, and what would break it (docs/privacy.md has the reasons)."""
        clients = self.round.clients
        if self.privacy is None:
            message = "only for aggregation.privacy; say `fraction`"
            return [(("round", "clients", "probability"), message)] if clients.probability is not None else []
        found: list[Contradiction] = []
        if clients.chance is None:
            message = "privacy needs every client drawn by itself, in secret: say `probability`, or all"
            found.append((("round", "clients"), message))
        if self.round.clip_norm is None:
            found.append((("round", "clip_norm"), "privacy needs a bound on what one client can do: set it"))
        elif self.round.clip_norm * self.privacy.noise_multiplier > FLOAT32_MAX:
            message = "times the noise multiplier it is more than a float32 can be"
            found.append((("round", "clip_norm"), message))
        if isinstance(self.aggregation, FedAvg) and self.aggregation.weight != "uniform":
            found.append((("aggregation", "weight"), "with privacy every client counts the same: say uniform"))
        if isinstance(self.plan, ClassPlan) and self.plan.counts:
            message = "these first values are counted from everybody's data without noise; leave it out"
            found.append((("plan", "counts"), message))
        return found

    def _of_evaluation(self) -> list[Contradiction]:
        found: list[Contradiction] = []
        places = self.evaluation.on or ()
        if len(set(places)) != len(places):
            found.append((("evaluation", "on"), "names a place twice"))
        held_out = self.data.held_out
        if self.evaluation.split == "validation" and not (held_out and held_out.validation):
            found.append((("evaluation", "split"), "nothing is kept for it: set data.held_out.validation"))
        if "devices" in places and held_out is None:
            found.append((("evaluation", "on"), "devices have nothing to evaluate on: set data.held_out"))
        if "host" in places and not self.data.has_test:
            found.append((("evaluation", "on"), "the host has nothing to evaluate on: set data.test"))
        if places and isinstance(self.plan, FilePlan) and self.plan.evaluation is None:
            found.append((("evaluation", "on"), "there is no evaluation plan: set plan.evaluation"))
        return found

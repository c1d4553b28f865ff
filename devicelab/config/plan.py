"""Which plan an experiment trains: a class to export, or files that were exported before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import ConfigDict, Field, JsonValue, model_validator

from devicelab.config.base import Contradiction, DottedPath, FilePath, Settings, choice_of_keys, contradict, tag

__all__ = ["ClassPlan", "FilePlan", "PlanConfig"]


class ClassPlan(Settings):
    """A :class:`~devicelab.plans.plan.TrainingPlan` class, exported when it is needed."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    class_path: DottedPath = Field(
        alias="class",
        description="the plan's class as package.module:Class; the experiment's directory is on Python's path",
    )
    args: Mapping[str, JsonValue] = Field(
        default={},
        description="keyword arguments of the class; a mapping with `class` (and `args`) is built the same way",
    )
    counts: Mapping[str, str] = Field(
        default={},
        description="parameters that begin as the log of how often each number occurs in a data tensor of all "
        "clients together (`score.bias: item`): one pass in which their counts are added up",
    )


class FilePlan(Settings):
    """Plan files."""

    file: FilePath = Field(description="the plan that trains: .onnx, or .pt for TorchScript")
    evaluation: FilePath | None = Field(
        default=None, description="the plan that evaluates; without one nothing is evaluated"
    )
    roles: FilePath | None = Field(
        default=None, description="YAML that says what a foreign TorchScript file's inputs are for"
    )
    parameters: FilePath = Field(description="initial parameters, a safetensors file by input name")

    @model_validator(mode="after")
    def _suffixes(self) -> Self:
        found: list[Contradiction] = []
        kinds = {".onnx", ".pt"}
        for name, path in (("file", self.file), ("evaluation", self.evaluation)):
            if path is not None and path.suffix not in kinds:
                found.append(((name,), f"{path.name!r} ends neither in .onnx nor in .pt"))
        if self.roles is not None and self.file.suffix == ".onnx":
            found.append((("roles",), "an ONNX plan says itself what its inputs are for"))
        contradict(found)
        return self


PlanConfig = Annotated[
    Annotated[ClassPlan, tag("class")] | Annotated[FilePlan, tag("file")],
    choice_of_keys("class", "file"),
]

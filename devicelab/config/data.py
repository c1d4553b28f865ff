"""Where the data come from, how they are divided among clients, and what is set aside for evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from devicelab.config.base import (
    Contradiction,
    DottedPath,
    FilePath,
    Positive,
    Settings,
    Share,
    choice,
    choice_of_keys,
    contradict,
    tag,
)

__all__ = [
    "ArrayTensor",
    "ColumnTensor",
    "CsvData",
    "DataConfig",
    "DigitsData",
    "DirichletPartition",
    "Dtype",
    "HeldOut",
    "HeldOutFraction",
    "HeldOutLast",
    "Histories",
    "IidPartition",
    "MovieLensData",
    "NaturalPartition",
    "NpzData",
    "ParquetData",
    "Partition",
    "QuantityPartition",
    "Source",
    "SyntheticData",
    "TorchData",
]

Dtype = Literal["float32", "float64", "int64", "int32", "bool"]

_Clients = Annotated[int, Field(ge=1, le=1_000_000, description="how many clients there are")]
_AtLeast = Annotated[
    int, Field(ge=1, description="no client has fewer examples; those of the largest make up for it")
]


class NaturalPartition(Settings):
    """Whoever made an example owns it."""

    by: Literal["natural"]
    key: str | None = Field(
        default=None, description="the column or array that names the owner; the source's own if left out"
    )
    min_examples: int = Field(default=1, ge=1, description="owners with fewer examples are left out")


class IidPartition(Settings):
    """Equal shares at random."""

    by: Literal["iid"]
    clients: _Clients


class DirichletPartition(Settings):
    """Label skew: each class is divided by proportions drawn from a Dirichlet distribution (Li et al. 2022)."""

    by: Literal["dirichlet"]
    clients: _Clients
    alpha: Positive = Field(default=0.5, description="small: few classes a client; large: nearly iid")
    label: str = Field(default="label", description="the tensor with the classes")
    min_examples: _AtLeast = 1


class QuantityPartition(Settings):
    """Size skew: the clients' sizes are drawn from a Dirichlet distribution (Li et al. 2022)."""

    by: Literal["quantity"]
    clients: _Clients
    alpha: Positive = Field(default=0.5, description="small: a few clients own nearly all; large: equal shares")
    min_examples: _AtLeast = 1


Partition = Annotated[
    Annotated[NaturalPartition, tag("by", "natural")]
    | Annotated[IidPartition, tag("by", "iid")]
    | Annotated[DirichletPartition, tag("by", "dirichlet")]
    | Annotated[QuantityPartition, tag("by", "quantity")],
    choice("by", ["natural", "iid", "dirichlet", "quantity"]),
]


class HeldOutFraction(Settings):
    """A random part of each client's examples."""

    fraction: Share = Field(gt=0, description="part of each client's examples that only evaluate, at random")
    validation: Share = Field(
        default=0.0, description="a further part, kept apart for choosing hyperparameters"
    )

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if self.fraction + self.validation >= 1:
            contradict([((), "`fraction` and `validation` together leave nothing to train on")])
        return self


class HeldOutLast(Settings):
    """The newest of each client's examples."""

    last: int = Field(
        ge=1,
        description="number of each client's newest examples that only evaluate; of equal times "
        "the later in the file is the newer; a source without times goes by the file's order",
    )
    validation: int = Field(
        default=0, ge=0, description="number before these, kept apart for choosing hyperparameters"
    )


HeldOut = Annotated[
    Annotated[HeldOutFraction, tag("fraction")] | Annotated[HeldOutLast, tag("last")],
    choice_of_keys("fraction", "last"),
]


class Source(Settings):
    """What all sources have in common."""

    source: str
    partition: Partition = Field(description="how the examples are divided among clients")
    held_out: HeldOut | None = Field(
        default=None, description="what each client keeps for evaluation on its device; null: nothing"
    )
    test: Share = Field(
        default=0.0,
        description="part of all examples that no client gets, for evaluation on the host; a source may also "
        "bring a test set of its own",
    )

    @property
    def has_test(self) -> bool:
        """Whether there are examples for evaluation on the host."""
        return self.test > 0


class DigitsData(Source):
    """scikit-learn's 1,797 handwritten digits: `x` (64 numbers from 0 to 1) and `label`."""

    source: Literal["digits"]


class Histories(Settings):
    """Each client's films in order of time. See :mod:`devicelab.data.histories`."""

    length: int = Field(
        default=1000,
        ge=2,
        description="films that fit into a history at evaluation; shorter ones are filled up",
    )
    negatives: int = Field(
        default=99, ge=1, description="films drawn for a target to be ranked among; the client never rated them"
    )


class MovieLensData(Source):
    """MovieLens-100K, one client a user: `user`, `item` and `rating`; as histories `item` and `position`."""

    source: Literal["movielens"]
    path: FilePath | None = Field(
        default=None,
        description="u.data, ratings.csv or ml-100k.inter; null: fetched once from the recbole package on PyPI",
    )
    user: Literal["private", "shared"] = Field(
        default="private",
        description="private: `user` is 0, for plans whose user table is the client's own one row; shared: the "
        "user's row in a table of all users",
    )
    histories: Histories | None = Field(
        default=None,
        description="examples are the films of a client's history and their places in it, evaluation ranks the "
        "film that came next; null: examples are ratings",
    )
    partition: Partition = Field(
        default=NaturalPartition(by="natural"), description="how the examples are divided among clients"
    )

    @model_validator(mode="after")
    def _of_histories(self) -> Self:
        if self.histories is None:
            return self
        found: list[Contradiction] = []
        held_out = self.held_out
        if held_out is not None and not (
            isinstance(held_out, HeldOutLast) and held_out.last == 1 and held_out.validation <= 1
        ):
            found.append((("held_out",), "histories hold out the last film, and the one before for validation"))
        if self.test:
            found.append((("test",), "histories are not cut across: leave it out, and use `held_out`"))
        if not isinstance(self.partition, NaturalPartition):
            found.append((("partition", "by"), "a history is one person's: only `natural` makes sense"))
        contradict(found)
        return self


class ColumnTensor(Settings):
    """A tensor made of columns of a table."""

    columns: str | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="one column (a number an example) or a list of columns and patterns (`pixel_*`): a row each"
    )
    dtype: Dtype | Literal["category"] = Field(
        default="float32", description="element type; category: int64 numbers of the sorted distinct values"
    )


class CsvData(Source):
    """A CSV file with a header line."""

    source: Literal["csv"]
    path: FilePath = Field(description="the file")
    test_path: FilePath | None = Field(
        default=None, description="a second file of the same columns, for evaluation on the host"
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = Field(
        default=",", description="what is between two columns"
    )
    tensors: Annotated[Mapping[str, ColumnTensor], Field(min_length=1)] = Field(
        description="the plan's data inputs, and the columns each is made of"
    )

    @property
    def has_test(self) -> bool:
        """Whether there are examples for evaluation on the host."""
        return self.test > 0 or self.test_path is not None


class ParquetData(Source):
    """A Parquet file; needs the `parquet` extra."""

    source: Literal["parquet"]
    path: FilePath = Field(description="the file")
    test_path: FilePath | None = Field(
        default=None, description="a second file of the same columns, for evaluation on the host"
    )
    tensors: Annotated[Mapping[str, ColumnTensor], Field(min_length=1)] = Field(
        description="the plan's data inputs, and the columns each is made of"
    )

    @property
    def has_test(self) -> bool:
        """Whether there are examples for evaluation on the host."""
        return self.test > 0 or self.test_path is not None


class ArrayTensor(Settings):
    """A tensor made of an array of an NPZ file."""

    array: str = Field(description="the array's name in the file")
    dtype: Dtype | None = Field(default=None, description="element type; null: the array's own")


class NpzData(Source):
    """An NPZ file of arrays whose first dimension is the examples."""

    source: Literal["npz"]
    path: FilePath = Field(description="the file")
    test_path: FilePath | None = Field(
        default=None, description="a second file of the same arrays, for evaluation on the host"
    )
    tensors: Annotated[Mapping[str, ArrayTensor], Field(min_length=1)] = Field(
        description="the plan's data inputs, and the array each is made of"
    )

    @property
    def has_test(self) -> bool:
        """Whether there are examples for evaluation on the host."""
        return self.test > 0 or self.test_path is not None


class TorchData(Source):
    """Any map-style dataset (`__len__` and `__getitem__`), such as PyTorch's."""

    source: Literal["torch"]
    dataset: DottedPath = Field(
        description="the dataset's class or a function that makes it, as package.module:Name"
    )
    args: Mapping[str, JsonValue] = Field(default={}, description="its keyword arguments")
    test_args: Mapping[str, JsonValue] | None = Field(
        default=None, description="keyword arguments that make it the test set; null: there is none"
    )
    names: tuple[str, ...] = Field(
        default=("x", "label"),
        description="the tensors' names where an example is a tuple; a mapping's keys are names already",
    )

    @property
    def has_test(self) -> bool:
        """Whether there are examples for evaluation on the host."""
        return self.test > 0 or self.test_args is not None


class SyntheticData(Source):
    """Synthetic(alpha, beta) of Li et al. 2020 (FedProx): each client has its own truth. `x` and `label`."""

    source: Literal["synthetic"]
    clients: int = Field(ge=1, le=1_000_000, description="how many clients there are")
    examples: int = Field(default=100, ge=1, description="examples of a typical client (the median)")
    spread: float = Field(
        default=1.0, ge=0, le=3, description="sigma of the log-normal sizes; 0: all clients are equal"
    )
    features: int = Field(default=64, ge=1, description="numbers an example has")
    classes: int = Field(default=10, ge=2, description="number of classes")
    alpha: float = Field(default=0.5, ge=0, description="how much the clients' truths differ")
    beta: float = Field(default=0.5, ge=0, description="how much the clients' inputs differ")
    partition: Partition = Field(
        default=NaturalPartition(by="natural"), description="how the examples are divided among clients"
    )


_SOURCES = ["digits", "movielens", "csv", "parquet", "npz", "torch", "synthetic"]

DataConfig = Annotated[
    Annotated[DigitsData, tag("source", "digits")]
    | Annotated[MovieLensData, tag("source", "movielens")]
    | Annotated[CsvData, tag("source", "csv")]
    | Annotated[ParquetData, tag("source", "parquet")]
    | Annotated[NpzData, tag("source", "npz")]
    | Annotated[TorchData, tag("source", "torch")]
    | Annotated[SyntheticData, tag("source", "synthetic")],
    choice("source", _SOURCES),
]

"""What a person writes: a model, its loss, an optimizer and an example batch. Nothing about ONNX."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from devicelab.dotted import describe_failure, nearest
from devicelab.errors import DevicelabError, PlanError
from devicelab.plans.optimizers import SGD, Optimizer
from devicelab.plans.signature import Kind

__all__ = ["Batch", "NamedRows", "TrainingPlan"]

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class NamedRows:
    """Parameters of which a step reads and changes only the rows that its data name.

    Attributes:
        parameters: Patterns (``fnmatch``) of their names; the first dimension of each is the rows.
        ids: Names of the integer data whose values are row numbers.
    """

    parameters: tuple[str, ...]
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, str) or not all(isinstance(item, str) for item in value) or not value:
                raise PlanError(f"NamedRows: {name} is {value!r}; it must be a tuple of names")


class TrainingPlan(ABC):
    """A local training step to be, as a person describes it.

    ::

        class Digits(TrainingPlan):
            name = "digits"
            optimizer = SGD(lr=0.1, momentum=0.9)

            def module(self):
                return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

            def loss(self, model, batch):
                return F.cross_entropy(model(batch["pixels"]), batch["digit"])

            def example_batch(self):
                return {"pixels": torch.randn(32, 64), "digit": torch.randint(10, (32,))}

    Attributes:
        name: Letters, digits, ``-``, ``_`` and ``.``; names the plan's files.
        optimizer: How gradients become updates.
        private: Patterns (``fnmatch``) of parameter names that never leave their device: ``("user.*",)``.
        proximal: Default weight mu of FedProx's term mu/2 · ‖p - global‖² (Li et al. 2020); None leaves it out.
        clip_norm: Default of the largest norm of the whole gradient; None leaves clipping out.
        example_clip_norm: The same for each example's gradient before they are averaged, as in DP-SGD (Abadi et
            al. 2016, without the noise); the loss must be a mean over examples. None leaves it out.
        fixed_batch: Whether the plan only fits batches as long as the example batch, for models whose graph
            depends on the number of examples.
        tables: Tables of which a client needs only the rows that its data name, by a name for each:
            ``{"item": NamedRows(parameters=("item.*",), ids=("item",))}``. It is sent no others and sends back
            no others. The check sees that nothing else is read or changed; weight decay changes all rows, and a
            softmax over all items reads them, so they do not go with this. Where the evaluation reads more, it
            is given whole tables.
    """

    name: ClassVar[str]
    optimizer: Optimizer = SGD(lr=0.1)
    private: tuple[str, ...] = ()
    proximal: float | None = None
    clip_norm: float | None = None
    example_clip_norm: float | None = None
    fixed_batch: bool = False

    @property
    def tables(self) -> Mapping[str, NamedRows]:
        """See the class; a plan says ``tables = {…}``."""
        return {}

    @abstractmethod
    def module(self) -> nn.Module:
        """A new model with the initial parameters in it."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar to be minimized: a mean over the batch's examples."""

    @abstractmethod
    def example_batch(self) -> Batch:
        """Data as the device will see it, by name; the first dimension of every tensor is the examples."""

    def evaluation_batch(self) -> Batch:
        """The same for the plan's evaluation, where that takes other data than the training.

        Then ``loss`` and ``metrics`` are given the one or the other, as ``model.training`` says.
        """
        return self.example_batch()

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Metrics by name as (sum, count), both scalars.

        ``{"accuracy": (right.sum(), torch.ones_like(right).sum())}``: a count that is a number of Python's
        would be the example batch's for ever. Over many batches a metric is the total of its sums divided by
        the total of its counts.
        """
        del model, batch
        return {}

    def recommend(self, model: nn.Module, known: Batch, top: int) -> Tensor:
        """For recommenders: numbers of the ``top`` best items for the owner of some shards, the best first.

        Args:
            model: The model, for evaluation.
            known: The owner's shard to train on, and of the one that is held out the tensors that this lacks.
            top: How many.

        Returns:
            int64 [top].
        """
        raise NotImplementedError

    def item_factors(self, model: nn.Module) -> Tensor | None:
        """For recommenders: a row of factors an item, alike where items are alike; None if there are none."""
        del model
        return None

    def random_batch(
        self, examples: int, generator: torch.Generator, kind: Kind = "train"
    ) -> dict[str, Tensor]:
        """A batch for the check: rows drawn with replacement from the example batch."""
        example = self.checked_batch(kind)
        rows = torch.randint(len(next(iter(example.values()))), (examples,), generator=generator)
        return {name: tensor[rows] for name, tensor in example.items()}

    def is_private(self, parameter: str) -> bool:
        """Whether a parameter of that name stays on its device."""
        return any(fnmatchcase(parameter, pattern) for pattern in self.private)

    def tables_of_parameters(self, parameters: Iterable[str]) -> dict[str, str]:
        """The table that each parameter is of, for those that are of one.

        Raises:
            PlanError: A table is not well formed, or names no parameter, one that is private, or one that is of
                another table too.
        """
        known, found = list(parameters), dict[str, str]()
        declared: object = self._declared_tables()
        if not isinstance(declared, Mapping):
            raise PlanError(f"plan {self.label}: its `tables` are a {type(declared).__name__}, no mapping")
        for table, named in declared.items():
            where = f"plan {self.label}: table {table!r}"
            if not isinstance(named, NamedRows):
                raise PlanError(f"{where} is a {type(named).__name__}, no NamedRows")
            for pattern in named.parameters:
                members = [name for name in known if fnmatchcase(name, pattern)]
                if not members:
                    raise PlanError(f"{where}: no parameter is called {pattern!r}{nearest(pattern, known)}")
                for name in members:
                    if self.is_private(name):
                        raise PlanError(
                            f"{where}: {name!r} is private",
                            hint="what is private stays whole on its device; leave it out of the table",
                        )
                    if found.setdefault(name, str(table)) != table:
                        raise PlanError(f"{where}: {name!r} is of the table {found[name]!r} already")
        return found

    def tables_of_data(self, batch: Batch, kind: Kind) -> dict[str, str]:
        """The table whose rows each tensor of a batch names, for those that name rows.

        Raises:
            PlanError: The data of a training step lack one that a table wants; those of the evaluation may.
        """
        found: dict[str, str] = {}
        for table, named in self.tables.items():
            missing = [label for label in named.ids if label not in batch]
            if missing and kind == "train":
                reason = f"{missing[0]!r} is not in the example batch{nearest(missing[0], batch)}"
                raise PlanError(f"plan {self.label}: table {table!r}: {reason}")
            for label in () if missing else named.ids:
                if found.setdefault(label, table) != table:
                    both = f"{found[label]!r} and {table!r}"
                    raise PlanError(f"plan {self.label}: {label!r} names rows of both {both}")
        return found

    def new_module(self) -> nn.Module:
        """What :meth:`module` makes, once it is known to be one.

        Raises:
            PlanError: It is no module, or making it failed.
        """
        made: object = self._asked(self.module)
        if not isinstance(made, nn.Module):
            raise PlanError(f"plan {self.label}: its module() returns {type(made).__name__}, no nn.Module")
        return made

    def _declared_tables(self) -> object:
        optimizer: object = self.optimizer
        if not isinstance(optimizer, Optimizer):  # the tables may depend on it
            kind = type(optimizer).__name__
            raise PlanError(
                f"plan {self.label}: its `optimizer` is a {kind}, no Optimizer",
                hint='in YAML: {class: "devicelab.plans.optimizers:SGD", args: {lr: 0.1}}',
            )
        try:
            return self.tables
        except DevicelabError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise PlanError(f"plan {self.label}: its `tables` failed: {describe_failure(error)}") from error

    def _asked(self, method: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever a user's method returns
        try:
            return method()
        except DevicelabError:
            raise
        except Exception as error:  # the user's code may raise anything
            reason = describe_failure(error)
            raise PlanError(f"plan {self.label}: its {method.__name__}() failed: {reason}") from error

    def checked_batch(self, kind: Kind = "train") -> dict[str, Tensor]:
        """The example batch for training or evaluation, once it is known to be well formed.

        Raises:
            PlanError: It is empty, ragged, or holds something other than tensors, or making it failed.
        """
        made: object = self._asked(self.example_batch if kind == "train" else self.evaluation_batch)
        if not isinstance(made, Mapping):
            raise PlanError(f"plan {self.label}: the example batch is a {type(made).__name__}, no mapping")
        batch = dict(made)
        if not batch:
            raise PlanError(f"plan {self.label}: the example batch is empty")
        lengths: set[int] = set()
        entries: dict[str, object] = dict(batch)
        for name, tensor in entries.items():
            if not isinstance(tensor, Tensor) or tensor.dim() == 0:
                raise PlanError(f"plan {self.label}: {name!r} in the example batch is no tensor of examples")
            lengths.add(tensor.shape[0])
        if len(lengths) != 1 or 0 in lengths:
            raise PlanError(
                f"plan {self.label}: the tensors of the example batch hold {sorted(lengths)} examples; they "
                "must agree, and be at least one"
            )
        return {str(name): tensor.detach() for name, tensor in batch.items()}

    @property
    def label(self) -> str:
        """The plan's name, once it is known to be good for a file name.

        Raises:
            PlanError: There is none, or it holds other characters.
        """
        name = getattr(self, "name", "")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise PlanError(
                f"{type(self).__name__}: its `name` is {name!r}; use letters, digits, '-', '_' and '.'"
            )
        return name

"""A recommender's graph for one owner of shards: from model and shards to the numbers of the best items.

Its inputs are called as a plan's parameters and a shard's tensors are, so that a phone can run it on the files
that it has; its one output is ``items``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from devicelab.errors import PlanError
from devicelab.plans.cleanup import clean
from devicelab.plans.plan import TrainingPlan
from devicelab.plans.step import dtype_name
from devicelab.plans.tracing import trace
from devicelab.plans.writer import write_graph

__all__ = ["OUTPUT", "item_factors", "ranking_graph"]

OUTPUT: Final = "items"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class _Port:
    name: str
    dtype: str
    shape: Sequence[int | str]


def ranking_graph(plan: TrainingPlan, known: Mapping[str, Array], top: int) -> tuple[bytes, tuple[str, ...]]:
    """The graph of :meth:`~devicelab.plans.plan.TrainingPlan.recommend`.

    Args:
        plan: The plan.
        known: What the owner's shards hold; only types and shapes are looked at.
        top: How many items.

    Returns:
        The ONNX file, and the names of the inputs that it has.

    Raises:
        PlanError: The plan recommends nothing, or cannot be traced.
    """
    model = plan.module().eval()
    values = {f"param/{name}": p.detach() for name, p in model.named_parameters()}
    values |= {f"buffer/{name}": b.detach() for name, b in model.named_buffers()}
    values |= {name: torch.zeros_like(torch.from_numpy(np.array(array))) for name, array in known.items()}
    names = list(values)

    def recommended(*tensors: Tensor) -> list[Tensor]:
        named = dict(zip(names, tensors, strict=True))
        parts = {n.partition("/")[2]: t for n, t in named.items() if n not in known}
        return [
            functional_call(_Recommender(plan, model), _prefixed(parts), ({n: named[n] for n in known}, top))
        ]

    if type(plan).recommend is TrainingPlan.recommend:
        raise PlanError(f"the plan {plan.label} recommends nothing", hint="its class has no method `recommend`")
    graph = trace(recommended, lambda _: list(values.values()), fixed_batch=1)
    clean(graph)
    read = {value for node in graph.nodes for value in node.inputs} | set(graph.outputs)
    kept = [(value, name) for value, name in zip(graph.inputs, names, strict=True) if value in read]
    graph.inputs = [value for value, _ in kept]
    ports = [_Port(name, dtype_name(values[name].dtype), tuple(values[name].shape)) for _, name in kept]
    written = write_graph(graph, f"{plan.label}.recommend", ports, [_Port(OUTPUT, "int64", (top,))])
    return written.SerializeToString(deterministic=True), tuple(name for _, name in kept)


def _prefixed(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in parts.items()}


class _Recommender(torch.nn.Module):
    """The plan's method as a module's forward, so that functional_call can swap the model's tensors."""

    def __init__(self, plan: TrainingPlan, model: torch.nn.Module) -> None:
        super().__init__()
        self.plan = plan
        self.model = model

    def forward(self, known: Mapping[str, Tensor], top: int) -> Tensor:
        with torch.no_grad():
            return self.plan.recommend(self.model, known, top)


def item_factors(plan: TrainingPlan, values: Mapping[str, Array]) -> Array | None:
    """The items' factors in a global model, float32 [items, width]; None if the plan has none.

    Args:
        plan: The plan.
        values: Parameters and buffers by input name; what is private is not needed.
    """
    model = plan.module().eval()
    state = {name.partition("/")[2]: torch.from_numpy(np.array(array)) for name, array in values.items()}
    model.load_state_dict(state, strict=False)
    with torch.no_grad():
        factors = plan.item_factors(model)
    return None if factors is None else factors.detach().numpy()

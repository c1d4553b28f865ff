"""Updates for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from devicelab.aggregation.update import ClientUpdate, PartialSum, Rows, Tensors


def update(
    client: str, values: Sequence[object] | NDArray[Any], *, weight: float = 1.0, dtype: str = "float32"
) -> ClientUpdate:
    return ClientUpdate({"w": np.asarray(values, dtype)}, weight, int(weight), client, f"phone-{client}")


def of(client: str, tensors: Tensors, *, weight: float = 1.0) -> ClientUpdate:
    return ClientUpdate(tensors, weight, int(weight), client, f"phone-{client}")


def partial(clients: Sequence[ClientUpdate], device: str = "phone") -> PartialSum:
    """As a device adds up: in double precision, rounded once."""
    total = {
        name: np.sum([c.weight * c.delta[name].astype(np.float64) for c in clients], axis=0).astype(
            tensor.dtype
        )
        for name, tensor in clients[0].delta.items()
    }
    weight, examples = sum(c.weight for c in clients), sum(c.examples for c in clients)
    return PartialSum(total, weight, examples, tuple(c.client for c in clients), device, clients[0].rows)


def random_updates(
    count: int, *, seed: int = 0, size: int = 1000, dtype: str = "float32"
) -> list[ClientUpdate]:
    generator = np.random.default_rng(seed)
    shapes = {"layer/weight": (size // 10, 10), "layer/bias": (7,), "scale": ()}
    return [
        of(
            f"{place:03}",
            {name: generator.standard_normal(shape).astype(dtype) for name, shape in shapes.items()},
            weight=float(generator.integers(1, 400)),
        )
        for place in range(count)
    ]


@st.composite
def some_updates(draw: st.DrawFn, smallest: int = 1, largest: int = 9) -> list[ClientUpdate]:
    """A few updates of one layout, with whole weights."""
    count = draw(st.integers(smallest, largest))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    numbers = st.floats(-1e6, 1e6, width=32)
    return [
        of(
            str(place),
            {"a": draw(hnp.arrays(np.float32, shape, elements=numbers)), "b": np.asarray([place], np.float32)},
            weight=float(draw(st.integers(1, 1000))),
        )
        for place in range(count)
    ]


TABLES = ("items", "biases")


@dataclass(frozen=True)
class Partly:
    """The same updates in both ways: with whole tables, and with the rows that are named."""

    whole: list[ClientUpdate]
    some: list[ClientUpdate]


@st.composite
def partly_updates(draw: st.DrawFn) -> Partly:
    """Updates of two tables and a plain tensor, in which each client has moved some rows only."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(0, 5))
    shapes = {"items": (height, width), "biases": (height,), "w": (3,)}
    numbers = st.floats(-1e6, 1e6, width=32)
    pair = Partly([], [])
    for place in range(draw(st.integers(1, 6))):
        named = draw(st.sets(st.integers(0, height - 1), min_size=1))
        rows = Rows(np.array(sorted(named), np.int64), height)
        whole = {name: draw(hnp.arrays(np.float32, shape, elements=numbers)) for name, shape in shapes.items()}
        rest = np.setdiff1d(np.arange(height), rows.numbers)
        for name in TABLES:
            whole[name][rest] = 0
        weight = float(draw(st.integers(1, 1000)))
        pair.whole.append(of(str(place), whole, weight=weight))
        some = {**whole, **{name: whole[name][rows.numbers] for name in TABLES}}
        pair.some.append(replace(pair.whole[-1], delta=some, rows=dict.fromkeys(TABLES, rows)))
    return pair


def same(one: Tensors, other: Tensors) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )

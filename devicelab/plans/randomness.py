"""Random numbers that are the same bits in PyTorch, ONNX Runtime and TorchScript.

ONNX's random operators ignore their seeds on some engines and differ on all, so a plan computes its own: a
number is a hash of the seed, the step, which draw in the step it is, and its row and column (the last
dimension).

Rows and columns are hashed with care: x -> x**5 is a permutation of the integers modulo the prime 2**31 - 1 (5
is coprime to 2**31 - 2), computed in 64 bits without overflow. The many numbers where they cross are cheap:
row·column + shift modulo 2**32, of which the high bits count (multiply-shift hashing, Dietzfelbinger et al.
1997: numbers in the same row or column are pairwise independent). It is meant for dropout, not for
cryptography.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from devicelab.errors import PlanError

__all__ = ["SeededRandom", "chance", "plain_attention", "uniform"]

_PRIME: Final = 2**31 - 1
_MULTIPLIER: Final = 48271  # a primitive root of the prime (Park, Miller & Stockmeyer 1993)
aten = torch.ops.aten


def _power5(x: Tensor) -> Tensor:
    square = x * x % _PRIME
    return square * square % _PRIME * x % _PRIME


def _mixed(key: Tensor, count: int) -> Tensor:
    """``count`` hashes of a key, in [0, 2**31 - 1), int64."""
    index = torch.arange(count, dtype=torch.int64)
    bits = _power5((index * _MULTIPLIER + key) % _PRIME)
    return _power5((bits * _MULTIPLIER + key) % _PRIME)


def _words(seed: Tensor, step: Tensor, draw: int, shape: Sequence[int]) -> Tensor:
    """Uniform signed 32-bit integers of that shape; arithmetic wraps around."""
    key = _power5((seed % _PRIME + _MULTIPLIER) % _PRIME)
    key = _power5((key + step % _PRIME + 1) % _PRIME)
    key = _power5((key + 3 * draw + 1) % _PRIME)
    columns = shape[-1] if len(shape) > 1 else 1
    rows = math.prod(shape[:-1]) if len(shape) > 1 else math.prod(shape)
    factor = (_mixed(key, rows) // 2 * 2 + 1).to(torch.int32)  # odd, so that it loses no bit of the column
    shift = (_mixed((key + 1) % _PRIME, rows) * 2 - 2**31).to(torch.int32)
    column = (_mixed((key + 2) % _PRIME, columns) * 2 - 2**31).to(torch.int32)
    words = factor.reshape(-1, 1) * column.reshape(1, -1) + shift.reshape(-1, 1)
    return words.reshape(list(shape))


def uniform(seed: Tensor, step: Tensor, draw: int, shape: Sequence[int]) -> Tensor:
    """Numbers in [0, 1), multiples of 2**-24.

    Args:
        seed: int64 scalar.
        step: int64 scalar, not negative.
        draw: How many draws came before this one in the step.
        shape: Of the result.

    Returns:
        float32 tensor of that shape.
    """
    words = _words(seed, step, draw, shape).to(torch.float64)
    return torch.floor((words + 2.0**31) * 2.0**-8).to(torch.float32) * 2.0**-24


def chance(seed: Tensor, step: Tensor, draw: int, shape: Sequence[int], probability: float) -> Tensor:
    """True with that probability, to 2**-32; arguments as for :func:`uniform`."""
    threshold = min(max(round(probability * 2**32) - 2**31, -(2**31)), 2**31 - 1)
    return _words(seed, step, draw, shape) < threshold


def plain_attention() -> AbstractContextManager[None]:
    """Attention as matrix products and softmax: fused kernels draw their dropout in secret."""
    manager: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return manager


class SeededRandom(TorchDispatchMode):  # type: ignore[no-untyped-call] # its __init_subclass__ has no annotations
    """While active, every random operator draws from :func:`uniform` or :func:`chance`.

    Args:
        seed: int64 scalar.
        step: int64 scalar.
    """

    def __init__(self, seed: Tensor, step: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # PyTorch does not annotate it
        self._seed = seed
        self._step = step
        self._draws = 0

    def restart(self) -> None:
        """Begin the step's draws again, so that a second forward pass drops the same elements."""
        self._draws = 0

    def _uniform(self, shape: Sequence[int]) -> Tensor:
        drawn = uniform(self._seed, self._step, self._draws, shape)
        self._draws += 1
        return drawn

    def _normal(self, shape: Sequence[int]) -> Tensor:
        """Box & Muller (1958); 1 - u is never 0."""
        radius = torch.sqrt(-2.0 * torch.log(1.0 - self._uniform(shape)))
        return radius * torch.cos(2.0 * math.pi * self._uniform(shape))

    def _keep(self, shape: Sequence[int], probability: float) -> Tensor:
        kept = chance(self._seed, self._step, self._draws, shape, probability)
        self._draws += 1
        return kept

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the operator returns
        kwargs = dict(kwargs or {})
        handler = _HANDLERS.get(func)
        if handler is not None:
            return handler(self, *args, **kwargs)
        if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
            raise PlanError(
                f"the model draws random numbers with {func}, which no plan can repeat",
                hint="use dropout, bernoulli, rand or randn",
            )
        return func(*args, **kwargs)


def _native_dropout(mode: SeededRandom, x: Tensor, p: float, train: bool | None = None) -> Any:  # noqa: ANN401, FBT001 - aten's schema
    if train is False or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    keep = mode._keep(x.shape, 1.0 - p)
    scale = 0.0 if p == 1 else 1.0 / (1.0 - p)
    return x * keep.to(x.dtype) * scale, keep


def _bernoulli_(mode: SeededRandom, x: Tensor, p: float = 0.5, **_: object) -> Tensor:
    return x.copy_(mode._keep(x.shape, p).to(x.dtype))


def _bernoulli_p(mode: SeededRandom, x: Tensor, p: float, **_: object) -> Tensor:
    return mode._keep(x.shape, p).to(x.dtype)


def _bernoulli(mode: SeededRandom, x: Tensor, **_: object) -> Tensor:
    return (mode._uniform(x.shape) < x).to(x.dtype)


def _rand(mode: SeededRandom, size: Sequence[int], dtype: torch.dtype | None = None, **_: object) -> Tensor:
    return mode._uniform(size).to(dtype or torch.float32)


def _rand_like(mode: SeededRandom, x: Tensor, dtype: torch.dtype | None = None, **_: object) -> Tensor:
    return mode._uniform(x.shape).to(dtype or x.dtype)


def _randn(mode: SeededRandom, size: Sequence[int], dtype: torch.dtype | None = None, **_: object) -> Tensor:
    return mode._normal(size).to(dtype or torch.float32)


def _randn_like(mode: SeededRandom, x: Tensor, dtype: torch.dtype | None = None, **_: object) -> Tensor:
    return mode._normal(x.shape).to(dtype or x.dtype)


def _uniform_(mode: SeededRandom, x: Tensor, low: float = 0.0, high: float = 1.0, **_: object) -> Tensor:
    return x.copy_(mode._uniform(x.shape) * (high - low) + low)


def _normal_(mode: SeededRandom, x: Tensor, mean: float = 0.0, std: float = 1.0, **_: object) -> Tensor:
    return x.copy_(mode._normal(x.shape) * std + mean)


_HANDLERS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    aten.native_dropout.default: _native_dropout,
    aten.bernoulli_.float: _bernoulli_,
    aten.bernoulli.p: _bernoulli_p,
    aten.bernoulli.default: _bernoulli,
    aten.rand.default: _rand,
    aten.rand_like.default: _rand_like,
    aten.randn.default: _randn,
    aten.randn_like.default: _randn_like,
    aten.uniform_.default: _uniform_,
    aten.normal_.default: _normal_,
}

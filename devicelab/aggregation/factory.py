"""Rules and server optimizers from the plain values of an experiment's YAML."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar, get_type_hints

from devicelab.aggregation.coordinates import Median, TrimmedMean
from devicelab.aggregation.fedavg import FedAvg
from devicelab.aggregation.krum import Krum
from devicelab.aggregation.rule import Rule
from devicelab.aggregation.server import (
    FedAdagrad,
    FedAdam,
    FedAvgM,
    FedYogi,
    ServerAverage,
    ServerOptimizer,
)
from devicelab.errors import ConfigError

__all__ = ["RULES", "SERVER_OPTIMIZERS", "make_rule", "make_server_optimizer", "options_of"]

RULES: Final[Mapping[str, Callable[..., Rule]]] = {
    kind.name: kind for kind in (FedAvg, Median, TrimmedMean, Krum)
}
SERVER_OPTIMIZERS: Final[Mapping[str, Callable[..., ServerOptimizer]]] = {
    kind.name: kind for kind in (ServerAverage, FedAvgM, FedAdagrad, FedAdam, FedYogi)
}

_Made = TypeVar("_Made")
_LARGEST: Final = sys.float_info.max


def make_rule(name: str, **options: object) -> Rule:
    """A rule for one round.

    Args:
        name: One of :data:`RULES`.
        options: What its class takes.

    Raises:
        ConfigError: There is no such rule or option, or a value does not do.
    """
    kind = _lookup("aggregation rule", RULES, name)
    return kind(**_checked(name, kind, options))


def make_server_optimizer(name: str, optimized: Collection[str], **options: object) -> ServerOptimizer:
    """A server optimizer for one run.

    Args:
        name: One of :data:`SERVER_OPTIMIZERS`.
        optimized: Names of the tensors that go through it: those of the role ``parameter``.
        options: What its class takes.

    Raises:
        ConfigError: There is no such optimizer or option, or a value does not do.
    """
    kind = _lookup("server optimizer", SERVER_OPTIMIZERS, name)
    return kind(optimized, **_checked(name, kind, options))


def options_of(kind: Callable[..., object]) -> dict[str, object]:
    """A class's options and their defaults."""
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def _lookup(what: str, known: Mapping[str, _Made], name: str) -> _Made:
    if name in known:
        return known[name]
    raise ConfigError(f"there is no {what} {name!r}", hint=_nearest(name, known))


def _nearest(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"


def _checked(name: str, kind: Callable[..., object], options: Mapping[str, object]) -> dict[str, Any]:
    known = options_of(kind)
    for option in options:
        if option not in known:
            raise ConfigError(f"{name} has no option {option!r}", hint=_nearest(option, known))
    types = get_type_hints(getattr(kind, "__init__"))  # noqa: B009 - mypy will not have it as an attribute
    return {option: _number(name, option, value, types[option]) for option, value in options.items()}


def _number(name: str, option: str, value: object, wanted: object) -> float | None:
    if value is None and wanted == float | None:
        return None
    whole = wanted is int
    good = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if good and isinstance(value, int | float) and -_LARGEST <= value <= _LARGEST:  # not NaN either
        return value
    kind = "a whole number" if whole else "a number"
    raise ConfigError(f"{name}: {option} must be {kind}, not {value!r:.80}")

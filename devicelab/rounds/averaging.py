"""From an experiment's words to aggregation's objects: rule, server optimizer, clients' weights."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

from numpy.typing import NDArray

from devicelab.aggregation.factory import make_rule, make_server_optimizer
from devicelab.aggregation.rule import Rule
from devicelab.aggregation.server import ServerOptimizer
from devicelab.aggregation.update import ClientUpdate, PartialSum
from devicelab.config.training import AggregationConfig, FedAvg

__all__ = ["mean_of", "rule_for", "server_for", "weight_of"]


def rule_for(config: AggregationConfig) -> Rule:
    """A new rule for one round."""
    options = config.model_dump(exclude={"server", "weight", "privacy"})
    return make_rule(options.pop("rule"), **options)


def mean_of(rule: Rule, updates: Iterable[ClientUpdate | PartialSum]) -> dict[str, NDArray[Any]]:
    """What a rule makes of some updates.

    Raises:
        UpdateError: One does not fit.
        RoundError: There are too few for the rule, or the result is not finite.
    """
    for update in updates:
        if isinstance(update, PartialSum):
            rule.add_sum(update)
        else:
            rule.add(update)
    return rule.result()


def server_for(config: AggregationConfig, optimized: Collection[str]) -> ServerOptimizer:
    """The server optimizer of one run.

    Args:
        config: What the experiment says.
        optimized: Names of the plan's parameters; its buffers are averaged.
    """
    options = config.server.model_dump()
    return make_server_optimizer(options.pop("optimizer"), optimized, **options)


def weight_of(config: AggregationConfig, examples: int) -> float | None:
    """What a client with so many examples counts for; None: the number of its examples."""
    if not isinstance(config, FedAvg) or config.weight == "examples":
        return None
    return math.sqrt(examples) if config.weight == "sqrt_examples" else 1.0

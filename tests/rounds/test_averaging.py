from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from devicelab.config.training import AggregationConfig
from devicelab.rounds.averaging import rule_for, server_for, weight_of


def _config(**settings: object) -> AggregationConfig:
    adapter: TypeAdapter[AggregationConfig] = TypeAdapter(AggregationConfig)
    return adapter.validate_python(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rule": "median"},
        {"rule": "trimmed_mean", "fraction": 0.2},
        {"rule": "krum", "byzantine": 2},
        {"rule": "krum", "byzantine": 2, "keep": 3},
    ],
)
def test_every_rule_of_an_experiment_is_made_as_it_says(settings: dict[str, object]) -> None:
    config = _config(**settings)
    rule = rule_for(config)
    assert rule.name == settings.get("rule", "fedavg")
    assert rule.needs_each == config.needs_each


@pytest.mark.parametrize("name", ["none", "fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_every_server_optimizer_of_an_experiment_is_made(name: str) -> None:
    assert server_for(_config(server={"optimizer": name, "lr": 0.5}), ["w"]).name == name


def test_what_a_client_counts_for() -> None:
    assert weight_of(_config(), 9) is None
    assert weight_of(_config(weight="sqrt_examples"), 9) == 3.0
    assert weight_of(_config(weight="uniform"), 9) == 1.0
    assert weight_of(_config(rule="median"), 9) is None

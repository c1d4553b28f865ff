"""From an experiment's plain values to rules and optimizers."""

from __future__ import annotations

import pytest

from devicelab.aggregation.factory import (
    RULES,
    SERVER_OPTIMIZERS,
    make_rule,
    make_server_optimizer,
    options_of,
)
from devicelab.errors import ConfigError


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_made_by_its_name(name: str) -> None:
    rule = make_rule(name)
    assert rule.name == name
    assert rule.minimum >= 1
    assert rule.needs_each != rule.streaming


@pytest.mark.parametrize("name", SERVER_OPTIMIZERS)
def test_every_optimizer_is_made_by_its_name_with_whole_numbers_too(name: str) -> None:
    optimizer = make_server_optimizer(name, ["w"], lr=1)
    assert optimizer.name == name
    assert optimizer.state() == {}


def test_options_and_defaults_can_be_asked_for() -> None:
    assert options_of(RULES["fedavg"]) == {}
    assert options_of(RULES["krum"]) == {"byzantine": 1, "keep": 1}
    assert options_of(SERVER_OPTIMIZERS["fedadam"]) == {
        "lr": 0.01,
        "beta1": 0.9,
        "beta2": 0.99,
        "tau": 1e-3,
        "initial": None,
    }


@pytest.mark.parametrize(
    ("name", "options", "words", "hint"),
    [
        ("fedavgg", {}, "no aggregation rule 'fedavgg'", "'fedavg'"),
        ("zebra", {}, "no aggregation rule 'zebra'", "known: fedavg, median"),
        ("median", {"fraction": 0.1}, "median has no option 'fraction'", "known: none"),
        ("trimmed_mean", {"fractoin": 0.1}, "no option 'fractoin'", "'fraction'"),
        ("krum", {"byzantine": 1.0}, "byzantine must be a whole number, not 1.0", None),
        ("krum", {"byzantine": True}, "byzantine must be a whole number, not True", None),
        ("krum", {"byzantine": None}, "byzantine must be a whole number, not None", None),
        ("trimmed_mean", {"fraction": "0.1"}, "fraction must be a number, not '0.1'", None),
        ("trimmed_mean", {"fraction": float("nan")}, "fraction must be a number, not nan", None),
        ("trimmed_mean", {"fraction": 10**400}, "fraction must be a number", None),
    ],
)
def test_what_is_wrong_with_a_rule_is_said(
    name: str, options: dict[str, object], words: str, hint: str | None
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make_rule(name, **options)
    if hint is not None:
        assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fedadm", {}, "no server optimizer 'fedadm'"),
        ("none", {"momentum": 0.9}, "none has no option 'momentum'"),
        ("none", {"lr": 0}, "none: lr must be a positive number, not 0"),
        ("fedavgm", {"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ("fedadam", {"beta1": -0.1}, "beta1 must be at least 0 and below 1"),
        ("fedadam", {"beta2": 1}, "beta2 must be at least 0 and below 1"),
        ("fedyogi", {"tau": 0.0}, "tau must be a positive number"),
        ("fedadagrad", {"initial": -1.0}, "initial must not be negative"),
    ],
)
def test_what_is_wrong_with_an_optimizer_is_said(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_server_optimizer(name, ["w"], **options)

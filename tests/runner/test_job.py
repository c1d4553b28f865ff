"""Jobs: only sensible ones can be made, and what is written is what the contract says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from devicelab.errors import ConfigError
from devicelab.runner.job import Client, Job

CLIENTS = (Client("17", "../shard", seed=3, kept="../private/17"), Client("a.b-c", "x", weight=2.5))
TRAIN = Job(
    job="r3-ab12",
    verb="train",
    plan="p",
    parameters="w",
    clients=CLIENTS,
    batch_size=32,
    epochs=1,
    hyper={"lr": 0.1},
)
RUN = Job(job="x", verb="run", plan="p", inputs="i")


def test_the_file_says_what_is_for_the_verb_and_no_more() -> None:
    assert json.loads(TRAIN.to_json()) == {
        "protocol": 1,
        "job": "r3-ab12",
        "verb": "train",
        "plan": "p",
        "threads": 1,
        "parameters": "w",
        "clients": [
            {"client": "17", "shard": "../shard", "seed": 3, "kept": "../private/17"},
            {"client": "a.b-c", "shard": "x", "seed": 0, "weight": 2.5},
        ],
        "batch_size": 32,
        "hyper": {"lr": 0.1},
        "epochs": 1,
        "shuffle": True,
        "state": "reset",
        "combine": "sum",
    }
    assert json.loads(RUN.to_json()) == {
        "protocol": 1,
        "job": "x",
        "verb": "run",
        "plan": "p",
        "threads": 1,
        "inputs": "i",
    }
    evaluate = Job(job="x", verb="evaluate", plan="p", parameters="w", clients=CLIENTS[1:], batch_size=8)
    assert "epochs" not in json.loads(evaluate.to_json())
    assert "shuffle" not in json.loads(evaluate.to_json())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"job": ""}, "job id"),
        ({"job": ".hidden"}, "job id"),
        ({"job": "a/b"}, "job id"),
        ({"job": "x" * 65}, "job id"),
        ({"job": "zwölf"}, "job id"),
        ({"verb": "dance"}, "no verb"),
        ({"threads": 0}, "threads"),
        ({"parameters": None}, "no parameters"),
        ({"clients": ()}, "0 clients"),
        ({"clients": (CLIENTS[0], CLIENTS[0])}, "a client twice"),
        ({"batch_size": 0}, "batch size"),
        ({"hyper": {"lr": float("nan")}}, "hyper lr"),
        ({"hyper": {"seed": 1}}, "seed"),
        ({"steps": 3}, "either epochs or steps"),
        ({"epochs": None}, "either epochs or steps"),
        ({"epochs": 0}, "0 is no number"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"inputs": "i"}, "'inputs' is not for the verb train"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        replace(TRAIN, **changes)


@pytest.mark.parametrize("inputs", [(), ("a",) * 5, ""])
def test_a_run_has_one_to_four_files_of_inputs(inputs: object) -> None:
    with pytest.raises(ConfigError, match="inputs"):
        replace(RUN, inputs=inputs)  # type: ignore[arg-type] # wrong on purpose
    several = replace(RUN, inputs=("a", "b"))
    assert json.loads(several.to_json())["inputs"] == ["a", "b"]


def test_a_run_has_inputs_and_nothing_else() -> None:
    with pytest.raises(ConfigError, match="has no inputs"):
        Job(job="x", verb="run", plan="p")
    with pytest.raises(ConfigError, match="'clients' is not for the verb run"):
        replace(RUN, clients=CLIENTS)


@pytest.mark.parametrize(
    "values",
    [
        {"client": "a b"},
        {"shard": ""},
        {"seed": -1},
        {"seed": 1 << 63},
        {"weight": 0.0},
        {"weight": float("inf")},
    ],
)
def test_nonsense_of_a_client_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="client"):
        Client(**{"client": "a", "shard": "s", **values})


def test_a_job_that_no_runner_reads_is_not_written() -> None:
    many = tuple(Client(f"{n}", "x" * 1000) for n in range(20_000))
    with pytest.raises(ConfigError, match="fewer clients"):
        replace(TRAIN, clients=many).to_json()

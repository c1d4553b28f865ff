"""Recommendations by phones that have learnt from made-up films."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors

from devicelab.config import load_experiment
from devicelab.errors import ConfigError, PlanError, RunnerError
from devicelab.rounds.recommending import _checked, neighbours
from devicelab.runner.layout import PRIVATE
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.cli.command import devicelab, document
from tests.rounds.films import ITEMS, TEXT, films_experiment, watched
from tests.rounds.small import experiment_file, lab_of, left_on, models

_RATINGS = """\
name: ratings
plan:
  class: devicelab.plans.zoo:MatrixFactorization
  args: {users: 1, items: 60, width: 4}
data:
  source: movielens
  path: u.data
round:
  rounds: 2
  clients: {number: 6}
  deadline: 120s
"""


@dataclass
class Trained:
    """A run that is over, and the phones that did it."""

    path: Path
    state: Path
    run: Path
    phones: list[VirtualPhone]

    @property
    def options(self) -> list[str]:
        """For a command."""
        connect = [word for phone in self.phones for word in ("--connect", phone.address)]
        return ["--transport", "direct", *connect, "--state-dir", str(self.state)]


@pytest.fixture(scope="module")
def phones(module_desk: VirtualDesk) -> list[VirtualPhone]:
    return module_desk.up(["pixel", "pixel"])


@pytest.fixture(scope="module")
def films(phones: list[VirtualPhone], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    directory = tmp_path_factory.mktemp("films")
    path = films_experiment(directory / "films", text=TEXT.replace("every: 3", "every: 0"))
    with lab_of(phones, directory / "state") as lab:
        done = lab.run_round(path)
    return Trained(path, directory / "state", done.directory, phones)


def _cosines(model: dict[str, Any], item: int) -> Any:
    factors = np.concatenate([model["param/watched.weight"], model["param/score.weight"]], axis=1)
    scaled = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    return scaled @ scaled[item]


def test_a_phone_recommends_what_its_client_has_not_watched(films: Trained) -> None:
    with lab_of(films.phones, films.state) as lab:
        found = lab.recommend(films.path, "3", top=8)
        assert [left_on(device) for device in lab.discover()] == [[], []]
    model = models(films.run)[-1]
    history = watched(3)
    hidden = np.zeros(4)
    for mix, horizon in zip(model["param/mix"], (3.0, 30.0, np.inf), strict=True):
        x = np.zeros(ITEMS)
        x[history] = np.exp(-np.arange(len(history))[::-1] / horizon)
        hidden += mix * (model["param/watched.weight"].T @ (x / np.linalg.norm(x)))
    scores = model["param/score.weight"] @ hidden + model["param/score.bias"]
    scores[history] = -np.inf
    assert [each.number for each in found.items] == np.argsort(-scores)[:8].tolist()
    assert [each.title for each in found.items] == [f"Film {n} ({1900 + n})" for n in np.argsort(-scores)[:8]]
    assert (found.client, found.round, found.run) == ("3", 3, films.run.name)
    assert found.device in {phone.address for phone in films.phones}


def test_private_factors_rank_where_they_are(phones: list[VirtualPhone], tmp_path: Path) -> None:
    path = films_experiment(tmp_path / "ratings", text=_RATINGS)
    with lab_of(phones, tmp_path / "state") as lab:
        done = lab.run_round(path)
        kept = {}
        for device in lab.discover():
            for entry in device.listing(f"{PRIVATE}/{done.run}"):
                remote = f"{PRIVATE}/{done.run}/{entry.name}"
                kept[entry.name.partition(".")[0]] = load_safetensors(device.read(remote, max_bytes=1 << 20))
        trained, own = next(iter(sorted(kept.items())))
        never = next(client for client in map(str, range(9)) if client not in kept)
        found = {client: lab.recommend(path, client, top=5) for client in (trained, never)}
    model = models(done.directory)[-1]
    history = watched(int(trained)) if int(trained) < 100 else list(range(int(trained) - 100, ITEMS, 3))
    scores = model["param/item.weight"] @ own["param/user.weight"][0] + model["param/item_bias.weight"][:, 0]
    scores[history] = -np.inf
    assert [each.number for each in found[trained].items] == np.argsort(-scores)[:5].tolist()
    assert not {each.number for each in found[never].items} & set(watched(int(never)))


def test_items_like_another_are_found_without_a_phone(films: Trained) -> None:
    found = neighbours(films.state, load_experiment(films.path), "film 7 (1907)", top=4)
    cosines = _cosines(models(films.run)[-1], 7)
    order = [n for n in np.argsort(-cosines) if n != 7][:4]
    assert [each.number for each in found.items] == order
    assert found.item.title == "Film 7 (1907)"
    np.testing.assert_allclose(found.similarities, cosines[order], rtol=1e-5)


def test_the_command_speaks_json_and_tables(films: Trained) -> None:
    told = document("recommend", str(films.path), "--client", "3", "--top", "2", *films.options)
    assert set(told) == {"run", "round", "client", "device", "items"}
    assert [set(each) for each in told["items"]] == [{"item", "title"}] * 2
    table = devicelab("recommend", str(films.path), "--client", "3", "--top", "2", *films.options).stdout
    assert all(each["title"] in table for each in told["items"])
    like = ["recommend", str(films.path), "--like", "Film 7 (", "--state-dir", str(films.state)]
    near = document(*like)
    assert (near["title"], len(near["items"])) == ("Film 7 (1907)", 10)
    assert near["items"][0]["title"] in devicelab(*like).stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "either --client ID or --like TITLE"),
        (["--client", "3", "--like", "x"], "either --client ID or --like TITLE"),
        (["--client", "nobody"], "the data have no client 'nobody'"),
        (["--like", "Film 1"], "items are called 'Film 1'"),
        (["--like", "Fimm 33 (1933)"], "did you mean 'Film 33 (1933)'"),
        (["--like", "Film 33", "--run", "zzz"], "no run in"),
    ],
)
def test_what_cannot_be_asked(words: list[str], reason: str, films: Trained) -> None:
    done = devicelab("recommend", str(films.path), *words, *films.options, code=2)
    assert reason in done.stderr


def test_a_model_is_needed_first(films: Trained, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no run of films yet"):
        neighbours(tmp_path, load_experiment(films.path), "Film 3 (")


def test_a_plan_that_recommends_nothing(phones: list[VirtualPhone], tmp_path: Path) -> None:
    with lab_of(phones, tmp_path / "state") as lab, pytest.raises(PlanError, match="recommends nothing"):
        lab.recommend(experiment_file(tmp_path), "0")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        np.array([1.0, 2, 3]),
        np.array([1, 2]),
        np.array([1, 2, 2]),
        np.array([-1, 2, 3]),
        np.array([1, 2, 60]),
        np.array([[1, 2, 3]]),
    ],
)
def test_an_answer_that_is_no_recommendation(answer: Any) -> None:
    assert _checked(np.array([5, 0, 59]), 3, 60, "phone") == [5, 0, 59]
    with pytest.raises(RunnerError, match="did not answer with 3 different items"):
        _checked(answer, 3, 60, "phone")

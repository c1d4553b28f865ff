"""What a trained recommender says: for one client, on the phone that holds its data; of an item, on this host.

A client's ranking is made on its phone, from its shards and whatever private parameters it keeps there; the
global model goes to the phone, the numbers of the recommended items come back, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from devicelab.config import Experiment
from devicelab.config.plan import ClassPlan
from devicelab.data.examples import Part
from devicelab.data.shards import Shard, read_shard
from devicelab.data.sources import item_titles
from devicelab.dotted import nearest
from devicelab.errors import ConfigError, PlanError, RunnerError
from devicelab.plans.signature import Role
from devicelab.rounds.coordinator import no_device
from devicelab.rounds.crew import Crew, Desk
from devicelab.rounds.placing import place_clients
from devicelab.rounds.running import Options
from devicelab.rounds.runs import find_trained, recorded_data
from devicelab.rounds.setup import Setup, set_up
from devicelab.rounds.station import Station
from devicelab.runner.cache import Blob
from devicelab.runner.layout import kept_path
from devicelab.runner.remote import RemoteRunner
from devicelab.store.run import RunReader

if TYPE_CHECKING:
    from devicelab.plans.plan import TrainingPlan

__all__ = ["Item", "Neighbours", "Recommendation", "neighbours", "recommend"]

Arrays = dict[str, NDArray[Any]]

_LARGEST: Final = 1 << 20  # bytes of an answer


@dataclass(frozen=True)
class Item:
    """One item.

    Attributes:
        number: Its number in the data.
        title: What it is called; its number where it has no name.
    """

    number: int
    title: str


@dataclass(frozen=True)
class Recommendation:
    """What a phone recommends.

    Attributes:
        run: Whose global model it was.
        round: After which round.
        client: To whom.
        device: Serial of the phone.
        items: The best first.
    """

    run: str
    round: int
    client: str
    device: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Neighbours:
    """Items that are like another.

    Attributes:
        run: Whose global model says so.
        round: After which round.
        item: The one.
        items: The others, the most alike first.
        similarities: Cosines of their factors and its.
    """

    run: str
    round: int
    item: Item
    items: tuple[Item, ...]
    similarities: tuple[float, ...]


def recommend(
    desk: Desk,
    state: Path,
    experiment: Experiment,
    client: str,
    *,
    top: int = 10,
    run: str | None = None,
    options: Options | None = None,
) -> Recommendation:
    """Ask the phone that holds a client's data for the best items that the client does not have yet.

    Args:
        desk: Where devices are found.
        state: The state directory.
        experiment: Which experiment; its plan must recommend (``TrainingPlan.recommend``).
        client: Whom to ask for.
        top: How many items.
        run: Whose model; the experiment's newest by default.
        options: How to go about it.

    Raises:
        ConfigError: There is no such client or run.
        PlanError: The plan recommends nothing.
        NoDeviceError: The phone is not here.
        DeviceError: It fails, or answers with something that is no recommendation.
    """
    from devicelab.plans.ranking import OUTPUT, ranking_graph  # noqa: PLC0415 - loads PyTorch

    plan, setup = _plan(experiment), set_up(experiment)
    titles = item_titles(experiment.data)
    shards = _shards(setup, client)
    held = {name: array for shard in reversed(shards) for name, array in read_shard(shard).items()}
    graph, names = ranking_graph(plan, held, top)
    options = options or Options()
    with RunReader(find_trained(state, experiment, run)) as opened:
        number, model = _newest(opened, setup)
        crew = Crew(desk, "recommend", selectors=(experiment.devices, options.selectors), engine=options.engine)
        with closing(crew):
            station = _home(crew, setup, opened, client)
            own = _kept(setup, opened, client)
            stored: list[Blob | str] = [Blob(s.sha256, s.size, s.path) for s in shards]
            if own is not None:
                stored.append(own)
            values = model if own else {**setup.private, **model}
            answer = RemoteRunner(station.device, engine=options.engine).run(
                graph,
                {name: values[name] for name in names if name in values},
                stored=stored,
                max_bytes=_LARGEST,
            )
            items = _checked(answer.get(OUTPUT), top, len(titles) or None, station.serial)
            return Recommendation(
                opened.path.name, number, client, station.serial, tuple(_item(n, titles) for n in items)
            )


def neighbours(
    state: Path, experiment: Experiment, title: str, *, top: int = 10, run: str | None = None
) -> Neighbours:
    """The items whose factors are most like those of one item; no phone is asked.

    Args:
        state: The state directory.
        experiment: Which experiment; its plan must have item factors (``TrainingPlan.item_factors``).
        title: The item's title, or so much of it that there is no other like it.
        top: How many.
        run: Whose model; the experiment's newest by default.

    Raises:
        ConfigError: There is no such item or run.
        PlanError: The plan has no item factors.
    """
    from devicelab.plans.ranking import item_factors  # noqa: PLC0415 - loads PyTorch

    plan, setup = _plan(experiment), set_up(experiment)
    titles = item_titles(experiment.data)
    chosen = _titled(title, titles)
    with RunReader(find_trained(state, experiment, run)) as opened:
        number, model = _newest(opened, setup)
        name = opened.path.name
    factors = item_factors(plan, model)
    if factors is None:
        raise PlanError(f"the plan {plan.label} has no item factors", hint="its class has no `item_factors`")
    scaled = factors / np.maximum(np.linalg.norm(factors, axis=1, keepdims=True), 1e-12)
    cosines = scaled @ scaled[chosen]
    order = [int(n) for n in np.argsort(-cosines, kind="stable") if n != chosen][:top]
    return Neighbours(
        name,
        number,
        _item(chosen, titles),
        tuple(_item(n, titles) for n in order),
        tuple(float(cosines[n]) for n in order),
    )


def _plan(experiment: Experiment) -> TrainingPlan:
    from devicelab.plans.loading import load_plan  # noqa: PLC0415 - loads PyTorch

    if not isinstance(experiment.plan, ClassPlan):
        raise PlanError("a plan that comes as files cannot say how it recommends", hint="give its class")
    return cast("TrainingPlan", load_plan(experiment))


def _shards(setup: Setup, client: str) -> list[Shard]:
    """What a client has: the shard to train on, and the one that is held out if there is one."""
    clients = setup.shards.clients
    if client not in clients:
        some = ", ".join(list(clients)[:3])
        raise ConfigError(
            f"the data have no client {client!r}{nearest(client, clients)}", hint=f"clients are {some}, …"
        )
    parts: tuple[Part, ...] = ("train", "held_out")
    return [clients[client][part] for part in parts if part in clients[client]]


def _newest(run: RunReader, setup: Setup) -> tuple[int, Arrays]:
    """A run's last global model, and after which round it is."""
    checkpoint = run.ledger.checkpoint()
    if checkpoint is None or checkpoint.round == 0:  # who never trained ranks by chance
        raise ConfigError(
            f"the run {run.path.name} has no trained model yet: none of its rounds is finished",
            hint=f"go on with it: devicelab run-round EXPERIMENT --resume --run {run.path.name}",
        )
    if recorded_data(run) != setup.shards.fingerprint:
        raise ConfigError(
            f"the data are not those of the run {run.path.name}", hint="choose another run with --run"
        )
    model = run.load_checkpoint(checkpoint)
    if {name: array.shape for name, array in model.items()} != {n: a.shape for n, a in setup.model.items()}:
        raise ConfigError(
            f"the plan is not that of the run {run.path.name}", hint="choose another run with --run"
        )
    return checkpoint.round, model


def _home(crew: Crew, setup: Setup, run: RunReader, client: str) -> Station:
    """The station whose device holds a client's data."""
    stations, excluded = crew.muster()
    if not stations:
        raise no_device(excluded)
    placing = place_clients(setup.shards, stations, run.ledger, keeps=setup.keeps)
    home = placing.device.get(client)
    if home is None:
        raise no_device([each for each in placing.excluded if client in each.clients])
    return next(station for station in stations if station.identity == home)


def _kept(setup: Setup, run: RunReader, client: str) -> str | None:
    """Where the client keeps private parameters, if it does: those that were never trained are first values."""
    private = setup.plans.train.signature.with_role(Role.PRIVATE)
    trained = private and client in run.ledger.whereabouts(accepted=True)
    return kept_path(run.path.name, client) if trained else None


def _checked(answer: NDArray[Any] | None, top: int, items: int | None, device: str) -> list[int]:
    """The numbers that a phone sent, once they are known to be a recommendation."""
    good = answer is not None and answer.dtype == np.int64 and answer.shape == (top,)
    found = [int(number) for number in answer] if good and answer is not None else []
    if not found or len(set(found)) != top or min(found) < 0 or (items and max(found) >= items):
        raise RunnerError(f"it did not answer with {top} different items", device=device, code="damaged")
    return found


def _item(number: int, titles: Sequence[str]) -> Item:
    return Item(number, (titles[number] if number < len(titles) else "") or str(number))


def _titled(wanted: str, titles: Sequence[str]) -> int:
    """The item of that title; part of the title will do where only one has it."""
    folded = [title.casefold() for title in titles]
    word = wanted.casefold().strip()
    exact = [n for n, title in enumerate(folded) if title == word]
    found = exact or [n for n, title in enumerate(folded) if word and word in title]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"nothing is called {wanted!r}{nearest(wanted, titles)}")
    some = "; ".join(titles[n] for n in found[:5])
    raise ConfigError(f"{len(found)} items are called {wanted!r}", hint=f"say more of the title: {some}")

"""What the commands ``push-plan`` and ``run-round`` do, whoever calls: from an experiment to results."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devicelab.config import Experiment
from devicelab.config.base import ROUNDS_MAX
from devicelab.errors import ConfigError
from devicelab.rounds.coordinator import Coordinator, no_device
from devicelab.rounds.crew import Crew, Desk
from devicelab.rounds.deploy import deploy
from devicelab.rounds.events import Announcer, DeviceDeployed, Exclusion, Listener, RoundResult, silent
from devicelab.rounds.placing import Placing, place_clients
from devicelab.rounds.runs import begin_run, find_resumable, resume_run
from devicelab.rounds.setup import Setup, set_up
from devicelab.rounds.station import Station
from devicelab.store.releases import PrivacySpent
from devicelab.store.runs import sweep_runs

__all__ = [
    "Considered",
    "Deployment",
    "Options",
    "RunReport",
    "check_rounds",
    "consider",
    "push_plan",
    "run_rounds",
]


@dataclass(frozen=True)
class Options:
    """How to go about it.

    Attributes:
        selectors: Which devices, besides what the experiment says.
        engine: The engine to push instead of the published one.
    """

    selectors: Sequence[str] = ()
    engine: Path | None = None


@dataclass(frozen=True)
class Considered:
    """What :func:`consider` found.

    Attributes:
        clients: Serial of each device that may work, and how many of the experiment's clients it would host.
        excluded: The others on the desk, and why not.
    """

    clients: Mapping[str, int]
    excluded: tuple[Exclusion, ...]


@dataclass(frozen=True)
class Deployment:
    """What :func:`push_plan` came to.

    Attributes:
        devices: How it went on each device that could be served.
        excluded: The others on the desk, and why not.
    """

    devices: tuple[DeviceDeployed, ...]
    excluded: tuple[Exclusion, ...]


@dataclass(frozen=True)
class RunReport:
    """What :func:`run_rounds` came to.

    Attributes:
        run: The run's id.
        directory: Its directory.
        rounds: The rounds that were done now; none where all that were asked for were done before.
        checkpoint: File of the last global model.
        total: How many rounds the run has had in all.
        privacy: How private the run's models are, all of them; None where there is no noise.
    """

    run: str
    directory: Path
    rounds: tuple[RoundResult, ...]
    checkpoint: Path
    total: int
    privacy: PrivacySpent | None = None


def consider(desk: Desk, experiment: Experiment, options: Options | None = None) -> Considered:
    """Which devices would take part, and why the others would not; nothing is sent to any of them.

    Raises:
        ConfigError, PlanError, DataError: The experiment cannot be prepared.
        NoDeviceError: The devices have no room for a client's data.
    """
    setup = set_up(experiment)
    with contextlib.closing(_crew(desk, "look", experiment, options or Options())) as crew:
        stations, excluded = crew.muster()
        placed = place_clients(setup.shards, stations, None, keeps=False).device if stations else {}
        hosts = Counter(placed.values())
        clients = {station.serial: hosts[station.identity] for station in stations}
    return Considered(clients, tuple(excluded))


def push_plan(
    desk: Desk, experiment: Experiment, options: Options | None = None, listener: Listener = silent
) -> Deployment:
    """Have an experiment's plan, runner, engine and everybody's shards on the devices that they are for.

    Args:
        desk: Where devices are found.
        experiment: Which experiment.
        options: How to go about it.
        listener: Hears what happens.

    Raises:
        ConfigError, PlanError, DataError: The experiment cannot be prepared.
        NoDeviceError: There is no device for it.
    """
    setup = set_up(experiment)
    with contextlib.closing(_crew(desk, "push-plan", experiment, options or Options())) as crew:
        stations, excluded, placing = _placed(crew, setup)
        clients: dict[str, list[str]] = {station.identity: [] for station in stations}
        for client, device in placing.device.items():
            clients[device].append(client)
        done = deploy(stations, setup, clients, lanes=desk.lanes(), tell=Announcer(listener))
    return Deployment(tuple(done), tuple(excluded))


def check_rounds(rounds: int | None) -> None:
    """See that a run can have so many rounds; None: as many as its experiment says.

    Raises:
        ConfigError: It cannot.
    """
    if rounds is not None and rounds < 1:
        raise ConfigError(f"{rounds} rounds make no run", hint="ask for one at least")
    if rounds is not None and rounds > ROUNDS_MAX:
        raise ConfigError(f"{rounds} rounds are more than a run can have, which is {ROUNDS_MAX}")


def run_rounds(
    desk: Desk,
    state: Path,
    experiment: Experiment,
    *,
    text: str | None = None,
    rounds: int | None = None,
    resume: bool = False,
    run: str | None = None,
    options: Options | None = None,
    listener: Listener = silent,
) -> RunReport:
    """Run an experiment's rounds, or go on with a run that was interrupted.

    A run is made only once there are devices for it: what is refused leaves none behind.

    Args:
        desk: Where devices are found.
        state: The state directory.
        experiment: Which experiment.
        text: The experiment's file as a person wrote it, to be kept with the run.
        rounds: How many rounds the run has in all. By default as the experiment says, and for a run to go on
            with as was asked last.
        resume: Whether to go on with a run instead of beginning one.
        run: Which run to go on with; the experiment's newest by default.
        options: How to go about it.
        listener: Hears what happens.

    Raises:
        ConfigError, PlanError, DataError: The experiment cannot be prepared, or is not the run's.
        NoDeviceError: There is no device for it.
        RoundError: A round has too few updates; it may be tried again.
        StoreError: The run cannot be written.
    """
    check_rounds(rounds)
    sweep_runs(state)
    with contextlib.closing(_crew(desk, "run-round", experiment, options or Options())) as crew:
        if resume:
            opened, setup = resume_run(find_resumable(state, experiment, run), experiment)
            rounds = rounds or opened.ledger.run().rounds
        else:
            setup = set_up(experiment)
            _placed(crew, setup)
            opened = begin_run(state, setup, text)
        with contextlib.closing(opened), contextlib.closing(crew):  # while its devices work there is a run
            coordinator = Coordinator(opened, setup, crew, lanes=desk.lanes(), tell=Announcer(listener))
            done = coordinator.advance(rounds or experiment.round.rounds)
            checkpoint = opened.ledger.checkpoint()
            assert checkpoint is not None
            return RunReport(
                opened.path.name,
                opened.path,
                tuple(done),
                opened.checkpoint_path(checkpoint),
                checkpoint.round,
                opened.ledger.spent(),
            )


def _placed(crew: Crew, setup: Setup) -> tuple[list[Station], list[Exclusion], Placing]:
    """The devices that may work, why the others may not, and who would host whom if nothing was done before.

    Raises:
        NoDeviceError: There is no device, or no room for a client's data.
    """
    stations, excluded = crew.muster()
    if not stations:
        raise no_device(excluded)
    return stations, excluded, place_clients(setup.shards, stations, None, keeps=False)


def _crew(desk: Desk, purpose: str, experiment: Experiment, options: Options) -> Crew:
    return Crew(desk, purpose, selectors=(experiment.devices, options.selectors), engine=options.engine)

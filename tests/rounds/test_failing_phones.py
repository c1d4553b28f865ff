"""Phones that die, freeze, fill up, overheat or lose their cable, in each phase of a round.

Where the same clients finish the model is the same, byte for byte; else the ledger says who is missing and why.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from devicelab.errors import RoundError
from devicelab.report.runs import history_of, run_document
from devicelab.rounds import part
from devicelab.rounds.events import DevicePhase, DeviceTrouble, Event, Phase, RoundFinished
from devicelab.rounds.health import HealthWatch
from devicelab.rounds.running import RunReport
from devicelab.runner.layout import JOBS
from devicelab.store.records import JobState
from devicelab.store.run import RunReader
from devicelab.store.runs import newest_run
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.rounds.small import experiment_file, lab_of, left_on, private_experiment_file

Act = Callable[[VirtualPhone], object]
PHASES = (Phase.PUSH, Phase.START, Phase.TRAIN, Phase.PULL, Phase.COMMIT)
PASSING: Mapping[str, tuple[Act, Act]] = {
    "battery out": (VirtualPhone.kill, VirtualPhone.start),
    "frozen": (VirtualPhone.freeze, VirtualPhone.thaw),
    "cable out": (VirtualPhone.unplug, VirtualPhone.replug),
    "rebooted": (lambda phone: phone.reboot(0.2), lambda phone: None),
}
_ROUND = """
    rounds: {rounds}
    clients: {{fraction: 1.0}}
    epochs: 2
    batch_size: 4
    hyper: {{lr: 0.1}}
    deadline: {deadline}s
    idle: {idle}s
    quorum: {quorum}
"""


@dataclass
class Misfortune:
    """A listener that does something to a phone when a phase of a round begins there."""

    phone: VirtualPhone
    act: Act
    when: tuple[int, Phase]
    undo: Act | None = None
    after: float = 0.6
    happened: bool = False
    _timer: threading.Timer | None = field(default=None, repr=False)

    def __call__(self, event: Event, /) -> None:
        if not isinstance(event, DevicePhase) or self.happened:
            return
        if (event.device, event.round, event.phase) == (self.phone.address, *self.when):
            self.happened = True
            self.act(self.phone)
            if self.undo is not None:
                self._timer = threading.Timer(self.after, self.undo, [self.phone])
                self._timer.start()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.join()


@dataclass
class World:
    """Two phones, and the models of a run in which nothing happens to them."""

    phones: list[VirtualPhone]
    home: Path
    undisturbed: list[str]

    def run(
        self,
        state: Path,
        *listeners: Callable[[Event], object],
        rounds: int = 1,
        deadline: float = 100.0,
        idle: float | None = None,
        quorum: float = 1.0,
        resume: bool = False,
    ) -> RunReport:
        settings = _ROUND.format(rounds=rounds, deadline=deadline, idle=idle or deadline, quorum=quorum)
        path = private_experiment_file(self.home, round=settings)

        def all_of_them(event: Event) -> None:
            for listener in listeners:
                listener(event)

        with lab_of(self.phones, state) as lab:
            return lab.run_round(path, resume=resume, listener=all_of_them)


@pytest.fixture(scope="module")
def world(module_desk: VirtualDesk, tmp_path_factory: pytest.TempPathFactory) -> World:
    phones = module_desk.up(["pixel", "pixel"])
    home = tmp_path_factory.mktemp("home")
    found = World(phones, home, [])
    found.undisturbed = _models(found.run(home / "state", rounds=len(PHASES)).directory)
    return found


@pytest.fixture(autouse=True)
def well_again(world: World) -> Iterator[None]:
    yield
    with lab_of(world.phones, world.home / "look") as lab:
        assert [left_on(device) for device in lab.discover()] == [[], []]


def _models(run: Path) -> list[str]:
    with RunReader(run) as reader:
        return [each.sha256 for each in reader.ledger.checkpoints()]


@pytest.mark.parametrize(("first", "second"), [("battery out", "frozen"), ("cable out", "rebooted")])
def test_what_passes_changes_nothing(world: World, tmp_path: Path, first: str, second: str) -> None:
    misfortunes = []
    for number, phase in enumerate(PHASES, 1):
        other = PHASES[number % len(PHASES)]
        for phone, kind, when in ((world.phones[0], first, phase), (world.phones[1], second, other)):
            act, undo = PASSING[kind]
            misfortunes.append(Misfortune(phone, act, (number, when), undo))
    try:
        done = world.run(tmp_path / "state", *misfortunes, rounds=len(PHASES))
    finally:
        for each in misfortunes:
            each.end()
    assert all(each.happened for each in misfortunes)
    assert _models(done.directory) == world.undisturbed
    with RunReader(done.directory) as run:
        assert not run.ledger.exclusions()
        assert not run.ledger.leftovers()


HEAT: tuple[Act, Act] = (
    lambda phone: phone.set_temperature(60.0),
    lambda phone: phone.set_temperature(25.0),
)
DISK: tuple[Act, Act] = (lambda phone: phone.fill(0), lambda phone: phone.fill(1 << 30))
DEAD = PASSING["battery out"]
LASTING: Mapping[str, tuple[Phase, tuple[Act, Act], float, JobState, str]] = {
    "full before the push": (Phase.PUSH, DISK, 100.0, JobState.FAILED, "space"),
    "full before the start": (Phase.START, DISK, 100.0, JobState.FAILED, "disk is full"),
    "hot before the push": (Phase.PUSH, HEAT, 100.0, JobState.FAILED, "too hot"),
    "hot before the start": (Phase.START, HEAT, 100.0, JobState.FAILED, "too hot"),
    "hot in training": (Phase.TRAIN, HEAT, 100.0, JobState.FAILED, "too hot"),
    "dead before the push": (Phase.PUSH, DEAD, 4.0, JobState.LATE, "cut off"),
    "dead in training": (Phase.TRAIN, DEAD, 4.0, JobState.LATE, "cut off"),
    "dead before the pull": (Phase.PULL, DEAD, 4.0, JobState.LATE, "cut off"),
}


@pytest.mark.parametrize("kind", LASTING)
def test_what_lasts_fails_the_round_and_resuming_it_gives_the_same_model(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    phase, (act, undo), deadline, state, words = LASTING[kind]
    monkeypatch.setattr(part, "HealthWatch", functools.partial(HealthWatch, every=0.0))
    phone = world.phones[0]
    misfortune = Misfortune(phone, act, (1, phase))
    with pytest.raises(RoundError, match="of 6 clients"):
        world.run(tmp_path / "state", misfortune, deadline=deadline)
    undo(phone)
    path = newest_run(tmp_path / "state")
    assert path is not None
    with RunReader(path) as run:
        (job,) = [each for each in run.ledger.jobs(1) if each.device == phone.serial]
        assert job.state is state
        assert words in job.reason
        (excluded,) = run.ledger.exclusions(1)
        assert (excluded.device, set(excluded.clients)) == (phone.serial, set(job.clients))
        assert words in excluded.reason
        assert [each.round for each in run.ledger.checkpoints()] == [0]
    done = world.run(tmp_path / "state", resume=True)
    assert done.directory == path
    assert _models(path) == world.undisturbed[:2]
    with RunReader(path) as run:
        assert not run.ledger.leftovers()
        assert len(run.ledger.updates(1, accepted=True)) == 6


@pytest.mark.parametrize(
    ("trouble", "phase"),
    [
        ("full", Phase.TRAIN),
        ("full", Phase.PULL),
        ("full", Phase.COMMIT),
        ("hot", Phase.PULL),
        ("hot", Phase.COMMIT),
    ],
)
def test_what_may_come_too_late_to_matter_costs_no_update(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, phase: Phase
) -> None:
    """Whether a job is done before its disk is full is up to chance: if so nothing happens, else it is said."""
    monkeypatch.setattr(part, "HealthWatch", functools.partial(HealthWatch, every=0.0))
    (act, undo), phone = (DISK if trouble == "full" else HEAT), world.phones[0]
    misfortune = Misfortune(phone, act, (1, phase))
    try:
        world.run(tmp_path / "state", misfortune)
    except RoundError:
        assert phase is Phase.TRAIN
        path = newest_run(tmp_path / "state")
        assert path is not None
        with RunReader(path) as run:
            (job,) = [each for each in run.ledger.jobs(1) if each.device == phone.serial]
            assert (job.state, bool(job.reason)) == (JobState.FAILED, True)
            assert [set(each.clients) for each in run.ledger.exclusions(1)] == [set(job.clients)]
    finally:
        undo(phone)
    assert misfortune.happened
    done = world.run(tmp_path / "state", resume=True)
    assert _models(done.directory) == world.undisturbed[:2]
    with RunReader(done.directory) as run:
        assert not run.ledger.leftovers()
        assert len(run.ledger.updates(1, accepted=True)) == 6


def test_a_round_goes_on_without_a_late_phone_which_is_tidied_when_it_is_back(
    world: World, tmp_path: Path
) -> None:
    phone = world.phones[0]
    misfortune = Misfortune(phone, VirtualPhone.unplug, (1, Phase.TRAIN))
    told = list[str]()

    def back(event: Event) -> None:
        if isinstance(event, DeviceTrouble):
            told.append(event.reason)
        if isinstance(event, RoundFinished) and event.result.round == 1:
            phone.replug()

    done = world.run(tmp_path / "state", misfortune, back, rounds=2, deadline=4.0, quorum=0.1)
    (away,) = told
    assert away.startswith("is away: ")
    assert "; what it has trained counts if it is back before its deadline, " in away
    first, second = done.rounds
    assert (first.devices, second.devices) == (1, 2)
    assert [each.device for each in first.excluded] == [phone.address]
    assert not second.excluded
    with RunReader(done.directory) as run:
        counted = {each.client for each in run.ledger.updates(1, accepted=True)}
        missing = {client for each in run.ledger.exclusions(1) for client in each.clients}
        assert counted | missing == {f"p{n}" for n in range(6)}
        (job,) = (each for each in run.ledger.jobs(1) if each.device == phone.serial)
        assert (job.state, "; away since " in job.reason) == (JobState.LATE, True)
    (listed,) = run_document(history_of(done.directory), done.directory)["rounds"][0]["excluded"]
    assert set(listed["clients"]) == missing
    with RunReader(done.directory) as run:
        assert not counted & missing
        late = {each.client for each in run.ledger.updates(1, accepted=False)}
        assert late == missing
        assert len(run.ledger.updates(2, accepted=True)) == 6
        assert not run.ledger.leftovers()


def test_clients_whose_phone_is_away_wait_for_it(world: World, tmp_path: Path) -> None:
    phone = world.phones[0]
    kept = {}

    def watch(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.result.round == 1:
            phone.unplug()
            time.sleep(0.5)  # until everybody has noticed
        if isinstance(event, RoundFinished) and event.result.round == 2:
            phone.replug()
            kept.update({each.device: each for each in event.result.excluded if each.clients})

    done = world.run(tmp_path / "state", watch, rounds=3, quorum=0.1)
    assert [each.devices for each in done.rounds] == [2, 1, 2]
    with RunReader(done.directory) as run:
        home = {each.client: each.device for each in run.ledger.cohort(1)}
        assert {each.client: each.device for each in run.ledger.cohort(3)} == home
        away = {client for client, device in home.items() if device == phone.serial}
        assert {each.client for each in run.ledger.cohort(2)} == set(home) - away
    assert set(kept[phone.address].clients) == away
    assert "keep" in kept[phone.address].reason


def test_a_frozen_phone_is_given_up_after_idle_and_not_at_its_deadline(world: World, tmp_path: Path) -> None:
    phone = world.phones[0]
    misfortune = Misfortune(phone, VirtualPhone.freeze, (1, Phase.TRAIN))

    def back(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.result.round == 1:
            phone.thaw()

    done = world.run(tmp_path / "state", misfortune, back, rounds=2, deadline=100.0, idle=2.0, quorum=0.1)
    assert [each.devices for each in done.rounds] == [1, 2]
    with RunReader(done.directory) as run:
        (job,) = (each for each in run.ledger.jobs(1) if each.device == phone.serial)
        assert (job.state, "no answer since" in job.reason) == (JobState.FAILED, True)
        assert not run.ledger.leftovers()


@pytest.mark.parametrize(
    ("kind", "deadline", "end", "words"),
    [("cable out", 6, JobState.LATE, "away since "), ("frozen", 100, JobState.FAILED, "no answer since ")],
)
def test_an_evaluation_goes_on_after_idle_without_a_phone_that_was_given_up_in_training(
    world: World, tmp_path: Path, kind: str, *, deadline: int, end: JobState, words: str
) -> None:
    settings = f"""
        rounds: 1
        clients: {{fraction: 1.0}}
        hyper: {{lr: 0.1}}
        deadline: {deadline}s
        idle: 2s
        quorum: 0.1
    """
    data = "source: digits\npartition: {by: iid, clients: 6}\nheld_out: {fraction: 0.2}\ntest: 0.8"
    path = experiment_file(tmp_path, round=settings, data=data, evaluation="every: 1")
    (act, undo), phone = PASSING[kind], world.phones[0]
    try:
        with lab_of(world.phones, tmp_path / "state") as lab:
            done = lab.run_round(path, listener=Misfortune(phone, act, (1, Phase.TRAIN)))
    finally:
        undo(phone)
    with RunReader(done.directory) as run:
        ends = {each.verb: each for each in run.ledger.jobs(1) if each.device == phone.serial}
        assert (ends["train"].state, words in ends["train"].reason) == (end, True)
        assert (ends["evaluate"].state, words in ends["evaluate"].reason) == (JobState.FAILED, True)
        assert "devices" in {each.place for each in run.ledger.evaluations() if each.round == 1}
    with lab_of(world.phones, tmp_path / "look") as lab:
        for device in lab.discover():
            device.remove(*(f"{JOBS}/{each.name}" for each in device.listing(JOBS)), recursive=True)

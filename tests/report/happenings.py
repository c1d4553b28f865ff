"""Events of runs that never were, as rounds would announce them."""

from __future__ import annotations

from collections.abc import Iterator

from devicelab.rounds.events import (
    CohortChosen,
    DeviceHealth,
    DevicePhase,
    DeviceProgress,
    DeviceUpdate,
    Evaluated,
    Event,
    Exclusion,
    Phase,
    RoundFinished,
    RoundResult,
    RoundStarted,
    RunFinished,
    RunStarted,
)

HOT = Exclusion("hot", "battery at 47.2 °C, the limit is 45 °C; let it cool down")


def a_round(number: int, devices: int, clients: int = 12) -> Iterator[Event]:
    """One round in which every device does what it should, and one is too hot for it."""
    names = [f"phone-{index}" for index in range(1, devices + 1)]
    cohort = {name: tuple(f"{name}-{client}" for client in range(clients)) for name in names}
    yield RoundStarted(number)
    yield CohortChosen(number, cohort, (HOT,))
    for name in names:
        yield DeviceHealth(number, name, 81.0, 31.5, "none")
        for phase in (Phase.PUSH, Phase.START, Phase.TRAIN):
            yield DevicePhase(number, name, phase)
        yield DeviceProgress(number, name, f"{name}-3", 3, clients, 20, 40, 0.5, 4000, 2.0)
    for name in names:
        yield from (DevicePhase(number, name, phase) for phase in (Phase.PULL, Phase.CHECK))
        times = {"push": 0.2, "start": 0.1, "train": 3.0, "pull": 0.1}
        yield DeviceUpdate(number, name, clients, 345, 0.5, 0.4, 1_234_567, 215_000, times)
        yield from (DevicePhase(number, name, phase) for phase in (Phase.COMMIT, Phase.DONE))
    yield Evaluated(number, "devices", {"accuracy": 0.91}, 500)
    metrics = {"accuracy": 0.8, "eval/accuracy": 0.91}
    total = devices * clients
    sent, received = devices * 1_234_567, devices * 215_000
    yield RoundFinished(
        RoundResult(number, devices, total, 345 * devices, 0.5, 0.4, metrics, 4.0, sent, received, (HOT,))
    )


def a_run(rounds: int, devices: int) -> Iterator[Event]:
    """A whole run of such rounds."""
    yield RunStarted("r-1", "digits", 1, rounds, resumed=False)
    for number in range(1, rounds + 1):
        yield from a_round(number, devices)
    yield RunFinished("r-1", "/runs/r-1/model.safetensors")

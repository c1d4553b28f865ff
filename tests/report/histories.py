"""Runs that never were, large and small, good and bad."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from devicelab.report.history import Missing, Part, Reading, RoundHistory, RunHistory

START = datetime(2026, 7, 22, 10, 35, 47, tzinfo=UTC)
_ENDS = ("failed", "rejected", "late")
_REASONS = {
    "failed": "the cable was pulled and it did not come back within 30 s",
    "rejected": "tensor encoder.weight: 3 values are not finite",
    "late": "no end within 60 s, cut off at step 31 of 40",
    "excluded": "battery at 47.2 °C, the limit is 45 °C; let it cool down",
}


def make_part(number: int, device: str, chance: random.Random, speed: float, state: str = "done") -> Part:
    done = state == "done"
    seconds = {
        "push": (2.5 if number == 1 else 0.1) * speed,
        "start": 0.12 * speed,
        "train": 2.0 * speed * chance.uniform(0.9, 1.1),
        "pull": 0.08 * speed,
        "check": 0.02,
        "commit": 0.03,
    }
    return Part(
        device=device,
        state=state,
        clients=12,
        examples=1200 if done else 0,
        loss_before=2.0 / number if done else None,
        loss_after=1.8 / number if done else None,
        bytes_sent=28_000_000 if number == 1 else 221_312,
        bytes_received=215_312 if done else 0,
        seconds=seconds if done else {"push": 0.1, "start": 0.1, "train": 1.1},
    )


def make_round(number: int, devices: list[str], chance: random.Random) -> RoundHistory:
    parts, missing = [], []
    for index, device in enumerate(devices):
        dice = chance.random()
        if dice < 0.04:
            missing.append(Missing(device, "excluded", _REASONS["excluded"]))
            continue
        state = "done" if dice > 0.1 else chance.choice(_ENDS)
        parts.append(make_part(number, device, chance, 1 + index % 4 * 0.4, state))
        if state != "done":
            missing.append(Missing(device, state, _REASONS[state]))
    done = [part for part in parts if part.state == "done"]
    seconds = max((sum(part.seconds.values()) for part in parts), default=0.1) + 0.15
    accuracy = 0.95 - 0.8 / (number + 1)
    return RoundHistory(
        number=number,
        state="done",
        reason="",
        started=START + timedelta(seconds=3 * number),
        seconds=seconds,
        host_seconds={"aggregate": 0.12},
        devices=len(done),
        clients=12 * len(done),
        examples=1200 * len(done),
        loss_before=2.0 / number**0.5 + chance.uniform(-0.03, 0.03),
        loss_after=1.8 / number**0.5 + chance.uniform(-0.03, 0.03),
        metrics={
            "accuracy": accuracy + 0.03,
            "eval/accuracy": accuracy + chance.uniform(-0.01, 0.01),
            "test/accuracy": accuracy - 0.02,
            "eval/ndcg@10": accuracy / 2,
        },
        bytes_sent=sum(part.bytes_sent for part in parts),
        bytes_received=sum(part.bytes_received for part in parts),
        parts=tuple(parts),
        missing=tuple(missing),
    )


def make_readings(devices: list[str], seconds: float, chance: random.Random) -> list[Reading]:
    readings = []
    for index, device in enumerate(devices):
        at, celsius = 0.0, 26.0 + index % 5 * 4
        while at <= seconds:
            celsius += chance.uniform(-0.5, 0.6)
            percent = 90 - index % 7 - at / 60
            status = "light" if celsius > 42 else "none"
            readings.append(Reading(device, at, percent, None if index == 3 else celsius, status))
            at += 5.0
    return sorted(readings, key=lambda reading: reading.seconds)


def make_run(rounds: int, phones: int, seed: int = 1) -> RunHistory:
    chance = random.Random(seed)
    devices = [f"emulator-{5554 + 2 * i}" if i % 3 else f"192.168.178.{20 + i}:5555" for i in range(phones)]
    each = [make_round(number, devices, chance) for number in range(1, rounds + 1)]
    seconds = 3.0 * (rounds + 1)
    return RunHistory(
        run="20260722-103547-ab12cd",
        experiment="movielens",
        state="done",
        reason="",
        started=START,
        ended=START + timedelta(seconds=seconds),
        wanted=rounds,
        models={device: ("Pixel 9", "Nexus 5", "SM-A525F")[i % 3] for i, device in enumerate(devices)},
        initial={"eval/accuracy": 0.11, "test/accuracy": 0.1},
        rounds=tuple(each),
        readings=tuple(make_readings(devices, seconds, chance)),
        seed=20260722,
        plan_sha256="6f1ed002ab5595859014ebf0951522d9e1c2d0910bd5c8f8b1d2a4a3c8a1e7b2",
        files={"train.onnx": "6f1ed002ab5595859014ebf0951522d9e1c2d0910bd5c8f8b1d2a4a3c8a1e7b2"},
        versions={"devicelab": "0.1.0", "onnxruntime": "1.31.1", "python": "3.11.7 on Linux x86_64"},
        checkpoint=f"checkpoints/round-{rounds:04}.safetensors",
        checkpoint_sha256="0" * 64,
        config="name: movielens\nplan: devicelab.plans.zoo:movielens\nround:\n  clients: 0.1\n  rounds: 20\n",
    )

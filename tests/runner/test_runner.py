"""The runner itself on virtual phones: what it computes is what PyTorch computes, however it is run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from devicelab.adb.direct import DirectTransport
from devicelab.devices.device import Device
from devicelab.devices.discovery import Discovery
from devicelab.devices.leases import Leases
from devicelab.devices.quarantine import Quarantine
from devicelab.errors import DevicelabError, RunnerError
from devicelab.plans.check import CHANGE_TOLERANCE
from devicelab.plans.optimizers import SGD, Adam
from devicelab.plans.zoo import ZOO
from devicelab.runner.cache import DeviceCache
from devicelab.runner.installation import Installation, install
from devicelab.runner.job import Job
from devicelab.runner.layout import ROOT
from devicelab.runner.messages import Hello, TrainResult
from devicelab.runner.packs import find_pack
from devicelab.runner.session import JobSession, Patience
from devicelab.runner.targets import find_target
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from devicelab.virtual.packages import host_arch
from devicelab.virtual.probe import arm64_problem
from tests.runner.work import Work

PATIENCE = Patience(total=170, idle=120, away=60)
LIMIT = 64 << 20


class Place:
    """A phone with the real runner on it."""

    def __init__(self, device: Device, phone: VirtualPhone, directory: Path) -> None:
        self.device = device
        self.phone = phone
        self.cache = DeviceCache(device)
        self.pack = find_pack(find_target(device))
        self.installation: Installation = install(device, self.cache, self.pack)
        self._directory = directory
        self.started = time.monotonic()

    def session(self, work: Work, job: Job) -> JobSession:
        self.cache.ensure(work.blobs)
        session = JobSession(self.device, job, self.installation, uses=[blob.sha256 for blob in work.blobs])
        session.prepare()
        return session

    def trained(self, work: Work, job: Job, *, attached: bool = False) -> tuple[TrainResult, Mapping[str, Any]]:
        """A job's result and update."""
        session = self.session(work, job)
        if attached:
            result = session.run(patience=PATIENCE)
        else:
            session.start()
            result = session.follow(patience=PATIENCE)
        assert isinstance(result, TrainResult)
        local = self._directory / f"{job.job}.safetensors"
        session.collect(result, local, max_bytes=LIMIT)
        return result, load_file(local)


@contextmanager
def placed(desk: VirtualDesk, profile: str, directory: Path, body: Any = None) -> Iterator[Place]:
    phone = desk.up([profile], body=body)[0]
    transport = DirectTransport(keys_dir=directory / "keys", scan_emulators=False, usb=False)
    with Leases(directory / "leases") as leases:
        [device] = Discovery(transport, leases, Quarantine(directory), patience=30).look([phone.address])
        with device:
            yield Place(device, phone, directory)
    transport.close()


@pytest.fixture(scope="module")
def place(module_desk: VirtualDesk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with placed(module_desk, "pixel", tmp_path_factory.mktemp("place")) as place:
        yield place


def assert_agrees(work: Work, job: Job, result: TrainResult, update: Mapping[str, Any]) -> None:
    """Hold a result against PyTorch's, but for what rounding alone does to PyTorch's own."""
    expected = work.reference(job)
    exact = work.reference(replace(job, evaluation=None), dtype=torch.float64).update
    assert set(update) == set(expected.update)
    for name, right in expected.update.items():
        rounding = float(np.max(np.abs(right - exact[name])))
        allowed = CHANGE_TOLERANCE * float(np.max(np.abs(right))) + 2.0**-22 + 25 * rounding
        np.testing.assert_allclose(update[name], right, rtol=0, atol=allowed, err_msg=name)
    for found, truth in zip(result.clients, expected.clients, strict=True):
        assert (found.client, found.examples, found.weight) == (truth.client, truth.examples, truth.weight)
        assert found.steps == len(truth.losses)
        assert found.loss_first == pytest.approx(truth.losses[0], rel=1e-4, abs=1e-5)
        assert found.loss_last == pytest.approx(truth.losses[-1], rel=1e-3, abs=1e-4)
        assert found.norm == pytest.approx(truth.norm, rel=1e-3)
        for name, (total, count) in truth.metrics.items():
            assert found.metrics[name].count == count
            assert found.metrics[name].sum == pytest.approx(total, rel=1e-3, abs=1.01)


@pytest.mark.parametrize("model", ZOO)
def test_every_zoo_model_trains_as_in_pytorch(place: Place, model: str) -> None:
    work = Work(model)
    for way in ("detached", "attached"):
        job = work.job(f"zoo-{model}-{way}", epochs=1)
        result, update = place.trained(work, job, attached=way == "attached")
        assert_agrees(work, job, result, update)


def test_attached_gives_the_same_bytes(place: Place) -> None:
    work = Work("mlp", optimizer=SGD(lr=0.05, momentum=0.9))
    changes: dict[str, Any] = {"combine": "sum", "clip_norm": 0.05, "evaluation": work.evaluation_path}
    detached, attached = work.job("detached", **changes), work.job("attached", **changes)
    result, update = place.trained(work, detached)
    assert_agrees(work, detached, result, update)
    again, same = place.trained(work, attached, attached=True)
    assert again.update.sha256 == result.update.sha256
    assert set(same) == set(update)
    expected = work.reference(detached)
    for found, truth in zip(result.clients, expected.clients, strict=True):
        assert found.clipped
        assert found.loss_before == pytest.approx(truth.loss_before, rel=1e-4)
        assert found.loss_after == pytest.approx(truth.loss_after, rel=1e-3)


def test_a_job_outlives_the_cable_and_adbd_and_is_replayed(place: Place) -> None:
    work = Work("mlp", sizes=(400, 400))
    job = work.job("unplugged", epochs=None, steps=30_000, combine="sum", hyper={"lr": 1e-4})
    session = place.session(work, job)
    time.sleep(max(0.0, place.started + 3 - time.monotonic()))  # an adbd that dies at once is not started again
    adbd = place.device.shell("pidof", "adbd").text
    assert session.start() == "started"
    heard: list[Any] = []

    def listen(message: Any) -> None:
        heard.append(message)
        if len(heard) == 2:
            place.phone.unplug()
            place.phone.replug()
        if len(heard) == 3:
            with contextlib.suppress(DevicelabError):  # who kills adbd gets no answer
                place.device.shell("sh", "-c", "kill -9 $(pidof adbd)", seconds=5)

    result = session.follow(patience=PATIENCE, on_message=listen)
    assert isinstance(heard[0], Hello)
    assert (heard[0].engine, heard[0].protocol) == (place.pack.version, 1)
    assert len(heard) > 3
    assert place.device.shell("pidof", "adbd").text != adbd
    again = JobSession(place.device, job, place.installation, uses=[])
    assert again.start() == "started"
    assert again.follow(patience=PATIENCE) == result


def test_private_values_stay_on_the_phone(place: Place, tmp_path: Path) -> None:
    work = Work("mf", optimizer=Adam(lr=0.01))
    job = work.job("private-1", state="keep", combine="sum")
    session = place.session(work, job)
    session.start()
    result = session.follow(patience=PATIENCE)
    assert isinstance(result, TrainResult)
    session.collect(result, tmp_path / "update", max_bytes=LIMIT)
    pulled = (tmp_path / "update").read_bytes() + place.device.read(
        f"{session.directory}/result.json", max_bytes=LIMIT
    )
    pulled += place.device.read(f"{session.directory}/log", max_bytes=LIMIT)
    expected = work.reference(job)
    listed = [entry.name for entry in place.device.listing(f"{ROOT}/private/mf")]
    assert listed == []  # nothing before the commit
    session.commit()
    session.commit()
    kept = {}
    for client in expected.clients:
        place.device.pull(f"{ROOT}/private/mf/{client.client}.safetensors", tmp_path / "kept")
        found = load_file(tmp_path / "kept")
        kept[client.client] = found
        assert set(found) == set(client.kept)
        for name, values in client.kept.items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-4, err_msg=name)
            content = np.ascontiguousarray(found[name]).tobytes()
            for start in range(0, len(content) - 16, 16):
                piece = content[start : start + 16]
                assert piece == piece[:4] * 4 or piece not in pulled, name
    second = work.job("private-2", state="keep", combine="sum")
    result, update = place.trained(work, second)
    truth = work.reference(second, kept)
    for name, right in truth.update.items():
        scale = float(np.abs(right).max())
        np.testing.assert_allclose(update[name], right, rtol=0, atol=2e-3 * scale, err_msg=name)


def test_what_the_runner_refuses_has_its_words(place: Place) -> None:
    work = Work("mlp")
    session = place.session(work, work.job("refused", hyper={"nonsense": 1.0}))
    with pytest.raises(RunnerError, match='no hyper input "nonsense"') as caught:
        session.run(patience=PATIENCE)
    assert caught.value.code == "job"
    session.remove()
    exploding = place.session(work, work.job("exploding", hyper={"lr": 1e30}, epochs=5))
    with pytest.raises(RunnerError) as caught:
        exploding.run(patience=PATIENCE)
    assert (caught.value.code, caught.value.client) == ("not-finite", "c0")


def test_a_stopped_job_can_be_started_again(place: Place) -> None:
    work = Work("mlp")
    job = work.job("stopped", epochs=None, steps=10_000_000)
    session = place.session(work, job)
    session.start()
    while not session.look().log.count(b"progress"):
        pass
    session.stop()
    with pytest.raises(RunnerError) as caught:
        session.follow(patience=PATIENCE)
    assert caught.value.code == "stopped"
    assert session.start() == "started"
    session.remove()


@pytest.mark.parametrize(("profile", "body"), [("phone-2014", None), ("pixel", "proot"), ("pixel", "python")])
def test_every_kind_of_phone_trains(desk: VirtualDesk, tmp_path: Path, profile: str, body: Any) -> None:
    work = Work("mf")
    with placed(desk, profile, tmp_path, body) as place:
        job = work.job("x", combine="sum")
        result, update = place.trained(work, job)
        assert_agrees(work, job, result, update)
        attached = work.job("y", combine="sum")
        assert place.trained(work, attached, attached=True)[0].update == result.update


def test_an_arm64_phone_trains(desk: VirtualDesk, tmp_path: Path) -> None:
    if host_arch() != "arm64" and (problem := arm64_problem()) is not None:
        assert problem  # this kernel runs no arm64 phone; tests/virtual/test_arm64.py sees to how that is said
        return
    work = Work("mlp")
    with placed(desk, "phone-arm64", tmp_path) as place:
        assert place.pack.target.name == "linux-aarch64"
        job = work.job("x", combine="sum", epochs=1)
        result, update = place.trained(work, job)
        assert_agrees(work, job, result, update)

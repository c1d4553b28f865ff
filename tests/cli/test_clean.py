"""``devicelab clean`` from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devicelab.lab import Lab
from devicelab.runner.cache import Blob, DeviceCache
from devicelab.runner.layout import JOBS, PRIVATE, ROOT
from devicelab.store.runs import list_runs
from devicelab.virtual.desk import VirtualDesk
from tests.cli.command import devicelab, document
from tests.report.ledgers import begin_round, begin_run, finish_run, plan_job


@pytest.fixture
def state(own_home: Path) -> Path:
    return own_home / "state"


def names(state: Path) -> list[str]:
    return [each.id for each in list_runs(state)]


class TestOnThisHost:
    def test_nothing_said_is_nothing_done(self, state: Path) -> None:
        finish_run(state)
        told = document("clean", "--yes", code=2)["error"]
        assert told["message"] == "it is not said what to clean"
        assert "--phones" in told["hint"]
        assert "--runs" in told["hint"]
        assert "--phones" in devicelab("clean", "--private", "--runs", "--yes", code=2).stderr
        assert len(names(state)) == 1

    def test_where_no_phone_is_none_can_be_cleaned(self, state: Path) -> None:
        done = devicelab("clean", "--phones", "--transport", "direct", "--dry-run", code=3)
        assert "no phone to clean" in done.stderr

    def test_nobody_to_ask(self, state: Path) -> None:
        finish_run(state)
        for extra in ((), ("--json",)):
            assert "--yes" in devicelab("clean", "--runs", "--keep", "0", *extra, code=2).stderr
        assert len(names(state)) == 1

    def test_old_runs_go_and_the_newest_stay(self, state: Path) -> None:
        paths = [finish_run(state, rounds=1, age=100 * age) for age in (3, 2, 1)]
        words = ("clean", "--runs", "--keep", "2")
        looked = document(*words, "--dry-run")
        assert (looked["removed"], [each["run"] for each in looked["runs"]]) == (False, [paths[0].name])
        assert looked["host_bytes"] == looked["runs"][0]["bytes"] > 0
        assert len(names(state)) == 3
        assert document(*words, "--yes") == {**looked, "removed": True}
        assert names(state) == [path.name for path in paths[1:]]
        assert document(*words, "--yes")["removed"] is False
        assert "nothing to remove" in devicelab(*words, "--yes").stdout

    def test_a_run_that_could_go_on_does_not_go_unnoticed(self, state: Path) -> None:
        stopped, done = finish_run(state, rounds=1, age=60), finish_run(state)
        words = ("clean", "--runs", "--keep", "0")
        looked = document(*words, "--dry-run")["runs"]
        assert [(each["run"], each["state"]) for each in looked] == [
            (stopped.name, "stopped"), (done.name, "done")
        ]  # fmt: skip
        lines = devicelab(*words, "--dry-run").stdout.splitlines()
        assert [line.split()[:2] for line in lines[:3]] == [
            ["RUN", "STATE"], [stopped.name, "stopped"], [done.name, "done"]
        ]  # fmt: skip
        assert lines[3] == "1 run that run-round --resume can go on with: see STATE"
        assert "1 run that run-round --resume could have gone on with" in devicelab(*words, "--yes").stdout

    def test_only_finished_runs_need_no_warning(self, state: Path) -> None:
        finish_run(state)
        assert "--resume" not in devicelab("clean", "--runs", "--keep", "0", "--yes").stdout

    def test_a_run_that_somebody_writes_stays(self, state: Path) -> None:
        with begin_run(state) as run:
            assert document("clean", "--runs", "--keep", "0", "--yes")["runs"] == []
            assert names(state) == [run.path.name]

    @pytest.mark.parametrize(("answer", "left"), [("n", 1), ("y", 0)])
    def test_it_asks_at_a_terminal(self, state: Path, answer: str, left: int) -> None:
        path = finish_run(state, rounds=1)
        person, terminal = os.openpty()
        try:
            os.write(person, f"{answer}\n".encode())
            done = subprocess.run(
                [sys.executable, "-m", "devicelab", "clean", "--runs", "--keep", "0"],
                stdin=terminal,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            os.close(person)
            os.close(terminal)
        assert done.returncode == 0, done.stderr
        assert path.name in done.stderr.split("Remove this?")[0]
        assert ("freed" in done.stdout) == (answer == "y")
        assert len(names(state)) == left


@pytest.mark.usefixtures("image")
class TestOnPhones:
    @pytest.fixture
    def serial(self, own_home: Path) -> Iterator[str]:
        """A phone with two jobs, something that nobody uses, and a client's private values."""
        [phone] = document("virtual", "up")["phones"]
        with Lab(transport="direct") as lab:
            [device] = lab.discover()
            DeviceCache(device).ensure([Blob.of(b"n" * 5000), Blob.of(b"used")])
            for job in ("r1-good", "spent"):
                device.push(b"{}", f"{JOBS}/{job}/job.json")
            device.push(f"{Blob.of(b'used').sha256}\n".encode(), f"{JOBS}/r1-good/uses")
            device.push(b"own", f"{PRIVATE}/plan/17.safetensors")
        yield phone["address"]
        devicelab("virtual", "down")

    def left(self) -> set[str]:
        """What is in devicelab's directory on the phone, two levels deep."""
        with Lab(transport="direct") as lab:
            [device] = lab.discover()
            return {
                f"{above.name}/{entry.name}"
                for above in device.listing(ROOT)
                for entry in device.listing(f"{ROOT}/{above.name}")
            }

    def test_what_a_run_needs_stays_until_the_run_goes(self, serial: str, state: Path) -> None:
        with begin_run(state) as run:
            begin_round(run, 1, ["good"])
            plan_job(run, 1, "good")
        words = ("clean", "--phones", "--transport", "direct")
        [looked] = document(*words, "--dry-run")["phones"]
        assert (looked["device"], looked["jobs"], looked["problem"]) == (serial, ["spent"], "")
        assert (looked["cache_files"], looked["cache_bytes"], looked["private"]) == (1, 5000, 1)
        [stays] = looked["kept"]
        assert stays["job"] == "r1-good"
        assert run.path.name in stays["reason"]
        assert len(self.left()) == 5, "nothing has happened yet"

        [done] = document(*words, "--yes")["phones"]
        assert done == looked
        used = Blob.of(b"used").sha256
        assert self.left() == {"jobs/r1-good", f"cache/{used}", "private/plan"}

        said = devicelab(*words, "--runs", "--keep", "0", "--private", "--yes").stdout
        assert "freed" in said
        assert names(state) == []
        assert self.left() == set()

    def test_a_phone_that_is_silent_is_a_problem_of_its_own(self, serial: str, state: Path) -> None:
        [phone] = VirtualDesk(state).list()
        devicelab("virtual", "fault", phone.name, "freeze")
        done = document("clean", "--phones", "--transport", "direct", "--yes", code=4)
        [told] = done["phones"]
        assert told["problem"]
        devicelab("virtual", "fault", phone.name, "thaw")
        assert len(self.left()) == 5

    def test_a_phone_at_work_is_left_alone(self, serial: str) -> None:
        with Lab(transport="direct") as lab:
            [device] = lab.discover()
            with lab.lease(device, "training"):
                [told] = document("clean", "--phones", "--transport", "direct", "--yes", code=4)["phones"]
        assert "training" in told["problem"]
        assert len(self.left()) == 5

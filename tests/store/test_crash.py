"""SIGKILL at random moments: what was promised is there, nothing counts twice, nothing is left over."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devicelab.store.records import JobState, RoundState
from devicelab.store.run import Run, RunReader
from tests.store.making import files_of, make_run

ROUNDS, KILLS = 120, 30
CHILD = Path(__file__).with_name("crashing.py")


class Crasher:
    """Children that go on with a run, from one process that has imported everything already."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._told, self._heard = process.stdin, process.stdout

    def start(self, run: Path, rounds: int, acknowledged: Path) -> int:
        print(run, rounds, acknowledged, file=self._told, flush=True)
        return int(self._heard.readline())

    def end(self) -> int:
        print("end", file=self._told, flush=True)
        return int(self._heard.readline())


@pytest.fixture
def crasher() -> Iterator[Crasher]:
    command = [sys.executable, str(CHILD)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        yield Crasher(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: a killed process loses nothing there, and syncing takes no
    time."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


def promised(acknowledged: Path) -> list[list[str]]:
    return [line.split() for line in acknowledged.read_text().splitlines()] if acknowledged.exists() else []


def look(path: Path, acknowledged: Path) -> int:
    """What must hold at any moment; how many checkpoints there are."""
    with RunReader(path) as reader:
        assert reader.verify() == []
        ledger = reader.ledger
        counted = [(update.round, update.client) for update in ledger.updates(accepted=True)]
        assert len(counted) == len(set(counted))
        blobs = {update.job: update.blob for update in ledger.updates(accepted=True)}
        checkpoints = {str(each.round): each.sha256 for each in ledger.checkpoints()}
        for kind, name, sha256 in promised(acknowledged):
            assert (blobs if kind == "update" else checkpoints)[name] == sha256
        for job in ledger.jobs():
            brought = job.state in (JobState.COLLECTED, JobState.COMMITTED, JobState.REMOVED)
            assert brought == (job.id in blobs)
        for done in ledger.rounds():
            assert (done.state is RoundState.CHECKPOINTED) == (str(done.number) in checkpoints)
        return len(checkpoints)


def test_whatever_the_moment_of_death_the_run_goes_on_to_the_same_model(
    fast_path: Path, crasher: Crasher
) -> None:
    chance = random.Random(20_26)
    run, plain, acknowledged, other_acknowledged = (
        fast_path / name for name in ("killed", "plain", "acknowledged", "other")
    )
    make_run(run).close()
    make_run(plain).close()
    killed = died_within_a_round = 0
    for _ in range(KILLS):
        pid = crasher.start(run, ROUNDS, acknowledged)
        time.sleep(chance.uniform(0.0, 0.06))
        os.kill(pid, signal.SIGKILL)
        code = crasher.end()
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        look(run, acknowledged)
        with Run(run) as writer:
            point = writer.resume_point()
            died_within_a_round += point.round is not None
            known = writer.ledger.blobs()
            assert {path.name for path in run.glob("blobs/*/*")} == known
            assert {name for name in files_of(run) if not name.startswith(("blobs/", "checkpoints/"))} == {
                "experiment.yaml",
                "plan/plan.onnx",
            }
    assert killed > KILLS // 3  # on a fast machine all rounds are done sooner
    assert died_within_a_round > 0
    crasher.start(run, ROUNDS, acknowledged)
    assert crasher.end() == 0
    crasher.start(plain, ROUNDS, other_acknowledged)
    assert crasher.end() == 0
    assert look(run, acknowledged) == look(plain, other_acknowledged) == ROUNDS + 1
    with RunReader(run) as one, RunReader(plain) as other:
        found = [[(each.sha256, each.server_state) for each in r.ledger.checkpoints()] for r in (one, other)]
        assert found[0] == found[1]
        assert len(one.ledger.updates()) == len(other.ledger.updates()) == ROUNDS * 6
    assert files_of(run) == files_of(plain)


def test_a_reader_sees_a_sound_run_at_every_moment_of_its_writing(fast_path: Path, crasher: Crasher) -> None:
    run, acknowledged = fast_path / "run", fast_path / "acknowledged"
    make_run(run).close()
    crasher.start(run, 12, acknowledged)
    seen: set[int] = set()
    while len(seen) < 3 or max(seen) < 13:
        with RunReader(run) as reader, reader.ledger.snapshot():
            checkpoints = len(reader.ledger.checkpoints())
            accepted = reader.ledger.updates(accepted=True)
            seen.add(checkpoints)
            assert len(accepted) % 2 == 0
            assert len(accepted) >= max(checkpoints - 1, 0) * 6
            for update in accepted:
                assert update.blob is not None
                assert reader.blobs.path(update.blob).exists()
    assert crasher.end() == 0

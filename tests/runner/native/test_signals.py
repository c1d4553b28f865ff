"""The heartbeat, being stopped, being killed, and nobody listening."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from devicelab.runner.messages import Hello, Progress, TrainResult
from devicelab.runner.parsing import parse_message
from tests.runner.native.bench import SECONDS, Bench, Exported, Outcome, outcome
from tests.runner.native.graphs import LOOP_INPUT, long_loop
from tests.runner.native.plans import Line, shard

Export = Callable[..., Exported]
ENDLESS = 1 << 40


class Running:
    """A runner at work, line by line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdout is not None
        self._stdout = process.stdout
        assert isinstance(self.next(), Hello)

    def next(self) -> object:
        return parse_message(self._stdout.readline())

    def progress(self) -> Progress:
        message = self.next()
        assert isinstance(message, Progress), message
        return message

    def stop(self, number: signal.Signals = signal.SIGTERM) -> Outcome:
        self.process.send_signal(number)
        out, errors = self.process.communicate(timeout=SECONDS)
        return outcome(self.process.returncode, out, errors)


@contextlib.contextmanager
def running(bench: Bench, job: dict[str, Any], **options: Any) -> Iterator[Running]:
    bench.ask(job)
    with bench.start(job["verb"], **options) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


@pytest.fixture
def endless(exported: Export, bench: Bench) -> dict[str, Any]:
    """A training job without an end."""
    return bench.plan(exported("private"), shard(Line(), 20), epochs=None, steps=ENDLESS)


@pytest.fixture
def endless_step(bench: Bench) -> dict[str, Any]:
    """One step of the engine without an end."""
    inputs = {**LOOP_INPUT, "times": np.array(ENDLESS)}
    return {
        "protocol": 1,
        "job": "loop",
        "verb": "run",
        "plan": bench.write("graph.onnx", long_loop()),
        "inputs": bench.tensors("inputs.safetensors", inputs),
    }


def test_progress_tells_how_far_it_is(endless: dict[str, Any], bench: Bench) -> None:
    with running(bench, endless) as runner:
        first, second = runner.progress(), runner.progress()
        while first.client is None:
            first, second = second, runner.progress()
        assert second.client == "c0"
        assert (second.index, second.clients, second.steps) == (0, 1, ENDLESS)
        assert second.step > first.step
        assert second.ms > first.ms
        assert second.loss is not None
        # Batches of 8, 8 and 4: what is counted are examples.
        assert second.examples == second.step // 3 * 20 + second.step % 3 * 8
        assert runner.stop().code == 75


def test_a_step_without_an_end_is_no_silence_and_can_be_stopped(
    endless_step: dict[str, Any], bench: Bench
) -> None:
    with running(bench, endless_step) as runner:
        times = [runner.progress().ms for _ in range(4)]
        assert times == sorted(set(times))
        stopped = runner.stop()
        assert (stopped.code, stopped.messages[-1]) == (75, stopped.messages[-1])
        assert b'"stopped"' in stopped.lines[-1]
    assert "outputs.safetensors" not in bench.names()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_it_between_two_steps(
    number: signal.Signals, endless: dict[str, Any], bench: Bench
) -> None:
    with running(bench, endless) as runner:
        runner.progress()
        stopped = runner.stop(number)
    assert stopped.code == 75
    assert b'"stopped"' in stopped.lines[-1]
    assert b'"client":"c0"' in stopped.lines[-1]
    assert not [
        name for name in bench.names() if "update" in name or "result" in name or name.endswith(".part")
    ]


def test_a_hangup_that_was_ignored_from_the_start_stays_ignored(endless: dict[str, Any], bench: Bench) -> None:
    ignoring = ["sh", "-c", 'trap "" HUP INT; exec "$@"', "sh"]
    with running(bench, endless, prefix=ignoring) as runner:
        runner.progress()
        runner.process.send_signal(signal.SIGHUP)
        runner.process.send_signal(signal.SIGINT)
        for _ in range(2):
            runner.progress()
        assert runner.stop().code == 75


@pytest.mark.parametrize("in_a_step", [False, True])
def test_nobody_reads_any_more(
    in_a_step: bool, endless: dict[str, Any], endless_step: dict[str, Any], bench: Bench
) -> None:
    job = endless_step if in_a_step else endless
    with running(bench, job) as runner:
        runner.progress()
        assert runner.process.stdout is not None
        runner.process.stdout.close()
        assert runner.process.wait(SECONDS) == 74
    assert not [
        name for name in bench.names() if "update" in name or "result" in name or name.endswith(".part")
    ]


@pytest.mark.parametrize("in_a_step", [False, True])
def test_a_reader_that_does_not_read_keeps_nobody_from_stopping(
    in_a_step: bool, endless: dict[str, Any], endless_step: dict[str, Any], bench: Bench
) -> None:
    job = endless_step if in_a_step else endless
    bench.ask(job)
    reader, writer = os.pipe()
    with bench.start(job["verb"], stdout=writer) as process:
        try:
            assert b'"hello"' in os.read(reader, 1 << 16)
            os.set_blocking(writer, False)  # for the runner as well: they share it
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(writer, bytes(512))
            os.set_blocking(writer, True)
            time.sleep(1)  # until a heartbeat is stuck
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 75
        finally:
            process.kill()
            os.close(writer)
            os.close(reader)
    assert not [name for name in bench.names() if name.endswith(".part")]


def test_a_result_longer_than_a_pipe_waits_for_its_reader(exported: Export, bench: Bench) -> None:
    data = [shard(Line(), 4, seed=n) for n in range(400)]
    bench.ask(bench.plan(exported("line"), *data, combine="sum"))
    with bench.start("train") as process:
        time.sleep(1)
        out, _ = process.communicate(timeout=SECONDS)
    done = parse_message(out.splitlines()[-1])
    assert isinstance(done, TrainResult)
    assert len(done.clients) == 400
    assert len(out) > 1 << 16


def test_stdout_that_is_closed_from_the_start(endless: dict[str, Any], bench: Bench) -> None:
    bench.ask(endless)
    with bench.start("train", prefix=["sh", "-c", 'exec "$@" >&-', "sh"]) as process:
        assert process.wait(SECONDS) == 74


def test_a_crash_of_the_engine_is_told(endless_step: dict[str, Any], bench: Bench) -> None:
    with running(bench, endless_step) as runner:
        runner.progress()
        crashed = runner.stop(signal.SIGSEGV)
    assert crashed.code == 70
    assert b"crashed with signal 11" in crashed.lines[-1]


def test_a_file_that_is_cut_short_while_it_is_read(exported: Export, bench: Bench) -> None:
    data = shard(Line(), 200_000)  # 5.6 MB, of which a step reads little
    job = bench.plan(exported("line"), data, epochs=None, steps=ENDLESS)
    with running(bench, job) as runner:
        while runner.progress().step == 0:
            pass
        with (bench.job / "shard0.safetensors").open("r+b") as file:
            file.truncate(4096)
        out, _ = runner.process.communicate(timeout=SECONDS)
    assert runner.process.returncode == 66
    assert b"cut short" in out.splitlines()[-1]


def intact(bench: Bench, right: dict[str, bytes]) -> None:
    """Whatever has its final name has its final content."""
    for name, digest in right.items():
        path = bench.job / name
        if path.exists():
            assert hashlib.sha256(path.read_bytes()).digest() == digest, name


def duration(bench: Bench, job: dict[str, Any]) -> float:
    """Seconds that a job takes, at best."""
    times = []
    for _ in range(3):
        begin = time.monotonic()
        bench.train(job)
        times.append(time.monotonic() - begin)
        bench.forget()
    return min(times)


def kill_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it was still running then."""
    time.sleep(seconds)
    running = process.poll() is None
    process.kill()
    return running


def test_killed_two_hundred_times(exported: Export, bench: Bench) -> None:
    """At any moment, in training and in the commit; what comes out is the same as undisturbed."""
    data = [shard(Line(), 20, seed=n) for n in range(3)]
    job = bench.plan(exported("private"), *data, epochs=3, state="keep")
    job["evaluation"] = bench.write("evaluation.onnx", exported("private", "evaluate").content)
    took = duration(bench, job)
    staged = [f"kept/{n}.safetensors" for n in range(3)]
    right = {
        name: hashlib.sha256((bench.job / name).read_bytes()).digest()
        for name in ["update.safetensors", *staged]
    }
    moved = {f"private/c{n}.safetensors": right[name] for n, name in enumerate(staged)}
    generator = random.Random(1)
    killed = 0
    while killed < 200:
        for _ in range(20):
            with bench.start("train", stdout=subprocess.DEVNULL) as process:
                killed += kill_after(process, generator.uniform(0, took))
            intact(bench, right)
            (bench.job / "result.json").unlink(missing_ok=True)
        bench.train(job)
        assert all((bench.job / name).exists() for name in right)
        intact(bench, right)
        with bench.start("commit", stdout=subprocess.DEVNULL) as process:
            kill_after(process, generator.uniform(0, 0.02))
        intact(bench, moved)
        assert bench.run("commit").code == 0
        assert all((bench.job / name).exists() for name in moved)
        intact(bench, moved)
        for name in moved:  # the job's clients start again from where they were
            (bench.job / name).unlink()
        bench.forget()

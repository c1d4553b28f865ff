"""Processes that run rounds and can be killed: each is forked from one that has imported everything already."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from devicelab.files import cache_dir

__all__ = ["Ended", "Zygote"]


class Ended:
    """How a process ended.

    Attributes:
        killed: Whether by SIGKILL.
        code: Its exit code, if not.
        events: What it said, as (kind, device, phase).
        error: What it raised, if it did.
    """

    def __init__(self, status: int, told: Path) -> None:
        self.killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        self.code = os.waitstatus_to_exitcode(status)
        lines = told.read_text().splitlines() if told.exists() else []
        documents = [json.loads(line) for line in lines if line.endswith("}")]
        self.events = [(each["kind"], each["device"], each["phase"]) for each in documents if "kind" in each]
        self.error = "".join(each["error"] for each in documents if "error" in each)


class Zygote:
    """The process that forks the others.

    Args:
        home: Its own.
        temporary: Where its children's temporary files go.
    """

    def __init__(self, home: Path, temporary: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.rounds.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "HOME": str(home),
                "DEVICELAB_LEASES": str(home / "leases"),
                "DEVICELAB_CACHE": str(cache_dir()),
                "TMPDIR": str(temporary),
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )
        self._number = 0

    def run(
        self,
        experiment: Path,
        state: Path,
        addresses: Sequence[str],
        *,
        resume: bool = False,
        kill_at_event: int | None = None,
        kill_after: float | None = None,
    ) -> Ended:
        """Run rounds in a process of its own, to their end or its own.

        Args:
            experiment: The experiment's file.
            state: The state directory.
            addresses: Of the phones.
            resume: Whether to go on with the newest run.
            kill_at_event: It kills itself when it hears of so many events.
            kill_after: It is killed after so many seconds.
        """
        self._number += 1
        told = state.parent / f"told-{self._number}"
        request = {
            "experiment": str(experiment),
            "state": str(state),
            "addresses": list(addresses),
            "resume": resume,
            "kill_at_event": kill_at_event,
            "kill_after": kill_after,
            "told": str(told),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Ended(int(self._process.stdout.readline()), told)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _main() -> None:
    import importlib

    for name in ("numpy", "safetensors.numpy", "devicelab.config", "devicelab.rounds.running", "devicelab.lab"):
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_child(request))
        sys.stdout.write(f"{_waited(pid, request['kill_after'])}\n")
        sys.stdout.flush()


def _waited(pid: int, seconds: float | None) -> int:
    if seconds is not None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return status
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _child(request: dict[str, Any]) -> int:
    from devicelab.lab import Lab

    told = os.open(request["told"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    count = 0

    def listener(event: object) -> None:
        nonlocal count
        count += 1
        document = {
            "kind": type(event).__name__,
            "device": getattr(event, "device", ""),
            "phase": getattr(event, "phase", ""),
        }
        os.write(told, json.dumps(document).encode() + b"\n")
        if count == request["kill_at_event"]:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        with Lab(
            Path(request["state"]), transport="direct", addresses=request["addresses"], patience=30.0
        ) as lab:
            lab.run_round(Path(request["experiment"]), resume=request["resume"], listener=listener)
    except BaseException:  # noqa: BLE001 - told to the test, whatever it is
        os.write(told, json.dumps({"error": traceback.format_exc()}).encode() + b"\n")
        return 1
    return 0


if __name__ == "__main__":
    _main()

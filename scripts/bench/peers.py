"""Flower for scripts/bench/round: deployed and simulated, on this machine's loopback, ended when it is done with."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from tests.flower import flower_environment, flower_python

APP = Path(__file__).with_name("flower_app")
_MARK = "DEVICELAB_BENCH"
_SECONDS = 900


@dataclass(frozen=True)
class Rounds:
    """How long rounds took.

    Attributes:
        seconds: Of each round.
        first: From the start of the process to the end of the first one.
    """

    seconds: Sequence[float]
    first: float


class Flower:
    """Flower's programs.

    Args:
        scratch: A directory of ours, with a short path: Ray keeps sockets in it.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._token = uuid.uuid4().hex
        self._environment = {
            **flower_environment(),
            "FLWR_HOME": str(scratch / "home"),
            "RAY_USAGE_STATS_ENABLED": "0",
            _MARK: self._token,
        }

    def simulation(self, nodes: int, numbers: int, rounds: int) -> Rounds:
        """Rounds in Flower's simulation, whose nodes are actors of Ray."""
        out = self._scratch / "simulated.json"
        options = {"nodes": nodes, "numbers": numbers, "rounds": rounds, "out": str(out)}
        asked = json.dumps({**options, "scratch": str(self._scratch / "ray")})
        return self._timed([flower_python(simulation=True), APP / "noop.py", asked], out)

    @contextlib.contextmanager
    def deployed(self, nodes: int) -> Iterator[None]:
        """A SuperLink and SuperNodes, all that a deployment needs."""
        ports = _free_ports(nodes + 1)
        self._address = f"127.0.0.1:{ports[0]}"
        home = self._scratch / "home"
        home.mkdir(exist_ok=True)
        config = f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "{self._address}"\ninsecure = true\n'
        (home / "config.toml").write_text(config)
        link = [
            "flower-superlink",
            "--insecure",
            "--port",
            str(ports[0]),
            "--disable-runtime-dependency-installation",
        ]
        try:
            self._start(link)
            _wait_for(ports[0])
            for port in ports[1:]:
                self._start(
                    ["flower-supernode", "--insecure", "--superlink", self._address, "--port", str(port)]
                )
            for port in ports[1:]:
                _wait_for(port)
            yield
        finally:
            self.end()

    def deployment(self, nodes: int, numbers: int, rounds: int) -> Rounds:
        """Rounds on the nodes that are :meth:`deployed`."""
        app, out = self._scratch / "app", self._scratch / "deployed.json"
        shutil.copytree(APP, app, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        config = f'nodes={nodes} numbers={numbers} rounds={rounds} out="{out}"'
        words = [self._program("flwr"), "run", app, "bench", "--stream", "--run-config", config]
        return self._timed(words, out)

    def end(self) -> None:
        """End whatever of it still runs: what we started, and what that started."""
        ours = [each for each in psutil.process_iter() if _marked(each, self._token)]
        for each in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
        _, alive = psutil.wait_procs(ours, timeout=5)
        for each in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(alive, timeout=5)

    def _timed(self, words: Sequence[str | Path], out: Path) -> Rounds:
        out.unlink(missing_ok=True)
        began = time.time()
        ended = subprocess.run(
            words,
            env=self._environment,
            cwd=self._scratch,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if ended.returncode or not out.exists():
            raise RuntimeError(f"Flower: {ended.stdout[-3000:]}")
        stamps = json.loads(out.read_text())
        return Rounds([end - start for start, end in stamps], stamps[0][1] - began)

    def _program(self, name: str) -> Path:
        return flower_python().parent / name

    def _start(self, words: Sequence[str]) -> None:
        log = self._scratch / f"{words[0]}-{words[-1].rpartition(':')[2]}.log"
        path = f"{self._program('flwr').parent}:{os.environ['PATH']}"  # it looks for its own programs there
        with log.open("w") as file:
            subprocess.Popen(
                [self._program(words[0]), *words[1:]],
                env={**self._environment, "PATH": path},
                cwd=self._scratch,
                stdout=file,
                stderr=subprocess.STDOUT,
            )


def _marked(process: psutil.Process, token: str) -> bool:
    try:
        return process.environ().get(_MARK) == token
    except (psutil.Error, OSError):  # not ours, or gone
        return False


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


def _wait_for(port: int, seconds: float = 120.0) -> None:
    """Until somebody listens."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return

"""Somebody who does all that a page says, in a home, a directory and with virtual phones of their own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnxruntime
import yaml

from devicelab.config import load_experiment, load_lab
from devicelab.config.document import read_document
from devicelab.virtual.profile import load_profile
from tests.docs.blocks import ROOT, Block, Page, commands_in
from tests.docs.exceptions import AS_WRITTEN, EXCEPTIONS, How, words_of

__all__ = ["Reader", "fits"]

_SECONDS = 300.0
_START_SECONDS = 60.0


class Reader:
    """Reads one page.

    Args:
        home: An empty directory, which gets a home, a bin and the directory to work in.
        environment: What is to be set besides HOME and PATH.
    """

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.work = home / "work"
        self.work.mkdir()
        programs = home / "bin"
        programs.mkdir()
        for name, how in (("devicelab", "-m devicelab "), ("python", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {how}"$@"\n')
            program.chmod(0o755)
        self._environment = {
            **os.environ,
            **environment,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}:{self.work}",
            "COLUMNS": "200",
            "ENGINE": str(next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))),
        }

    def read(self, page: Page) -> None:
        """Do what the page says; AssertionError with its line if something does not go as it says."""
        said = ""
        for block in page.blocks():
            try:
                said = self._do(block, said)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                raise AssertionError(f"{page.name}:{block.line}: {error}") from error

    def run(self, command: str, how: How = AS_WRITTEN) -> str:
        """Run one command line; returns its stdout."""
        if shutil.which("jq") is None:  # then what it would have been given is all there is to see
            command = command.partition(" | jq ")[0]
        if "$PHONE" in command:
            command = command.replace("$PHONE", self._phone())
        with self._beside(how.beside):
            done = subprocess.run(
                ["bash", "-uo", "pipefail", "-c", command],
                cwd=self.work,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        assert done.returncode in how.codes, (
            f"`{command}` ended with {done.returncode}, not {how.codes}\n{done.stdout}\n{done.stderr}"
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def _do(self, block: Block, said: str) -> str:
        if block.kind == "console":
            for command in commands_in(block):
                said = self._command(command)
            return said
        if block.kind == "python":
            self._python(block)
        elif block.kind == "yaml":
            self._yaml(block)
        elif block.kind == "json" and "…" not in block.text:
            json.loads(block.text)
        elif block.kind == "text" and block.follows and said:
            assert fits(said, block.text), f"the page shows\n{block.text}\nand the command says\n{said}"
        return ""

    def _command(self, command: str) -> str:
        assert not command.startswith("$"), "a console block holds commands without `$`, and nothing else"
        how = EXCEPTIONS.get(command, AS_WRITTEN)
        if how.check is not None:
            how.check(words_of(command))
            return ""
        return self.run(how.run or command, how)

    def _python(self, block: Block) -> None:
        path = self.work / (block.file or f"line{block.line}.py")
        path.write_text(block.text)
        self.run(f"python {path.name}")

    def _yaml(self, block: Block) -> None:
        path = self.work / (block.file or f"line{block.line}.yaml")
        path.write_text(block.text)
        if block.form == "profile":
            load_profile(str(path))
        elif block.form == "lab" or path.name == "lab.yaml":
            load_lab(path)
        elif "jobs" not in yaml.safe_load(
            block.text
        ):  # else it is GitHub's, and being YAML is all we know of it
            self._experiment(path)

    def _experiment(self, path: Path) -> None:
        """A whole experiment, or some sections that fit into one."""
        sections = read_document(path).root
        assert isinstance(sections, dict)
        if not {"name", "plan", "data", "round"} <= set(sections):
            whole = read_document(ROOT / "configs" / "digits.yaml").root
            assert isinstance(whole, dict)
            path = self.work / f"whole-{path.name}"
            path.write_text(json.dumps({**whole, **sections}))  # JSON is YAML
        load_experiment(path)

    def _phone(self) -> str:
        """The address of one of the phones on this desk."""
        found = json.loads(self.run("devicelab virtual list --json"))["phones"]
        return str(found[0]["address"])

    @contextmanager
    def _beside(self, command: str | None) -> Iterator[None]:
        """Something that runs in a second terminal, and has begun to say something."""
        if command is None:
            yield
            return
        log = self.work.parent / "beside.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                shlex.split(command),
                cwd=self.work,
                env=self._environment,
                executable=self.work.parent / "bin" / "devicelab",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            end = time.monotonic() + _START_SECONDS
            while not log.stat().st_size and process.poll() is None:
                assert time.monotonic() < end, f"`{command}` says nothing"
                time.sleep(0.05)
            yield
            assert process.poll() is None, log.read_text()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(_START_SECONDS)


def fits(said: str, shown: str) -> bool:
    """Whether output is what a page shows: line breaks, spaces and ports apart, and anything for ``…``."""
    pattern = ".*?".join(map(re.escape, _plain(shown).split("…")))
    return re.fullmatch(pattern, _plain(said)) is not None


def _plain(text: str) -> str:
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:0", " ".join(text.split()))

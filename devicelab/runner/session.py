"""One job on one device: prepared, started, followed, stopped, collected, committed, removed.

::

    installation = install(device, DeviceCache(device), pack_for(device))
    session = JobSession(device, job, installation, uses=hashes)
    session.prepare()
    session.start()                      # or find it running: the id decides
    result = session.follow(on_message=print)
    session.collect(result, Path("update.safetensors"), max_bytes=...)
    session.commit()
    session.remove()

Every step may be repeated, by another process as well: whoever knows the job finds it again.
"""

from __future__ import annotations

import hashlib
import posixpath
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal

from devicelab.adb.content import open_content
from devicelab.adb.shell import Channel, ShellProcess
from devicelab.adb.transfer import part_name
from devicelab.deadline import Deadline
from devicelab.devices.device import Device
from devicelab.errors import (
    DeadlineError,
    DeviceLostError,
    ProtocolError,
    RemoteFileError,
    RunnerError,
)
from devicelab.runner.bell import Bell, launch
from devicelab.runner.cache import USES
from devicelab.runner.following import POLL, Following, Patience
from devicelab.runner.installation import Installation
from devicelab.runner.job import Job
from devicelab.runner.launch import (
    BUSY,
    Look,
    attached_command,
    detached_command,
    errors_command,
    finish_command,
    look_command,
    parse_look,
    signal_command,
)
from devicelab.runner.layout import job_directory
from devicelab.runner.messages import EvaluateResult, Result, TrainResult
from devicelab.runner.transcript import Listener, Transcript

__all__ = ["JobSession", "Patience"]

_PUSH_SECONDS: Final = 600.0
_STOP_SECONDS: Final = 15.0  # a step in progress may have to end first
_CLAIM_SECONDS: Final = 10.0
_UNWRITABLE: Final = 3  # times that a job's directory must seem so
_JOB_LIMIT: Final = 16 << 20
_COMMIT_SECONDS: Final = 60.0


class JobSession:
    """One job on one device, leased by the caller.

    Args:
        device: The device.
        job: What is to be done.
        installation: With what.
        uses: Hashes of everything in the cache that the job's paths name, so that nothing of it is evicted.
    """

    def __init__(self, device: Device, job: Job, installation: Installation, *, uses: Iterable[str]) -> None:
        self.device = device
        self.job = job
        self.directory = job_directory(job.job)
        self._installation = installation
        self._uses = tuple(dict.fromkeys((*uses, *installation.hashes)))
        self._part = ""
        self._bell: Bell | None = None  # while the launcher of the job waits for its end

    def prepare(self) -> None:
        """Write the job's directory, unless it is there.

        Raises:
            RunnerError: Another job has this id (``busy``).
            RemoteFileError: It cannot be written; DeviceFullError where the disk is full.
        """
        text, final = self.job.to_json(), f"{self.directory}/job.json"
        part = part_name(final)
        with self.device.files(f"job {self.job.job}", seconds=_PUSH_SECONDS) as (session, deadline):
            present = session.lstat(final, deadline)
            if present is None:
                uses = "".join(f"{each}\n" for each in self._uses).encode()
                for content, path in ((uses, f"{self.directory}/{USES}"), (text, part)):
                    with open_content(content) as source:
                        session.push(source, path, mode=0o644, mtime=int(time.time()), deadline=deadline)
                arrived = session.lstat(part, deadline)
                if arrived is None or arrived.size != len(text):
                    raise RemoteFileError(
                        f"{part}: not all of it has arrived", device=self.device.serial, path=part
                    )
        if present is None:
            self._part = posixpath.basename(part)  # it takes its name when the job is started
        elif self.device.read(final, max_bytes=_JOB_LIMIT) != text:
            raise self._error("busy", f"another job on the device is called {self.job.job}")

    def start(self) -> Literal["started", "running"]:
        """Start it detached; nothing happens if it runs. One that has ended well ends so again at once.

        Raises:
            RunnerError: It cannot be started.
        """
        what = f"start of job {self.job.job}"
        deadline = Deadline(what, _CLAIM_SECONDS, self.device.serial)
        where = self._installation
        command = detached_command(self.job.job, where.library_path, where.runner, self.job.verb, self._part)
        unwritable = 0
        self._let_go()
        while True:
            said = launch(
                self.device, command, Deadline(what, self.device.deadlines.command, self.device.serial)
            )
            if isinstance(said, Bell):
                self._bell = said
                return "started"
            if said.text == "running":
                return "running"
            # Another start that is just being made looks for a moment as if nothing could be written.
            unwritable += said.text == "unwritable"
            if unwritable >= _UNWRITABLE:
                raise self._error(
                    "output", "it cannot be started: its directory cannot be written to, the disk is full"
                )
            if said.text not in ("busy", "unwritable"):
                reason = said.text or said.stderr.decode("utf-8", "replace")
                raise self._error(
                    "output", f"it cannot be started: {reason.strip()[-200:] or 'no word of why'}"
                )
            time.sleep(deadline.capped(0.2))

    def run(self, *, patience: Patience | None = None, on_message: Listener | None = None) -> Result:
        """Run it attached to the cable, to its end.

        Raises:
            RunnerError: It failed, or runs already (``busy``).
            DeviceLostError: The cable was pulled, which ends it.
            DeadlineError: No line within ``idle``, or no end within ``total``; it was ended.
        """
        patience = patience or Patience()
        whole = Deadline(f"job {self.job.job}", patience.total, self.device.serial)
        transcript = Transcript(self.job, self.device.serial, on_message)
        code = self._attached(self.job.verb, transcript, whole, patience.idle)
        return self.conclude(transcript, code)

    def follow(
        self,
        *,
        patience: Patience | None = None,
        on_message: Listener | None = None,
        between: Callable[[], object] | None = None,
    ) -> Result:
        """Wait for the end of a detached job, through losses of the device.

        Args:
            patience: How long.
            on_message: Told hello and progress, from the start's first line on.
            between: Called before every look, several times a second while the device answers. What it raises
                ends the wait; the job goes on.

        Raises:
            RunnerError: It failed, was stopped or killed.
            DeviceLostError: The device was away for too long. The job may go on; follow it again.
            DeadlineError: The same for a device that is silent, for a job without a line, for all of it.
        """
        following = Following(self, patience or Patience(), on_message, between, self._bell)
        try:
            return following.result()
        finally:
            self._let_go()

    def look(self, offset: int = 0, *, seconds: float | None = None) -> Look:
        """The job's state now and its output from ``offset`` on, up to a mebibyte.

        Args:
            offset: Bytes of the output that are known.
            seconds: For the answer, where that is less than the device's own limit.

        Raises:
            ProtocolError: The device answered something else.
        """
        limit = self.device.deadlines.command
        limit = limit if seconds is None else min(seconds, limit)
        said = self.device.shell(*look_command(self.job.job, offset), seconds=limit, check=False)
        look = parse_look(said.stdout, offset)
        if look is None:
            raise ProtocolError(
                f"asked for job {self.job.job} it said {said.stdout[:80]!r}", device=self.device.serial
            )
        return look

    def stop(self) -> None:
        """End it, with SIGTERM and then with SIGKILL; nothing happens if it does not run.

        Raises:
            DeadlineError: It does not end.
        """
        self._let_go()
        if not self._end("TERM", _STOP_SECONDS) and not self._end("KILL", _STOP_SECONDS):
            raise DeadlineError(
                f"end of job {self.job.job}", seconds=2 * _STOP_SECONDS, device=self.device.serial
            )

    def collect(self, result: Result, local: Path, *, max_bytes: int, seconds: float = _PUSH_SECONDS) -> None:
        """Pull what a job wrote, and check that it is what its result says.

        Args:
            result: Of :meth:`run` or :meth:`follow`.
            local: The file to write; its directory must exist.
            max_bytes: What is larger is refused.
            seconds: For the pull.

        Raises:
            RunnerError: Its size or hash is another one (``damaged``); nothing is left.
            RemoteFileError: It is not there.
            ValueError: An evaluation has no output.
        """
        if isinstance(result, EvaluateResult):
            raise ValueError("an evaluation has no output")
        output = result.update if isinstance(result, TrainResult) else result.outputs
        if output.bytes > max_bytes:
            raise self._error("damaged", f"{output.file} has {output.bytes} bytes, more than {max_bytes}")
        remote = f"{self.directory}/{output.file}"
        self.device.pull(remote, local, max_bytes=output.bytes, seconds=seconds)
        with local.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != output.sha256 or local.stat().st_size != output.bytes:
            local.unlink()
            raise self._error("damaged", f"{output.file} is not what the runner wrote (sha256 {digest[:16]}…)")

    def commit(self) -> None:
        """Let what the clients keep take its place; only once the update is safely stored. May be repeated.

        Raises:
            RunnerError: It failed.
        """
        transcript = Transcript(None, self.device.serial)
        whole = Deadline(f"commit of job {self.job.job}", _COMMIT_SECONDS, self.device.serial)
        code = self._attached("commit", transcript, whole, _COMMIT_SECONDS)
        transcript.conclude(code, self._errors())

    def remove(self) -> None:
        """Remove all of it from the device, stopping it first."""
        self.stop()
        self.device.remove(self.directory, recursive=True)

    def finish(self, *, commit: bool) -> None:
        """Commit and remove a job whose update is safely stored, in one command. May be repeated.

        Args:
            commit: Whether its clients keep something.

        Raises:
            RunnerError: The commit failed; the job is as it was.
            DeadlineError: It runs, and does not end.
        """
        where = self._installation
        command = finish_command(self.job.job, where.library_path, where.runner, commit=commit)
        said = self.device.shell(*command, seconds=_COMMIT_SECONDS, check=False).text
        if said == "finished":
            return
        if said == "running":
            self.stop()
        if commit:
            self.commit()  # says what is wrong
        self.remove()

    def conclude(self, transcript: Transcript, code: int | None) -> Result:
        """What a job that has ended came to: all of its output, and its exit code if there is one.

        Raises:
            RunnerError: It failed.
        """
        # Who ended well has nothing to say on its standard error, and asking costs a round trip.
        said = b"" if code == 0 and transcript.last is not None else self._errors()
        result = transcript.conclude(code, said)
        assert result is not None  # there is a job
        return result

    # --- parts ---

    def _let_go(self) -> None:
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.close()

    def _attached(
        self,
        verb: Literal["train", "evaluate", "run", "commit"],
        transcript: Transcript,
        whole: Deadline,
        idle: float,
    ) -> int:
        """Run a verb over a stream of its own; its exit code."""
        command = attached_command(
            self.job.job, self._installation.library_path, self._installation.runner, verb, self._part
        )
        connection = self.device.connection(whole)
        try:
            with ShellProcess(connection, command, deadline=whole) as process:
                while (piece := process.read(whole.within(f"a line of job {self.job.job}", idle))) is not None:
                    if piece[0] is Channel.STDOUT:
                        transcript.feed(piece[1])
                code = process.wait(whole)
        except (DeviceLostError, ProtocolError):
            self.device.drop(connection)
            raise
        if code == BUSY:
            raise self._error("busy", f"job {self.job.job} runs already")
        return code

    def _errors(self) -> bytes:
        return self.device.shell(*errors_command(self.job.job), check=False).stdout

    def _end(self, signal: Literal["TERM", "KILL"], seconds: float) -> bool:
        """Send a signal until the job is gone; whether it is."""
        deadline = Deadline(f"end of job {self.job.job}", seconds, self.device.serial)
        pause = POLL[0]
        while not deadline.expired:
            self.device.shell(*signal_command(self.job.job, signal), check=False)
            if self.look().state != "running":
                return True
            time.sleep(pause)
            pause = min(2 * pause, POLL[1])
        return False

    def _error(self, code: str, message: str) -> RunnerError:
        return RunnerError(message, device=self.device.serial, code=code)

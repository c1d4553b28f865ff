"""The virtual phones of one lab: bring them up, find them again, take them down.

The registry is one directory per phone, ``<state>/virtual/<name>/``; what is in it, see
:mod:`devicelab.virtual.keeper`. A directory that no process owns any more (:mod:`devicelab.virtual.registry`)
is removed by the next ``up``, ``list`` or ``down``, whatever killed its owner.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from devicelab.deadline import Deadline
from devicelab.devices.locks import flocked
from devicelab.errors import ConfigError, DeadlineError, VirtualPhoneError
from devicelab.virtual import registry
from devicelab.virtual.body import BodyKind
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.ground import prepare_ground
from devicelab.virtual.keeper import PHONE
from devicelab.virtual.launcher import SPEC
from devicelab.virtual.ownpython import module_command, module_environment
from devicelab.virtual.plan import plan_phone
from devicelab.virtual.probe import choose_body
from devicelab.virtual.profile import Profile, load_profile
from devicelab.virtual.relay import bind_port
from devicelab.virtual.spec import PhoneSpec

_log = logging.getLogger(__name__)

__all__ = ["FIRST_PORT", "VirtualDesk"]

FIRST_PORT = 6100
"""Ports start here: adb servers look by themselves for emulators on the odd ports from 5555 to 5585."""

_LAST_PORT = 6999
_UP_SECONDS = 60.0
_DOWN_SECONDS = 10.0
_PATIENCE_SECONDS = 4.0
_GLANCE_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class _Place:
    """What is reserved for a phone: its directory, its port, and the descriptors that hold them."""

    directory: Path
    port: int
    lock: int
    sock: socket.socket


class VirtualDesk:
    """The virtual phones below one state directory.

    Args:
        state_dir: The lab's state directory (:func:`devicelab.files.state_dir`); created when it is needed.
    """

    def __init__(self, state_dir: Path) -> None:
        self.directory = state_dir / "virtual"

    def up(
        self,
        profiles: Sequence[str | Profile],
        *,
        body: BodyKind | None = None,
        deadline: Deadline | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> list[VirtualPhone]:
        """Start one phone per profile: all of them, or none.

        Args:
            profiles: Names of profiles, paths of YAML files, or loaded ones; one may occur many times.
            body: Forces a body; by default the fullest that this machine allows.
            deadline: For starting them (not for building the image, which has its own); a minute by default.
            progress: Told what is being done while an image is built.

        Raises:
            ConfigError: A profile is wrong, or this host has no space left.
            VirtualPhoneError: The image cannot be built, or a phone does not start; the message names it.
            DeadlineError: It took too long.
        """
        loaded = [item if isinstance(item, Profile) else load_profile(item) for item in profiles]
        kind = body or choose_body()
        grounds = {profile.executes: prepare_ground(profile, kind, progress) for profile in loaded}
        deadline = deadline or Deadline("starting virtual phones", _UP_SECONDS)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock(deadline), contextlib.ExitStack() as stack:
            registry.sweep(self.directory)
            places = [self._reserve(profile, stack) for profile in loaded]
            try:
                specs = [
                    plan_phone(profile, kind, grounds[profile.executes], place.directory, place.port)
                    for profile, place in zip(loaded, places, strict=True)
                ]
                _launch(specs, places, deadline)
            except BaseException:
                stack.close()
                for place in places:
                    registry.end(place.directory, 0.0, Deadline("ending half-started phones", _DOWN_SECONDS))
                raise
        return [VirtualPhone.read(spec.directory) for spec in specs]

    def addresses(self) -> list[str]:
        """``host:port`` of each phone that runs, sorted by port."""
        return [phone.address for phone in self.list()]

    def find(self, name: str) -> VirtualPhone:
        """The phone with this name.

        Raises:
            ConfigError: None of that name runs.
        """
        phones = self.list()
        for phone in phones:
            if phone.name == name:
                return phone
        names = ", ".join(phone.name for phone in phones) or "none"
        raise ConfigError(f"no virtual phone is called {name!r}", hint=f"running: {names}")

    def down(self, names: Sequence[str] | None = None) -> list[str]:
        """End phones and remove all they kept.

        Args:
            names: Which; by default all of them.

        Returns:
            The names of those that were ended.

        Raises:
            ConfigError: A name is unknown.
            DeadlineError: A process did not end even after SIGKILL.
        """
        if not self.directory.is_dir():
            return []
        deadline = Deadline("ending virtual phones", _DOWN_SECONDS)
        with self._lock(Deadline("waiting for another `virtual` command", _UP_SECONDS)):
            registry.sweep(self.directory)
            running = self._names()
            for name in names or ():
                if name not in running:
                    raise ConfigError(
                        f"no virtual phone is called {name!r}", hint=f"running: {', '.join(running)}"
                    )
            chosen = [name for name in running if names is None or name in names]
            for name in chosen:
                registry.stop(self.directory / name)
            for name in chosen:
                registry.end(self.directory / name, _PATIENCE_SECONDS, deadline)
        return chosen

    def list(self) -> list[VirtualPhone]:
        """The phones that run now, sorted by port."""
        if not self.directory.is_dir():
            return []
        with contextlib.suppress(DeadlineError), self._lock(Deadline("a quick look", _GLANCE_SECONDS)):
            registry.sweep(self.directory)  # another command that is at work does it, too
        phones = (_read_running(self.directory / name) for name in self._names())
        return sorted((phone for phone in phones if phone is not None), key=lambda phone: phone.port)

    @contextmanager
    def _lock(self, deadline: Deadline) -> Iterator[None]:
        """One command at a time changes the registry."""
        with (self.directory / ".lock").open("a") as file, flocked(file.fileno(), deadline):
            yield

    def _names(self) -> Sequence[str]:
        found = (path for path in self.directory.iterdir() if path.is_dir() and not path.is_symlink())
        return sorted(path.name for path in found)

    def _reserve(self, profile: Profile, stack: contextlib.ExitStack) -> _Place:
        """A name, a locked directory and a port, held until ``stack`` closes; the keeper has them by then."""
        number = 1
        while (directory := self.directory / f"{profile.name}-{number}").exists():
            number += 1
        directory.mkdir(mode=0o700)
        lock = registry.lock_directory(directory)
        stack.callback(os.close, lock)
        for port in range(FIRST_PORT, _LAST_PORT + 1):
            try:
                sock = stack.enter_context(bind_port(port))
            except OSError:
                continue
            return _Place(directory, port, lock, sock)
        raise VirtualPhoneError(f"all ports from {FIRST_PORT} to {_LAST_PORT} on 127.0.0.1 are taken")


def _read_running(directory: Path) -> VirtualPhone | None:
    """The phone of a directory; None if it is still coming up, has ended, or cannot be told what it is.

    One damaged ``phone.json`` hides no other phone; :meth:`VirtualDesk.down` ends its phone, too.
    """

    def runs() -> bool:
        return (directory / PHONE).exists() and not registry.is_free(directory)

    if not runs():
        return None
    try:
        return VirtualPhone.read(directory)
    except VirtualPhoneError as error:
        if runs():
            _log.warning("%s; end it: devicelab virtual down %s", error.message, directory.name)
        return None


def _launch(specs: Sequence[PhoneSpec], places: Sequence[_Place], deadline: Deadline) -> None:
    """Start the keepers, wait until every one has reported, and let them stay."""
    for spec in specs:
        (spec.directory / SPEC).write_text(spec.to_json(), encoding="utf-8")
    arguments = [f"{place.sock.fileno()},{place.lock},{place.directory}" for place in places]
    with tempfile.TemporaryFile() as errors:
        launcher = subprocess.Popen(
            [*module_command("devicelab.virtual.launcher"), *arguments],
            env=module_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=[fd for place in places for fd in (place.sock.fileno(), place.lock)],
            start_new_session=True,
        )
        with launcher:
            try:
                reports = _reports(launcher, len(specs), deadline)
                _check(reports, specs, errors)
                assert launcher.stdin is not None
                os.write(launcher.stdin.fileno(), b"." * len(specs))
            finally:
                launcher.kill()  # it has ended by itself, but for a deadline


def _reports(launcher: subprocess.Popen[bytes], count: int, deadline: Deadline) -> Sequence[dict[str, Any]]:
    """What the keepers say, until all have spoken or none can any more."""
    assert launcher.stdout is not None
    fd = launcher.stdout.fileno()
    said = bytearray()
    while said.count(b"\n") < count:
        if select.select([fd], [], [], deadline.remaining())[0]:
            data = os.read(fd, 1 << 16)
            if not data:
                break
            said += data
    return [json.loads(line) for line in said.splitlines()]


def _check(reports: Sequence[dict[str, Any]], specs: Sequence[PhoneSpec], errors: IO[bytes]) -> None:
    """Raise if a phone did not start."""
    for report in reports:
        if "error" in report:
            kind = ConfigError if report.get("host") else VirtualPhoneError
            raise kind(report["error"], device=report["name"], hint=report.get("hint"))
    silent = {spec.name for spec in specs} - {report["name"] for report in reports}
    if silent:
        errors.seek(0)
        last = errors.read().decode("utf-8", "replace").strip().splitlines()[-1:]
        raise VirtualPhoneError(f"its keeper died: {' '.join(last) or 'no word of why'}", device=min(silent))

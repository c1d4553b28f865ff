"""What devicelab has left on phones and on this host, for people and for scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from devicelab.devices.text import clean
from devicelab.report.figures import plural, size
from devicelab.report.tables import plain_table

__all__ = ["Litter", "OldRun", "PhoneLitter", "litter_document", "litter_table"]

_RESUMABLE = ("stopped", "failed")


@dataclass(frozen=True, slots=True)
class PhoneLitter:
    """What goes from one phone, or went.

    Attributes:
        device: Its serial.
        going: Jobs that go.
        staying: Jobs that stay, and why.
        files: How many files of its cache go.
        bytes: Of these.
        private: How many clients' private values it holds.
        private_goes: Whether these go.
        problem: Why it could not be looked at or cleaned; empty if it could.
    """

    device: str
    going: tuple[str, ...] = ()
    staying: Mapping[str, str] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    private: int = 0
    private_goes: bool = False
    problem: str = ""

    @property
    def empty(self) -> bool:
        """Whether nothing goes."""
        return not (self.going or self.files or (self.private and self.private_goes))


@dataclass(frozen=True, slots=True)
class OldRun:
    """A run that goes, or went: its directory, the bytes in it, and the state that ``runs list`` shows."""

    path: Path
    bytes: int
    state: str


@dataclass(frozen=True, slots=True)
class Litter:
    """What goes, or went.

    Attributes:
        phones: From each phone.
        runs: Whole runs.
        problems: What of this host could not be looked at or removed.
    """

    phones: tuple[PhoneLitter, ...] = ()
    runs: tuple[OldRun, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing goes."""
        return all(each.empty for each in self.phones) and not self.runs

    @property
    def failed(self) -> bool:
        """Whether something could not be done."""
        return bool(self.problems) or any(each.problem for each in self.phones)

    @property
    def phone_bytes(self) -> int:
        """Of the phones' caches."""
        return sum(each.bytes for each in self.phones)

    @property
    def host_bytes(self) -> int:
        """Of this host."""
        return sum(each.bytes for each in self.runs)


def litter_document(litter: Litter, *, removed: bool) -> dict[str, Any]:
    """The JSON document of ``clean --json``: what went, or with ``removed`` false what would go."""
    return {
        "removed": removed,
        "phones": [_phone_document(each) for each in litter.phones],
        "runs": [{"run": each.path.name, "state": each.state, "bytes": each.bytes} for each in litter.runs],
        "problems": list(litter.problems),
        "phone_bytes": litter.phone_bytes,
        "host_bytes": litter.host_bytes,
    }


def _phone_document(each: PhoneLitter) -> dict[str, Any]:
    return {
        "device": each.device,
        "jobs": list(each.going),
        "kept": [{"job": job, "reason": reason} for job, reason in each.staying.items()],
        "cache_files": each.files,
        "cache_bytes": each.bytes,
        "private": each.private,
        "private_removed": each.private_goes,
        "problem": each.problem,
    }


def litter_table(litter: Litter, *, removed: bool) -> RenderableType:
    """The same for people."""
    parts: list[RenderableType] = []
    if litter.phones:
        headings = ("PHONE", "JOBS", "CACHE", "PRIVATE VALUES")
        parts.append(plain_table(headings, map(_phone_row, litter.phones), keep={"PHONE"}))
    if litter.runs:
        rows = [[clean(each.path.name), each.state, size(each.bytes)] for each in litter.runs]
        parts.append(plain_table(("RUN", "STATE", "SIZE"), rows, keep={"RUN", "STATE", "SIZE"}))
        unfinished = sum(each.state in _RESUMABLE for each in litter.runs)
        if unfinished:
            could = "could have gone on with" if removed else "can go on with"
            told = f"{plural(unfinished, 'run')} that run-round --resume {could}: see STATE"
            parts.append(Text(told, style="yellow"))
    parts += _notes(litter)
    freed = f"{size(litter.phone_bytes)} on phones, {size(litter.host_bytes)} here"
    if litter.empty:
        parts.append(Text("there is nothing to remove" if not removed else "nothing was removed"))
    else:
        parts.append(Text(f"{'freed' if removed else 'this frees'} {freed}", style="dim"))
    return Group(*parts)


def _phone_row(each: PhoneLitter) -> list[str]:
    private = f"of {plural(each.private, 'client')}" if each.private else "none"
    if each.private:
        private += "" if each.private_goes else " (stay)"
    cache = f"{plural(each.files, 'file')}, {size(each.bytes)}" if each.files else "nothing"
    return [clean(each.device), str(len(each.going)), cache, private]


def _notes(litter: Litter) -> list[Text]:
    notes = []
    for each in litter.phones:
        name = (f"{clean(each.device)}: ", "bold")
        if each.problem:
            notes.append(Text.assemble(name, (clean(each.problem, 1000), "yellow")))
        notes += [
            Text.assemble(name, f"job {clean(job)} stays: {clean(reason)}")
            for job, reason in each.staying.items()
        ]
    return notes + [Text(clean(problem, 1000), style="yellow") for problem in litter.problems]

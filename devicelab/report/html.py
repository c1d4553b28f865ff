"""A run's report: one HTML file that can be read offline, in light and dark, by mail or in ten years.

It holds no script and refers to nothing outside, and a content security policy says so to the browser. Text of
phones and configurations is escaped by the template engine and cleaned of control characters.
"""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from devicelab.devices.text import clean
from devicelab.report.figures import UNKNOWN, duration, figure, plural, rank, size
from devicelab.report.history import RunHistory
from devicelab.report.sections import sections

__all__ = ["run_page"]

_STATES = {"done": "good", "failed": "bad", "stopped": "so-so", "running": "so-so"}
_MAX_METRIC_TILES = 3


@dataclass(frozen=True, slots=True)
class Tile:
    """One fact at the top of the page."""

    name: str
    value: str
    more: str = ""


def run_page(history: RunHistory, *, version: str) -> str:
    """Make the page.

    Args:
        history: The run.
        version: Of devicelab, for the foot of the page.
    """
    environment = Environment(
        loader=PackageLoader("devicelab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    name = clean(history.experiment)
    return environment.get_template("run.html").render(
        title=f"{name}, run {clean(history.run)}",
        experiment=name,
        state=history.state,
        state_style=_STATES.get(history.state, "so-so"),
        subtitle=_subtitle(history),
        reason=clean(history.reason, 1000),
        tiles=_tiles(history),
        sections=sections(history),
        footer=f"Made by devicelab {version} from the run's ledger.",
    )


def _subtitle(history: RunHistory) -> str:
    began = f"{history.started:%Y-%m-%d %H:%M:%S %Z}".strip()
    return f"run {clean(history.run)} · {began} · {duration(history.seconds)}"


def _tiles(history: RunHistory) -> list[Tile]:
    done = [each for each in history.rounds if each.state == "done"]
    phones = {part.device for each in history.rounds for part in each.parts}
    tiles = [Tile("rounds", f"{len(done)} of {history.wanted}", _failures(history)), _loss_tile(history)]
    tiles += _metric_tiles(history)
    if history.privacy:
        tiles.append(Tile("privacy", f"ε {figure(history.privacy.epsilon)}", f"δ = {history.privacy.delta:g}"))
    parts = sum(each.clients for each in done)
    tiles.append(Tile("phones", str(len(phones)), f"{parts:,} clients' updates averaged"))
    sent = sum(each.bytes_sent for each in history.rounds)
    received = sum(each.bytes_received for each in history.rounds)
    tiles.append(Tile("over the cable", size(sent + received), f"{size(sent)} sent, {size(received)} received"))
    return tiles


def _failures(history: RunHistory) -> str:
    failed = sum(each.state == "failed" for each in history.rounds)
    times = [each.seconds for each in history.rounds if each.state == "done" and each.seconds is not None]
    mean = f"{duration(sum(times) / len(times))} a round" if times else ""
    return ", ".join(filter(None, [mean, plural(failed, "failure") if failed else ""]))


def _loss_tile(history: RunHistory) -> Tile:
    told = [each for each in history.rounds if each.loss_after is not None]
    if not told:
        return Tile("loss", UNKNOWN)
    first = told[0].loss_before if told[0].loss_before is not None else told[0].loss_after
    return Tile("loss", figure(told[-1].loss_after), f"{figure(first)} at first")


def _metric_tiles(history: RunHistory) -> list[Tile]:
    """The last value of each metric, held-out data first, and the best there was."""
    names = {name for each in history.rounds for name in each.metrics}
    tiles = []
    for name in sorted(names, key=rank)[:_MAX_METRIC_TILES]:
        values = {each.number: each.metrics[name] for each in history.rounds if name in each.metrics}
        last = max(values)
        first = history.initial.get(name)
        more = f"{figure(first)} at first" if first is not None else f"after round {last}"
        tiles.append(Tile(clean(name), figure(values[last]), more))
    return tiles

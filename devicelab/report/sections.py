"""The sections of a run's report: which charts and tables, of what."""

from __future__ import annotations

from collections.abc import Sequence

from devicelab.devices.text import clean
from devicelab.report.charts import Series, line_chart
from devicelab.report.cohorts import missing, phones
from devicelab.report.figures import duration, figure, plural, rank, size
from devicelab.report.history import RoundHistory, RunHistory
from devicelab.report.page import Chart, Section, TableView, keys_of
from devicelab.report.privacy import privacy
from devicelab.report.usage import health, phone_times, time_and_bytes

__all__ = ["sections"]

_MAX_CONFIG = 100_000  # characters


def sections(history: RunHistory) -> list[Section]:
    """All sections that have something to tell, in their order."""
    made = [
        _learning(history),
        privacy(history),
        phones(history),
        missing(history),
        time_and_bytes(history),
        phone_times(history),
        health(history),
        _rounds(history),
        _facts(history),
        Section("config", "The experiment", pre=_printable(history.config)) if history.config else None,
    ]
    return [section for section in made if section is not None]


def _printable(text: str) -> str:
    """Lines and their indents, without what draws outside its place."""
    return "".join(letter for letter in text[:_MAX_CONFIG] if letter == "\n" or letter.isprintable())


def _learning(history: RunHistory) -> Section | None:
    charts = []
    loss = [
        Series("before local training", "c7", {each.number: each.loss_before for each in history.rounds}),
        Series("after local training", "c1", {each.number: each.loss_after for each in history.rounds}),
        *_metric_series(history, "loss", held_out=True),
    ]
    told = [one for one in loss if any(value is not None for value in one.values.values())]
    if told:
        charts.append(_lines("Loss", told))
    charts += [_lines(clean(name), _metric_series(history, name)) for name in _metric_names(history)]
    if not charts:
        return None
    return Section("learning", "Learning", charts=charts)


def _lines(title: str, series: Sequence[Series]) -> Chart:
    label = f"{title} over rounds: {', '.join(one.name for one in series)}"
    return Chart(title, line_chart(series, label=label), keys_of(series))


def _bare(name: str) -> str:
    return name.split("/", 1)[1] if name.startswith(("eval/", "test/")) else name


def _metric_names(history: RunHistory) -> list[str]:
    """Without where they were measured, as :func:`rank` has them; losses are in the loss chart."""
    names = [*history.initial, *(name for each in history.rounds for name in each.metrics)]
    found = dict.fromkeys(_bare(name) for name in sorted(names, key=rank))
    held_out_loss = {"eval/loss", "test/loss"}.intersection(names)
    return [name for name in found if name != "loss" or not held_out_loss]


def _metric_series(history: RunHistory, name: str, *, held_out: bool = False) -> list[Series]:
    sources = [
        ("", "training data", "c1"),
        ("eval/", "held out, on the phones", "c2"),
        ("test/", "test set", "c3"),
    ]
    series = []
    for prefix, what, style in sources[1:] if held_out else sources:
        values = {each.number: each.metrics.get(prefix + name) for each in history.rounds}
        if prefix + name in history.initial:
            values[0] = history.initial[prefix + name]
        if any(value is not None for value in values.values()):
            series.append(Series(what, style, values))
    return series


def _rounds(history: RunHistory) -> Section | None:
    if not history.rounds:
        return None
    names = sorted({name for each in history.rounds for name in each.metrics}, key=rank)
    headings = ["round", "state", "phones", "clients", "examples", "loss before", "loss after"]
    headings += [*map(clean, names), "time", "sent", "received", "missing"]
    rows = [_round_row(each, names) for each in history.rounds]
    table = TableView(
        headings, rows, frozenset(range(2, len(headings))), f"Table of {plural(len(rows), 'round')}"
    )
    return Section("rounds", "Every round", tables=[table])


def _round_row(each: RoundHistory, metrics: Sequence[str]) -> list[str]:
    return [
        str(each.number),
        f"{each.state}: {clean(each.reason, 1000)}" if each.reason else each.state,
        str(each.devices),
        f"{each.clients:,}",
        f"{each.examples:,}",
        figure(each.loss_before),
        figure(each.loss_after),
        *(figure(each.metrics.get(name)) for name in metrics),
        duration(each.seconds),
        size(each.bytes_sent),
        size(each.bytes_received),
        str(len(each.missing)),
    ]


def _facts(history: RunHistory) -> Section:
    rows = [["run", clean(history.run)], ["seed", str(history.seed)], ["plan", f"sha256 {history.plan_sha256}"]]
    rows += [[f"plan/{clean(name)}", f"sha256 {digest}"] for name, digest in sorted(history.files.items())]
    rows += [[clean(name), clean(version)] for name, version in sorted(history.versions.items())]
    if history.checkpoint:
        rows.append([clean(history.checkpoint), f"sha256 {history.checkpoint_sha256}"])
    return Section("facts", "What it takes to repeat this", tables=[TableView(["what", "value"], rows)])

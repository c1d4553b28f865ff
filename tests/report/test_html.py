from __future__ import annotations

import re
from dataclasses import replace

import pytest

from devicelab.report.history import Missing, Reading, RunHistory
from devicelab.report.html import run_page
from devicelab.store.releases import PrivacySpent
from tests.report.histories import make_run
from tests.report.pages import Page


def page(history: RunHistory) -> Page:
    return Page(run_page(history, version="0.1.0"))


def renamed(history: RunHistory, text: str) -> RunHistory:
    """Every word that comes from elsewhere is followed by this one."""
    rounds = tuple(
        replace(
            each,
            reason=text,
            metrics={name + text: value for name, value in each.metrics.items()},
            parts=tuple(replace(part, device=part.device + text) for part in each.parts),
            missing=tuple(
                replace(one, device=one.device + text, reason=text, clients=(text,) * 7) for one in each.missing
            ),
        )
        for each in history.rounds
    )
    return replace(
        history,
        run=history.run + text,
        experiment=text,
        reason=text,
        models={device + text: text for device in history.models},
        rounds=rounds,
        readings=tuple(replace(one, device=one.device + text) for one in history.readings),
        files={name + text: digest for name, digest in history.files.items()},
        versions={name + text: text for name in history.versions},
        config=text,
    )


@pytest.mark.parametrize(("rounds", "phones"), [(1, 1), (20, 4), (100, 40)])
def test_large_and_small_pages_refer_to_nothing_outside(rounds: int, phones: int) -> None:
    html = run_page(make_run(rounds, phones), version="0.1.0")
    tree = Page(html).root
    assert {each.tag for each in tree.all()}.isdisjoint({"script", "link", "img", "iframe", "object", "use"})
    names = {name for each in tree.all() for name in each.attributes}
    assert names.isdisjoint({"src", "href", "xlink:href", "srcset", "action", "style"})
    assert not [name for name in names if name.startswith("on")]
    assert not re.search(r"https?:|url\(|@import", html)
    assert "default-src 'none'" in html
    assert len(html) < 3_000_000


def test_all_series_are_there() -> None:
    seen = page(make_run(20, 4))
    learning = seen.section("learning")
    assert [figure.all("figcaption")[0].children[0].text for figure in learning.all("figure")] == [
        "before local trainingafter local training",
        "held out, on the phones",
        "training dataheld out, on the phonestest set",
    ]
    assert [len(figure.all("path", "line")) for figure in learning.all("figure")] == [2, 1, 3]
    [rounds, cable] = seen.section("time").all("figure")
    assert [key.text for key in rounds.all("span", "key")] == ["phones", "aggregate"]
    assert [key.text for key in cable.all("span", "key")] == ["sent to phones", "received"]
    phases = seen.section("phases")
    assert " ".join(key.text for key in phases.all("span", "key")) == "push start train pull check commit"
    assert len(phases.all("figure")) == 4
    for figure in phases.all("figure"):
        assert len(figure.all("path", "bar")) == 6
    assert len(seen.section("health").all("svg")) == 7, "two traces a phone; one does not tell its temperature"
    assert len(seen.table("rounds")) == 1 + 20
    assert "devicelab.plans.zoo:movielens" in seen.section("config").text


def test_the_initial_model_is_round_zero() -> None:
    accuracy = page(make_run(2, 1)).section("learning").all("figure")[2]
    titles = [each.text for each in accuracy.all("title")]
    assert titles[0] == "round 0\nheld out, on the phones: 0.1100\ntest set: 0.1000"
    assert [title.split("\n")[0] for title in titles] == ["round 0", "round 1", "round 2"]


def test_who_was_missing_is_one_row_a_story() -> None:
    history = make_run(9, 2)
    hot = Missing("192.168.178.20:5555", "excluded", "too hot")
    lost = Missing("emulator-5556", "failed", "gone", ("17", "18"))
    rounds = [
        replace(each, missing=(hot, lost) if each.number in {2, 3, 4, 7} else (hot,)) for each in history.rounds
    ]
    assert page(replace(history, rounds=tuple(rounds))).table("missing") == [
        ["phone", "clients", "rounds", "what", "why"],
        ["192.168.178.20:5555", "all", "1–9", "excluded", "too hot"],
        ["emulator-5556", "17, 18", "2–4, 7", "failed", "gone"],
    ]


def test_what_came_of_each_phone() -> None:
    history = make_run(30, 4)
    seen = page(history).section("phones")
    missing = {(each.number, one.device, one.how) for each in history.rounds for one in each.missing}
    told = {tuple(re.split(", |: ", each.text)[:3]) for each in seen.all("title")}
    assert told == {(f"round {number}", device, how) for number, device, how in missing}
    done = sum(part.state == "done" for each in history.rounds for part in each.parts)
    assert sum(path.attributes["d"].count("M") for path in seen.all("path", "c3")) == done


HOSTILE = (
    "\"'><script>alert(1)</script>",
    "</title></style></svg><h1>",
    "{{ 7 * 7 }}{% raw %}",
    "]]><!--",
    "&lt;b&gt;&#0;",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_words_from_elsewhere_never_become_markup(text: str) -> None:
    history = make_run(6, 4)
    assert page(renamed(history, text)).shape == page(renamed(history, "harmless")).shape
    assert text in page(renamed(history, text)).section("facts").text


def test_controls_and_endless_names_do_no_harm() -> None:
    html = run_page(renamed(make_run(3, 2), "\x00\x1b[2J\u202e" + "n" * 100_000), version="0.1.0")
    body = html.replace("n" * 50_000, "")  # the configuration is shown nearly whole
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", body)
    assert len(body) < 400_000


def test_a_run_that_failed_says_why() -> None:
    history = make_run(2, 4)
    last = replace(
        history.rounds[1],
        state="failed",
        reason="2 of 4 phones finished, the quorum is 3",
        seconds=None,
        host_seconds={},
        loss_before=None,
        loss_after=None,
        metrics={},
    )
    history = replace(history, state="failed", reason=last.reason, rounds=(history.rounds[0], last), wanted=9)
    seen = page(history)
    assert seen.root.all("p", "reason")[0].text == last.reason
    assert seen.root.all("dd")[0].text == "1 of 9"
    assert seen.table("rounds")[2][1] == f"failed: {last.reason}"


def test_a_run_without_a_round() -> None:
    history = replace(make_run(1, 1), state="stopped", rounds=(), readings=(), models={}, initial={})
    seen = page(history)
    assert [section.attributes["id"] for section in seen.root.all("section")] == ["facts", "config"]
    assert seen.root.all("span", "state")[0].text == "stopped"


def test_a_round_in_which_nobody_answered() -> None:
    history = make_run(1, 2)
    nobody = replace(
        history.rounds[0],
        parts=(),
        missing=tuple(Missing(device, "failed", "gone") for device in history.models),
        loss_before=float("nan"),
        loss_after=None,
        metrics={"accuracy": float("inf")},
    )
    seen = page(replace(history, rounds=(nobody,), readings=(), initial={}))
    assert [section.attributes["id"] for section in seen.root.all("section")] == [
        "learning", "phones", "missing", "time", "rounds", "facts", "config"
    ]  # fmt: skip


def test_numbers_that_are_none_draw_nothing_odd() -> None:
    history = make_run(3, 1)
    readings = (Reading("A", 1.0, None, None, None), Reading("A", 1.0, float("nan"), float("inf"), "strange"))
    html = run_page(replace(history, readings=readings), version="0.1.0")
    assert not re.search(r'[ "(]-?(nan|inf)[ ")]', html)


def test_a_private_run_says_how_private_and_what_that_is_not() -> None:
    spent = PrivacySpent(3.07, 1e-5, 1.5, 0.1, 0.25, 40)
    found = run_page(replace(make_run(3, 2), privacy=spent), version="0.1.0")
    section = next(each for each in Page(found).root.all("section") if each.attributes["id"] == "privacy")
    told = " ".join(each.text for each in section.all())
    for words in ("3.07", "1e-05", "40", "0.25", "whole shard", "have no noise"):
        assert words in told
    assert 'id="privacy"' not in run_page(make_run(3, 2), version="0.1.0")

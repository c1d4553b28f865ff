"""``devicelab runs`` from outside."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from devicelab.store.records import JobState
from tests.cli.command import devicelab, document
from tests.report.ledgers import begin_round, begin_run, finish_run, plan_job
from tests.report.pages import Page

LISTED = {"run", "experiment", "state", "reason", "rounds", "rounds_wanted", "started", "directory"}
SHOWN = {
    "privacy",
    "run", "experiment", "state", "reason", "started", "ended", "rounds_wanted", "seed", "plan_sha256",
    "versions", "initial_metrics", "rounds", "directory", "checkpoint", "report",
}  # fmt: skip
ROUND = {
    "round", "state", "reason", "devices", "clients", "examples", "loss_before", "loss_after", "metrics",
    "seconds", "bytes_sent", "bytes_received", "excluded",
}  # fmt: skip


@pytest.fixture
def state(own_home: Path) -> Path:
    return own_home / "state"


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below with its bytes and its time; without SQLite's working files, which hold nothing."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file() and path.suffix not in {".sqlite-wal", ".sqlite-shm"}
    }


def test_no_run_at_all() -> None:
    assert document("runs", "list") == {"runs": []}
    assert "run-round" in devicelab("runs", "list").stdout
    assert "run-round" in devicelab("runs", "show", code=2).stderr


def test_the_list_has_the_newest_first(state: Path) -> None:
    old, new = finish_run(state, rounds=2, age=60), finish_run(state)
    first, second = document("runs", "list")["runs"]
    assert set(first) == LISTED
    assert (first["run"], first["directory"], first["started"]) == (
        new.name, str(new), "2027-01-15T08:00:00.000+00:00"
    )  # fmt: skip
    assert [(each["state"], each["rounds"], each["rounds_wanted"]) for each in (first, second)] == [
        ("done", 3, 3), ("stopped", 2, 3)
    ]  # fmt: skip
    lines = devicelab("runs", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["RUN", new.name, old.name]
    assert lines[1].split()[1:6] == ["digits", "done", "3", "of", "3"]


def test_a_damaged_run_spoils_only_its_own_line(state: Path) -> None:
    good, bad = finish_run(state), finish_run(state, age=5)
    (bad / "ledger.sqlite").write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    listed = {each["run"]: each for each in document("runs", "list")["runs"]}
    assert listed[good.name]["state"] == "done"
    assert (listed[bad.name]["state"], listed[bad.name]["experiment"]) == ("damaged", None)
    assert "damaged" in listed[bad.name]["reason"]
    assert bad.name in devicelab("runs", "list").stdout
    told = document("runs", "show", bad.name, code=2)["error"]
    assert told["kind"] == "StoreError"
    assert told["hint"]


def test_show_tells_every_round(state: Path) -> None:
    directory = finish_run(state)
    shown = document("runs", "show")
    assert set(shown) == SHOWN
    assert [set(each) for each in shown["rounds"]] == [ROUND] * 3
    assert (shown["run"], shown["state"], shown["seed"], shown["report"]) == (directory.name, "done", 7, None)
    assert Path(shown["checkpoint"]).is_file()
    last = shown["rounds"][-1]
    assert (last["devices"], last["clients"], last["bytes_sent"]) == (2, 4, 9000)
    assert last["metrics"] == pytest.approx({"accuracy": 0.73, "eval/accuracy": 0.83, "test/accuracy": 0.63})
    assert last["excluded"][0] == {
        "device": "liar",
        "reason": "weight: 3 values are not finite",
        "how": "rejected",
        "clients": ["liar.0", "liar.1"],
    }


def test_show_in_words(state: Path) -> None:
    directory = finish_run(state)
    said = devicelab("runs", "show").stdout
    lines = said.splitlines()
    assert lines[0].startswith(f"{directory.name} · digits · done · 3 of 3 rounds")
    assert lines[2].split()[4:9] == ["LOSS", "EVAL/ACCURACY", "TEST/ACCURACY", "ACCURACY", "TIME"]
    assert lines[3].split()[:8] == ["1", "done", "2", "4", "0.8000", "0.8100", "0.6100", "0.7100"]
    assert "hot: excluded in rounds 1–2: battery at 47.0 °C, the limit is 45 °C" in lines
    assert "liar: rejected in round 3: weight: 3 values are not finite" in lines
    assert "good, 1 client: excluded in round 3: shard is damaged" in lines


def test_show_on_a_narrow_terminal_has_fewer_metrics_and_cuts_no_number(state: Path) -> None:
    finish_run(state)
    lines = devicelab("runs", "show", COLUMNS="80").stdout.splitlines()
    assert "".join(lines[2].split()) == "ROUNDSTATEPHONESCLIENTSLOSSEVAL/ACCURACYTIMESENTRECEIVED"
    assert not any("…" in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert "left out, as the terminal is narrow: TEST/ACCURACY, ACCURACY" in lines


def test_the_list_on_a_narrow_terminal_cuts_nothing(state: Path) -> None:
    ids = [finish_run(state, rounds=1).name, finish_run(state, age=60).name]
    lines = devicelab("runs", "list", COLUMNS="66").stdout.splitlines()
    assert lines[0].split() == ["RUN", "STATE", "ROUNDS", "STARTED"]
    assert [line.split()[0] for line in lines[1:3]] == ids
    assert [line.split()[1:5] for line in lines[1:3]] == [["stopped", "1", "of", "3"], ["done", "3", "of", "3"]]
    assert "left out, as the terminal is narrow: EXPERIMENT" in lines
    assert not any("…" in line for line in lines)


def test_show_says_whose_loss_it_is(state: Path) -> None:
    finish_run(state)
    assert "\nLOSS is that of the clients' models after local training" in devicelab("runs", "show").stdout


def test_a_run_is_named_by_the_beginning_of_its_id(state: Path) -> None:
    old, new = finish_run(state, rounds=1, age=86_400), finish_run(state)
    assert document("runs", "show", old.name[:15])["run"] == old.name
    assert document("runs", "show", new.name)["run"] == new.name
    several = devicelab("runs", "show", "digits", code=2).stderr
    assert old.name in several
    assert new.name in several
    assert new.name in devicelab("runs", "show", "mnist", code=2).stderr


def test_the_report_stands_in_the_run(state: Path) -> None:
    directory = finish_run(state)
    path = Path(devicelab("runs", "report").stdout.strip())
    assert path == directory / "report.html"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    page = Page(path.read_text())
    assert [row[0] for row in page.table("rounds")] == ["round", "1", "2", "3"]
    assert page.table("missing")[1] == [
        "good", "good.9", "3", "excluded", "shard is damaged"
    ]  # fmt: skip
    assert document("runs", "show")["report"] == str(path)
    assert document("runs", "report", directory.name) == {"run": directory.name, "report": str(path)}


def test_a_copy_is_read_and_left_as_it_is(state: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.move(finish_run(state), copy)
    before = contents(copy)
    out = tmp_path / "out.html"
    assert document("runs", "report", str(copy), "-o", str(out))["report"] == str(out)
    assert document("runs", "show", str(copy))["state"] == "done"
    assert contents(copy) == before
    assert "<h2>Learning</h2>" in out.read_text()


def test_a_run_that_is_being_written_can_be_looked_at(state: Path) -> None:
    with begin_run(state) as run:
        begin_round(run, 1, ["good"])
        job = plan_job(run, 1, "good")
        assert document("runs", "list")["runs"][0]["state"] == "running"
        assert document("runs", "show")["rounds"][0]["state"] == "open"
        assert "running" in Path(devicelab("runs", "report").stdout.strip()).read_text()
        run.ledger.end_job(job, JobState.FAILED, "gone")
        run.ledger.fail_round(1, "nobody answered")
    shown = devicelab("runs", "show").stdout
    assert "round 1: nobody answered" in shown
    assert "good: failed in round 1: gone" in shown
    assert "nobody answered" in devicelab("runs", "list").stdout


def test_where_the_report_cannot_be_written(state: Path, tmp_path: Path) -> None:
    finish_run(state)
    nowhere = tmp_path / "no" / "report.html"
    told = document("runs", "report", "-o", str(nowhere), code=2)["error"]
    assert str(nowhere) in told["message"]
    assert "--output" in told["hint"]
    assert list(tmp_path.iterdir()) == []

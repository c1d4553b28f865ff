"""One run's directory: whole or not there, one writer, nothing left over, nothing lost."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from devicelab.errors import StoreError, UpdateError
from devicelab.store import blobs
from devicelab.store.records import JobState, RoundState
from devicelab.store.run import LEDGER, Run, RunReader
from tests.store.making import EXPERIMENT, PLAN, begin, facts, files_of, make_run, model

FIRST = {"experiment.yaml", "plan/plan.onnx"}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with make_run(tmp_path / "runs" / "digits-1") as made:
        yield made


def test_a_new_run_holds_what_it_takes_to_repeat_it(run: Run) -> None:
    assert files_of(run.path) == FIRST
    assert (run.path / "experiment.yaml").read_text() == EXPERIMENT
    assert (run.path / "plan" / "plan.onnx").read_bytes() == PLAN
    assert run.verify() == []
    point = run.resume_point()
    assert (point.next_round, point.round, point.checkpoint) == (1, None, None)


def test_nobody_else_on_this_host_reads_a_run(run: Run) -> None:
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700


def test_a_run_is_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = tmp_path / "runs"
    make_run(parent / "r").close()
    with pytest.raises(StoreError, match="cannot make the run r"):
        make_run(parent / "r")
    with pytest.raises(ValueError, match="no name"):
        Run.create(
            parent / "q",
            name="q",
            seed=1,
            experiment="",
            plan_sha256="0" * 64,
            plan_files={"../plan.onnx": b""},
            versions={},
        )

    def disk_full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(StoreError, match="No space left") as caught:
        make_run(parent / "s")
    assert "free some space" in str(caught.value.hint)
    assert os.listdir(parent) == ["r"]  # noqa: PTH208 - names


def test_an_update_is_kept_by_its_content_and_its_file_is_used_up(run: Run, tmp_path: Path) -> None:
    first, second = begin(run)
    pulled, elsewhere = run.incoming(first), tmp_path / "elsewhere"
    pulled.write_bytes(b"one")
    elsewhere.write_bytes(b"two")
    one = run.record_update(first, pulled, [facts("A0"), facts("A1")])
    two = run.record_update(second, elsewhere, [facts("B0"), facts("B1")], sha256=blobs.sha256_of(elsewhere))
    assert not pulled.exists()
    assert elsewhere.read_bytes() == b"two"
    assert (run.blobs.read(one), run.blobs.read(two)) == (b"one", b"two")
    assert files_of(run.path) >= {f"blobs/{one[:2]}/{one}", f"blobs/{two[:2]}/{two}"}
    assert list(run.blobs.incoming.iterdir()) == []


def test_devices_that_send_the_same_bytes_share_a_blob(run: Run) -> None:
    for job in begin(run):
        run.record_update(job, b"the same", [facts(f"{job[-1]}0"), facts(f"{job[-1]}1")])
    assert len(list(run.path.glob("blobs/*/*"))) == 1
    assert len(run.ledger.updates(accepted=True)) == 4


def test_a_refused_update_leaves_no_file_but_does_not_take_another_ones(run: Run, tmp_path: Path) -> None:
    first, second = begin(run)
    run.record_update(first, b"one", [facts("A0"), facts("A1")])
    before = files_of(run.path)
    for content in (b"one", b"two"):
        with pytest.raises(UpdateError, match="counted"):
            run.record_update(second, content, [facts("B0"), facts("A1")])
        pulled = run.incoming(second)
        pulled.write_bytes(content)
        with pytest.raises(UpdateError, match="counted"):
            run.record_update(second, pulled, [facts("B0"), facts("A1")])
    assert files_of(run.path) == before
    with pytest.raises(StoreError, match="cannot store"):
        run.record_update(second, tmp_path / "missing", [facts("B0")])


def test_a_model_and_the_servers_memory_come_back_bit_for_bit(run: Run) -> None:
    begin(run)
    memory = {"m/param/w": np.full((10, 3), 0.5, np.float32)}
    record = run.save_checkpoint(1, model(2.0), memory)
    assert run.ledger.checkpoint() == record
    found = run.load_checkpoint(record)
    assert {name: tensor.tobytes() for name, tensor in found.items()} == {
        name: tensor.tobytes() for name, tensor in model(2.0).items()
    }
    assert run.load_server_state(record)["m/param/w"].tolist() == memory["m/param/w"].tolist()
    initial = run.ledger.checkpoint(0)
    assert initial is not None
    assert run.load_server_state(initial) == {}
    for other, state in ((model(3.0), memory), (model(2.0), {})):
        with pytest.raises(ValueError, match="another checkpoint already"):
            run.save_checkpoint(1, other, state)
    with pytest.raises(ValueError, match="round 3 is not next"):
        run.save_checkpoint(3, model(3.0))
    with pytest.raises(KeyError, match="round 2"):
        run.save_checkpoint(2, model(3.0))
    assert run.sweep() == []


def test_the_same_experiment_in_another_run_makes_the_same_files(tmp_path: Path) -> None:
    found = []
    for name in ("digits-1", "digits-2"):
        with make_run(tmp_path / name) as run:
            begin(run)
            found.append(run.save_checkpoint(1, model(2.0), {"m/w": np.ones(3)}))
    assert (found[0].sha256, found[0].server_state) == (found[1].sha256, found[1].server_state)


def test_where_a_run_stands(run: Run) -> None:
    first, second = begin(run)
    run.ledger.advance_round(1, RoundState.TRAINING)
    run.ledger.advance_job(first, JobState.DONE)
    run.record_update(first, b"one", [facts("A0"), facts("A1")])
    run.ledger.advance_job(second, JobState.STARTED)
    point = run.resume_point()
    assert point.round is not None
    assert (point.next_round, point.round.state) == (1, RoundState.TRAINING)
    assert point.checkpoint is not None
    assert point.checkpoint.round == 0
    assert [job.id for job in point.outstanding] == [first, second]
    assert point.counted == {"A0", "A1"}
    run.ledger.advance_job(first, JobState.REMOVED)
    run.ledger.end_job(second, JobState.FAILED, "the phone is gone")
    point = run.resume_point()
    assert point.outstanding == ()
    assert [job.id for job in point.leftovers] == [second]
    run.save_checkpoint(1, model(1.0))
    point = run.resume_point()
    assert (point.next_round, point.round, point.counted) == (2, None, frozenset())
    assert [job.id for job in point.leftovers] == [second]


def test_what_a_crash_left_is_swept_away_at_the_next_opening(run: Run) -> None:
    first, _ = begin(run)
    run.record_update(first, b"one", [facts("A0"), facts("A1")])
    before = files_of(run.path)
    orphan = run.blobs.put(b"nobody knows me")
    half = run.blobs.path(orphan).with_name(f".{orphan}.abc.part")
    half.write_bytes(b"hal")
    (run.path / "checkpoints" / "round-0001.safetensors").write_bytes(b"not recorded")
    (run.path / "checkpoints" / ".round-0001.safetensors.xyz.part").write_bytes(b"no")
    run.incoming("r1-B").write_bytes(b"on its way")
    assert len(run.sweep()) == 4
    assert files_of(run.path) == before | {"incoming/r1-B.safetensors"}
    run.close()
    with Run(run.path) as again:
        assert files_of(again.path) == before
        assert again.verify() == []


def test_updates_of_finished_rounds_can_be_forgotten(run: Run) -> None:
    first, second = begin(run)
    kept = run.record_update(first, b"kept", [facts("A0"), facts("A1")])
    run.record_update(second, b"only here", [facts("B0"), facts("B1")])
    memory = run.save_checkpoint(1, model(1.0), {"m/w": np.ones(3)}).server_state
    again, _ = begin(run, 2)
    run.record_update(again, b"kept", [facts("A0"), facts("A1")])
    run.ledger.forget_updates(1)
    run.sweep()
    assert {path.name for path in run.path.glob("blobs/*/*")} == {kept, memory}
    assert [update.kept for update in run.ledger.updates()] == [False] * 4 + [True] * 2
    assert run.verify() == []


RELEASE = {
    "sampling": 0.5,
    "expected": 2.0,
    "clip_norm": 0.1,
    "noise_multiplier": 1.0,
    "delta": 1e-5,
    "epsilon": 3.5,
}


def test_a_round_has_one_noisy_mean_and_keeps_it_until_its_model_is_there(run: Run) -> None:
    begin(run)
    mean = {"param/w": np.arange(6, dtype=np.float32)}
    assert run.ledger.spent() is None
    record = run.record_release(1, mean, **RELEASE)
    with pytest.raises(ValueError, match="UNIQUE"):
        run.record_release(1, {"param/w": np.zeros(6, np.float32)}, **RELEASE)
    run.sweep()
    assert np.array_equal(run.load_release(record)["param/w"], mean["param/w"])
    assert run.ledger.releases() == [record]
    assert (run.ledger.release(1), run.ledger.release(2)) == (record, None)
    run.save_checkpoint(1, model(1.0))
    run.ledger.forget_updates(1)
    run.sweep()
    assert not run.blobs.path(record.blob).exists()
    assert run.verify() == []
    spent = run.ledger.spent()
    assert spent is not None
    assert (spent.epsilon, spent.rounds, spent.clip_norm, spent.sampling) == (3.5, 1, 0.1, 0.5)
    with pytest.raises(ValueError, match="round"):
        run.record_release(1, mean, **RELEASE)


def test_an_epsilon_without_end_is_no_number_in_json(run: Run) -> None:
    begin(run)
    run.record_release(1, model(), **{**RELEASE, "epsilon": float("inf")})
    spent = run.ledger.spent()
    assert spent is not None
    assert spent.epsilon == float("inf")
    assert spent.document()["epsilon"] is None


def test_a_secret_is_for_its_owner_and_another_will_not_do(tmp_path: Path) -> None:
    made = [make_run(tmp_path / name, secret=True) for name in ("one", "two")]
    secrets = [each.secret() for each in made]
    assert secrets[0] != secrets[1]
    assert {len(secret) for secret in secrets} == {32}
    for path, mode in ((made[0].path, 0o700), (made[0].path / "secret", 0o600)):
        assert path.stat().st_mode & 0o777 == mode
    (made[0].path / "secret").write_bytes(b"short")
    with pytest.raises(StoreError, match="damaged"):
        made[0].secret()
    (made[1].path / "secret").unlink()
    with pytest.raises(StoreError, match="secret"):
        made[1].secret()
    for each in made:
        each.close()


def test_missing_and_damaged_files_are_found(run: Run) -> None:
    first, _ = begin(run)
    blob = run.record_update(first, b"one", [facts("A0"), facts("A1")])
    checkpoint = run.save_checkpoint(1, model(1.0), {"m/w": np.ones(3)})
    run.blobs.path(blob).write_bytes(b"0ne")
    run.checkpoint_path(checkpoint).unlink()
    (run.path / "plan" / "plan.onnx").write_bytes(b"another plan")
    assert checkpoint.server_state is not None
    run.blobs.path(checkpoint.server_state).unlink()
    problems = run.verify()
    assert len(problems) == 4
    assert sum(problem.endswith("is damaged") for problem in problems) == 2
    for deed in (
        lambda: run.blobs.read(blob),
        lambda: run.load_server_state(checkpoint),
        lambda: run.load_checkpoint(checkpoint),
    ):
        with pytest.raises(StoreError):
            deed()
    run.checkpoint_path(checkpoint).write_bytes(b"short")
    with pytest.raises(StoreError, match="is damaged"):
        run.load_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["", "x", "ab" * 31, "../" * 21 + "x", "AB" * 32])
def test_only_a_sha256_names_a_blob(run: Run, name: str) -> None:
    with pytest.raises(ValueError, match="no SHA-256"):
        run.blobs.path(name)


def test_a_run_can_be_copied_moved_and_read_elsewhere(run: Run, tmp_path: Path) -> None:
    first, _ = begin(run)
    run.record_update(first, b"one", [facts("A0"), facts("A1")])
    run.save_checkpoint(1, model(1.0))
    run.close()
    shutil.copytree(run.path, tmp_path / "elsewhere" / "copy")
    shutil.rmtree(run.path)
    with RunReader(tmp_path / "elsewhere" / "copy") as reader:
        assert reader.verify() == []
        assert reader.ledger.run().id == "digits-1"
        checkpoint = reader.ledger.checkpoint()
        assert checkpoint is not None
        assert reader.load_checkpoint(checkpoint)["param/b"] == 1.0
    with Run(tmp_path / "elsewhere" / "copy") as writer:
        begin(writer, 2)


def test_one_writes_and_the_other_is_told_who(run: Run) -> None:
    with pytest.raises(StoreError, match=rf"digits-1 is in use by process {os.getpid()} .* since \d") as caught:
        Run(run.path)
    assert "looked at meanwhile" in str(caught.value.hint)
    other = f"from devicelab.store.run import Run; from pathlib import Path; Run(Path({str(run.path)!r}))"
    ended = subprocess.run(
        [sys.executable, "-c", other], capture_output=True, text=True, check=False, timeout=120
    )
    assert f"in use by process {os.getpid()}" in ended.stderr
    with RunReader(run.path) as reader:
        assert reader.ledger.run().name == "digits"
    run.close()
    run.close()
    with Run(run.path):
        pass
    (run.path / "lock").write_bytes(b"nonsense")
    with Run(run.path):
        pass


def test_a_writer_that_cannot_open_the_ledger_lets_go_of_the_lock(run: Run) -> None:
    run.close()
    content = (run.path / LEDGER).read_bytes()
    (run.path / LEDGER).write_bytes(b"damaged" * 1000)
    with pytest.raises(StoreError, match="damaged"):
        Run(run.path)
    (run.path / LEDGER).write_bytes(content)
    with Run(run.path):
        pass


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk that is full beyond that (RLIMIT_FSIZE; Python ignores its signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_the_run_in_words_and_loses_nothing(run: Run) -> None:
    first, second = begin(run)
    run.record_update(first, b"one", [facts("A0"), facts("A1")])
    big, before = os.urandom(500_000), files_of(run.path)
    run.incoming(second).write_bytes(big)
    with files_of_at_most(300_000):
        with pytest.raises(StoreError, match="cannot store") as caught:
            run.record_update(second, big, [facts("B0"), facts("B1")])
        assert "free some space" in str(caught.value.hint)
        with pytest.raises(StoreError, match="cannot store"):
            run.save_checkpoint(1, model(1.0, size=50_000))
    assert run.ledger.updates(1, accepted=True)[-1].client == "A1"
    assert files_of(run.path) - {"incoming/r1-B.safetensors"} == before
    run.record_update(second, run.incoming(second), [facts("B0"), facts("B1")])
    run.save_checkpoint(1, model(1.0, size=50_000))
    assert run.verify() == []


def test_a_ledger_that_cannot_grow_says_so_and_goes_on_once_it_can(run: Run) -> None:
    begin(run)
    recorded = 0

    def fill_up() -> None:
        nonlocal recorded
        while recorded < 1000:
            run.ledger.record_event("test", f"{recorded} " + "x" * 5000)
            recorded += 1

    with (
        files_of_at_most((run.path / f"{LEDGER}-wal").stat().st_size + 50_000),
        pytest.raises(StoreError, match="cannot be written or read") as caught,
    ):
        fill_up()
    assert "free some space" in str(caught.value.hint)
    assert 0 < recorded < 1000
    assert len(run.ledger.events()) == recorded
    run.ledger.record_event("test", "and on")
    run.close()
    with Run(run.path) as again:
        assert [event.text.split()[0] for event in again.ledger.events()] == [*map(str, range(recorded)), "and"]

"""A run's directory from an experiment, and an experiment's files back from a run's directory."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np

from devicelab.config import Experiment, explain
from devicelab.config.loading import load_experiment
from devicelab.data.prepare import prepare
from devicelab.errors import ConfigError, PlanError, StoreError
from devicelab.plans.build import PlanFile, PlanFiles
from devicelab.plans.signature import Signature
from devicelab.rounds.checks import check_subtables, check_training_loss
from devicelab.rounds.guarantee import check_privacy
from devicelab.rounds.setup import Setup
from devicelab.store.checkpoints import decode_tensors, encode_tensors
from devicelab.store.run import Run, RunReader
from devicelab.store.runs import find_run, named_run, new_run_path, newest_run

__all__ = ["begin_run", "find_resumable", "find_trained", "recorded_data", "resume_run", "setup_of"]

_PACKAGES: Final = ("devicelab", "dp-accounting", "numpy", "onnx", "onnxruntime", "torch")
_FREE: Final = {
    "devices": None,
    "evaluation": None,
    "round": {"rounds", "deadline", "idle", "quorum", "retries"},
}
"""What of an experiment may change between a run's beginning and its end: nothing that the model depends on."""


def begin_run(state: Path, setup: Setup, text: str | None = None) -> Run:
    """Make a run's directory, with everything in it that is needed to repeat it, and its first model.

    Args:
        state: The state directory.
        setup: The experiment, its plan and its data.
        text: The experiment as a person wrote it; written out in full if None.

    Raises:
        StoreError: It cannot be written.
    """
    experiment, plans = setup.experiment, setup.plans
    files: dict[str, bytes | Path] = {
        "initial.safetensors": encode_tensors({name: np.asarray(a) for name, a in plans.initial.items()}),
        "data.json": json.dumps({"fingerprint": setup.shards.fingerprint}).encode(),
    }
    for kind, file in (("train", plans.train), ("evaluate", plans.evaluate)):
        if file is not None:
            files[f"{kind}.onnx"] = file.content
            files[f"{kind}.json"] = file.signature.to_json().encode()
    run = Run.create(
        new_run_path(state, experiment.name),
        name=experiment.name,
        seed=experiment.seed,
        experiment=text if text is not None else explain(experiment),
        plan_sha256=plans.train.sha256,
        plan_files=files,
        versions=_versions(),
        secret=experiment.privacy is not None,
    )
    try:
        run.save_checkpoint(0, setup.model)
    except BaseException:
        run.close()
        raise
    return run


def find_resumable(state: Path, experiment: Experiment, run: str | None = None) -> Path:
    """The directory of the run to go on with: the one that is named, else the experiment's newest.

    Raises:
        ConfigError: There is none.
    """
    if run is not None:
        return find_run(state, run)
    path = newest_run(state, experiment.name)
    if path is None:
        raise ConfigError(
            f"there is no run of {experiment.name} to go on with",
            hint="leave out --resume to begin one, or choose another --state-dir",
        )
    return path


def find_trained(state: Path, experiment: Experiment, run: str | None = None) -> Path:
    """The directory of the run whose model is meant.

    Args:
        state: The state directory.
        experiment: Whose newest run with a finished round it is, if none is named.
        run: The beginning of its id, or its directory wherever that is.

    Raises:
        ConfigError: There is none.
    """
    if run is not None:
        return named_run(state, run)
    path = newest_run(state, experiment.name, rounds=1)
    if path is None:
        begun = newest_run(state, experiment.name)
        what = f"there is no run of {experiment.name} yet"
        raise ConfigError(
            f"{what} that has finished a round" if begun is not None else what,
            hint=f"go on with it: devicelab run-round EXPERIMENT --resume --run {begun.name}"
            if begun is not None
            else "train a model first: devicelab run-round EXPERIMENT; or choose another --state-dir",
        )
    return path


def resume_run(path: Path, experiment: Experiment) -> tuple[Run, Setup]:
    """Open a run to go on with it: with the plan that it began with, and the experiment as it is now.

    Raises:
        ConfigError: The experiment says something else than it did when the run began, or its data changed.
        StoreError: Somebody else is at it, or it is damaged.
    """
    run = Run(path)
    try:
        setup = setup_of(run, experiment)
        check_training_loss(experiment, setup.plans)  # what is evaluated may have changed
        check_subtables(experiment, setup.plans, setup.shards)
        check_privacy(experiment, setup.plans.train.signature, len(setup.shards.clients))
        if run.ledger.checkpoint() is None:  # it was interrupted while it was being made
            run.save_checkpoint(0, setup.model)
        return run, setup
    except BaseException:
        run.close()
        raise


def setup_of(run: RunReader, experiment: Experiment, *, instead: str = "begin a new run") -> Setup:
    """What a run was begun with, from its directory, and the experiment as it is now.

    Args:
        run: The run.
        experiment: As it is now.
        instead: What somebody can do whose experiment or data are not the run's, for the error.

    Raises:
        ConfigError: The experiment says something else than it did when the run began, or its data changed.
        StoreError: A file that the run began with is missing or damaged.
    """
    plans, fingerprint = _plans(run), recorded_data(run)
    before = load_experiment(run.path / "experiment.yaml", directory=experiment.directory)
    _check_unchanged(run.path.name, before, experiment, instead)
    shards = prepare(experiment)
    if shards.fingerprint != fingerprint:
        raise ConfigError(f"the data are not those that the run {run.path.name} began with", hint=instead)
    return Setup(experiment, plans, shards)


def recorded_data(run: RunReader) -> str:
    """The fingerprint of the shards that a run began with.

    Raises:
        StoreError: The file that says so is missing or damaged.
    """
    with _plan_of(run):
        return str(json.loads(run.plan_file("data.json"))["fingerprint"])


def _check_unchanged(run: str, before: Experiment, now: Experiment, instead: str) -> None:
    old, new = _fixed(before), _fixed(now)
    for key, value in new.items():
        if old.get(key) != value:
            raise ConfigError(
                f"the experiment's {key} is not what it was when the run {run} began",
                hint=f"{instead}, or undo the change",
            )


def _fixed(experiment: Experiment) -> dict[str, Any]:
    """What the model depends on."""
    document = experiment.model_dump(mode="json", by_alias=True)
    for key, free in _FREE.items():
        if free is None:
            document.pop(key)
        else:
            document[key] = {name: value for name, value in document[key].items() if name not in free}
    return document


def _plans(run: RunReader) -> PlanFiles:
    files: dict[str, PlanFile] = {}
    record = run.ledger.run()
    with _plan_of(run):
        for kind in ("train", "evaluate"):
            if kind == "train" or f"{kind}.onnx" in record.files:
                signature = Signature.from_json(run.plan_file(f"{kind}.json").decode())
                files[kind] = PlanFile(run.plan_file(f"{kind}.onnx"), signature)
        if files["train"].sha256 != record.plan_sha256:
            raise ValueError("two hashes of one plan")
        name = "initial.safetensors"
        initial = decode_tensors(run.plan_file(name), run.path / "plan" / name)
    return PlanFiles(files["train"], files.get("evaluate"), initial)


@contextmanager
def _plan_of(run: RunReader) -> Iterator[None]:
    """Files that are what the ledger says and make no sense all the same: the ledger is damaged."""
    try:
        yield
    except (PlanError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"what the run {run.path.name} began with is damaged, or what its ledger says of it",
            hint="restore the run from a copy",
        ) from error


def _versions() -> Mapping[str, str]:
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

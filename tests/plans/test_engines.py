"""Plans on the oldest ONNX Runtime that the runner takes: the numbers are the same as on the newest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

from devicelab.files import cache_dir
from devicelab.plans.check import VALUE_TOLERANCE
from devicelab.plans.eager import EagerTrainer
from devicelab.plans.export import ExportedPlan
from devicelab.plans.tables import row_numbers
from devicelab.plans.zoo import ZOO
from tests.plans.conftest import feeds_of, on_rows

Array = np.ndarray[Any, Any]

_PART = "-part"  # a plan on some rows of its tables

# 1.18 is not made for Python 3.13; there, the oldest is the next best.
_OLDEST = ("onnxruntime==1.18.1", "numpy<2") if sys.version_info < (3, 13) else ("onnxruntime==1.20.1", "numpy")
_RUN = """
import json, pathlib, sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.onnx")):
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = dict(numpy.load(path.with_suffix(".npz")))
    results = session.run(None, feeds)
    numpy.savez(path.with_suffix(".out.npz"), *results)
    path.with_suffix(".json").write_text(json.dumps([o.name for o in session.get_outputs()]))
print(onnxruntime.__version__)
"""


def _old_engine() -> Path:
    """A directory with that engine in it: fetched once, kept in the cache."""
    home = cache_dir() / "test-engines" / "-".join(_OLDEST).replace("=", "").replace("<", "below")
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=home.parent) as place:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*pip, "--target", f"{place}/new", *_OLDEST], check=True, timeout=900)
            Path(place, "new").rename(home)
    return home


@pytest.mark.timeout(1000)  # a slow network is no failure
def test_every_zoo_plan_runs_on_the_oldest_engine(export: Callable[..., ExportedPlan], tmp_path: Path) -> None:
    plans = {f"{model}-sgd": export(model) for model in ZOO} | {"mlp-adam": export("mlp", "adam")}
    plans |= {f"mf-{optimizer}": export("mf", optimizer) for optimizer in ("momentum", "adam")}
    plans |= {f"{name}{_PART}": plan for name, plan in plans.items() if plan.signature.tables}
    rows: dict[str, dict[str, Array]] = {}
    for name, plan in plans.items():
        feeds = feeds_of(plan, 7, batch_seed=1)
        if name.endswith(_PART):
            rows[name] = {t: row_numbers([feeds[f"data/{t}"], np.arange(9)]) for t in plan.signature.tables}
            feeds = on_rows(plan.signature, feeds, rows[name])
        (tmp_path / f"{name}.onnx").write_bytes(plan.onnx)
        np.savez(tmp_path / f"{name}.npz", **feeds)  # type: ignore[arg-type] # names are no options
    environment = os.environ | {"PYTHONPATH": str(_old_engine())}
    command = [sys.executable, "-W", "ignore", "-c", _RUN, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == _OLDEST[0].partition("==")[2]
    for name, plan in plans.items():
        step = plan.traced.step
        truth = EagerTrainer(step).step(step.plan.random_batch(7, torch.Generator().manual_seed(1)))
        tables = {o: plan.signature.input(i).rows for o, i in plan.signature.replacements.items()}
        mine = {o: truth[o][rows[name][t]] for o, t in tables.items() if t and name in rows}
        truth |= mine
        names = json.loads((tmp_path / f"{name}.json").read_text())
        assert names == [o.name for o in plan.signature.outputs]
        with np.load(tmp_path / f"{name}.out.npz") as results:
            for output, key in zip(names, results.files, strict=True):
                if step.plan.optimizer.normalizes and output.startswith("new/param/"):
                    continue  # see test_zoo
                difference = np.max(np.abs(results[key].astype(np.float64) - truth[output]))
                most = VALUE_TOLERANCE * max(1.0, float(np.max(np.abs(truth[output]))))
                assert difference <= most, f"{name}: {output}"

"""A phone that lies: its update is rejected, the ledger says why, and the round goes on without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from devicelab.store.records import JobState
from devicelab.store.run import RunReader
from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from tests.rounds.liar import edited, lying
from tests.rounds.small import Arrays, experiment_file, lab_of, left_on

_ROUND = """
    rounds: 1
    clients: {fraction: 1.0}
    epochs: 1
    batch_size: 16
    hyper: {lr: 0.2}
    deadline: 100s
    quorum: 0.2
    retries: 1
"""


@pytest.fixture(scope="module")
def phones(module_desk: VirtualDesk) -> list[VirtualPhone]:
    return module_desk.up(["pixel", "pixel"])


def _model(change: Callable[[Arrays], object]) -> bytes:
    """A file as an update of the plan would be, and then changed."""
    shapes = {
        "param/0.weight": (128, 64),
        "param/0.bias": (128,),
        "param/2.weight": (128, 128),
        "param/2.bias": (128,),
        "param/4.weight": (10, 128),
        "param/4.bias": (10,),
    }
    arrays: Arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    change(arrays)
    return save(arrays)


def _set(name: str, array: np.ndarray[Any, Any]) -> bytes:
    return _model(lambda arrays: arrays.update({name: array}))


_MORE = r"""
n=$(tail -n 1 "$d/said" | grep -o '"client":' | wc -l)
sed -e 's/"examples":[0-9]*,"weight":[0-9.]*/"examples":99,"weight":99.0/g' \
    -e "s/\(\"done\",\"job\":\"[^\"]*\",\"examples\":\)99,\"weight\":99.0/\1ALL,\"weight\":ALL.0/" "$d/said"
"""
_FLOOD = """
head -n 1 "$d/said"
l='{"type":"progress","ms":1}'
for i in 1 2 3 4 5 6 7 8 9 10; do l="$l
$l"; done
i=0
while [ $i -lt 1000 ]; do echo "$l"; i=$((i+1)); done
tail -n 1 "$d/said"
"""

LIES: dict[str, tuple[str | bytes, str]] = {
    "NaN": (_set("param/4.bias", np.full(10, np.nan, np.float32)), "not finite"),
    "infinity": (_set("param/4.bias", np.full(10, np.inf, np.float32)), "not finite"),
    "another shape": (_set("param/4.bias", np.zeros(11, np.float32)), "'param/4.bias' is float32[11]"),
    "another type": (_set("param/4.bias", np.zeros(10, np.float64)), "not float32[10]"),
    "another name": (_model(lambda a: a.update({"param/evil": a.pop("param/4.bias")})), "lacks 'param/4.bias'"),
    "a tensor too many": (_set("param/evil", np.zeros(1, np.float32)), "not asked for"),
    "no safetensors": (b"\xff" * 1000, "no safetensors file"),
    "a huge file": (edited(r's/"bytes":[0-9]*/"bytes":99999999999/'), "more than"),
    "another file than announced": ('echo x >>"$d/update.safetensors"; cat "$d/said"', "more than"),
    "no file": ('rm "$d/update.safetensors"; cat "$d/said"', "no such file"),
    "an update for another round": (edited(r"s/-r1-/-r0-/"), "is that of job"),
    "more examples in a shard": (_MORE.replace("ALL", "$((99*n))"), "whose shard holds"),
    "more examples in all": (_MORE.replace("ALL", "$((99*n+1))"), "not the sum"),
    "fewer steps": (edited(r's/"steps":[0-9]*,"loss_first"/"steps":1,"loss_first"/g'), "was to take"),
    "a million lines": (_FLOOD, "without end"),
    "no JSON": ("echo hello; exit 0", "is not JSON"),
    "another protocol": (edited(r's/"protocol":1/"protocol":2/'), "speaks protocol 2"),
    "two results": ('cat "$d/said"; tail -n 1 "$d/said"', "more after its last line"),
    "nothing": ("exit 0", "without a result"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_rejected_and_the_round_goes_on(
    phones: list[VirtualPhone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    trick, words = LIES[lie]
    liar = phones[0]

    lying(monkeypatch, liar.address, trick, tmp_path)
    path = experiment_file(tmp_path, round=_ROUND)
    with lab_of(phones, tmp_path / "state") as lab:
        done = lab.run_round(path)
        assert [left_on(device) for device in lab.discover()] == [[], []]
    (result,) = done.rounds
    assert result.devices == 1
    (excluded,) = result.excluded
    assert excluded.device == liar.address
    assert words in excluded.reason
    with RunReader(done.directory) as run:
        states = {job.device: job for job in run.ledger.jobs(1)}
        rejected = states[liar.serial]
        assert (rejected.state, rejected.gone) == (JobState.REJECTED, True)
        assert words in rejected.reason
        refused = run.ledger.updates(1, accepted=False)
        assert {each.client for each in refused} == set(rejected.clients)
        assert {each.device for each in run.ledger.updates(1, accepted=True)} == {phones[1].serial}
        assert run.verify() == []

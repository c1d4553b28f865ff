from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.config import Experiment
from devicelab.data import prepare as module
from devicelab.data.prepare import prepare
from devicelab.data.shards import Shard, ShardSet, encode, read_shard
from devicelab.data.sources import load_source
from devicelab.errors import ConfigError, DataError


def _experiment(data: dict[str, Any], seed: int = 0) -> Experiment:
    settings = {"name": "x", "seed": seed, "plan": {"class": "a:B"}, "data": data, "round": {"rounds": 1}}
    return Experiment.model_validate_json(json.dumps(settings, default=str))


_SYNTHETIC: dict[str, Any] = {
    "source": "synthetic",
    "clients": 6,
    "examples": 20,
    "features": 3,
    "held_out": {"fraction": 0.2},
    "test": 0.1,
}


def _hashes(shards: ShardSet) -> list[str]:
    return [shard.sha256 for parts in shards.clients.values() for shard in parts.values()]


def test_shards_are_safetensors_files_named_after_their_content(tmp_path: Path) -> None:
    shards = prepare(_experiment(_SYNTHETIC), tmp_path)
    assert list(shards.clients) == [str(n) for n in range(6)]
    assert shards.test is not None
    assert shards.examples() + shards.examples("held_out") + shards.test.examples > 60
    for parts in shards.clients.values():
        for shard in parts.values():
            content = shard.path.read_bytes()
            assert shard.path.name == f"{shard.sha256}.safetensors"
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (shard.sha256, shard.size)
            tensors = read_shard(shard)
            assert tensors["x"].shape == (shard.examples, 3)
            assert tensors["label"].shape == (shard.examples,)
    assert shards.tensors["x"].shape == (3,)
    assert shards.tensors["label"].range is not None


def test_nobody_else_on_this_host_reads_shards(tmp_path: Path) -> None:
    prepare(_experiment(_SYNTHETIC), tmp_path / "cache" / "shards")
    assert stat.S_IMODE((tmp_path / "cache" / "shards").stat().st_mode) == 0o700


def test_the_same_experiment_has_the_same_bytes_anywhere(tmp_path: Path) -> None:
    one = prepare(_experiment(_SYNTHETIC), tmp_path / "one")
    two = prepare(_experiment(_SYNTHETIC), tmp_path / "two")
    assert _hashes(one) == _hashes(two)
    assert _hashes(prepare(_experiment(_SYNTHETIC, seed=1), tmp_path / "two")) != _hashes(one)


def test_a_second_time_nothing_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(_experiment(_SYNTHETIC), tmp_path)
    monkeypatch.setattr(module, "load_source", lambda *_, **__: pytest.fail("loaded again"))
    assert prepare(_experiment(_SYNTHETIC), tmp_path) == first


@pytest.mark.parametrize("damage", ["missing", "shorter", "other bytes", "no index", "bad index"])
def test_what_is_damaged_is_made_again(damage: str, tmp_path: Path) -> None:
    first = prepare(_experiment(_SYNTHETIC), tmp_path)
    victim = first.clients["3"]["train"]
    index = tmp_path / f"{first.fingerprint}.json"
    if damage == "missing":
        victim.path.unlink()
    elif damage == "shorter":
        victim.path.write_bytes(victim.path.read_bytes()[:-1])
    elif damage == "other bytes":
        victim.path.write_bytes(bytes(victim.size))
    elif damage == "no index":
        index.unlink()
    else:
        index.write_text('{"version": 1, "fingerprint": 3}')
    if damage in {"missing", "shorter", "other bytes"}:
        with pytest.raises(DataError, match="missing or damaged"):
            read_shard(victim)
    assert prepare(_experiment(_SYNTHETIC), tmp_path) == first
    read_shard(victim)
    assert not list(tmp_path.glob(".*"))


def test_one_changed_owner_is_one_changed_shard(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    rows = [f"{owner},{n}" for n in range(20) for owner in ("ann", "bo", "cy")]
    data = {
        "source": "csv",
        "path": path,
        "tensors": {"x": {"columns": "n"}},
        "partition": {"by": "natural", "key": "owner"},
        "held_out": {"fraction": 0.25},
    }
    path.write_text("\n".join(["owner,n", *rows]))
    first = prepare(_experiment(data), tmp_path / "shards")
    path.write_text("\n".join(["owner,n", *rows, "bo,99"]))
    second = prepare(_experiment(data), tmp_path / "shards")
    assert first.fingerprint != second.fingerprint
    changed = [c for c in first.clients if first.clients[c]["train"] != second.clients[c]["train"]]
    assert changed == ["bo"]


def test_a_file_may_move(tmp_path: Path) -> None:
    rows = "n\n" + "\n".join(str(n) for n in range(10))
    (tmp_path / "a.csv").write_text(rows)
    (tmp_path / "b.csv").write_text(rows)
    data = {"source": "csv", "tensors": {"x": {"columns": "n"}}, "partition": {"by": "iid", "clients": 2}}
    one, two = (
        prepare(_experiment(data | {"path": tmp_path / f"{name}.csv"}), tmp_path / "s") for name in "ab"
    )
    assert one == two


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    data = {"source": "npz", "path": tmp_path / "no.npz", "tensors": {"x": {"array": "a"}}, **_PARTITION}
    with pytest.raises(ConfigError, match=r"data.path: .*no.npz cannot be read: No such file"):
        prepare(_experiment(data), tmp_path)


@pytest.mark.parametrize("source", ["csv", "npz", "parquet", "movielens"])
def test_what_never_ends_is_not_read(tmp_path: Path, source: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    tensors: dict[str, Any] = {
        "csv": {"tensors": {"x": {"columns": "n"}}},
        "parquet": {"tensors": {"x": {"columns": "n"}}},
        "npz": {"tensors": {"x": {"array": "a"}}},
    }
    data = {"source": source, **tensors.get(source, {}), **(_PARTITION if source in tensors else {})}
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        experiment = _experiment(data | {"path": path})
        with pytest.raises(ConfigError, match=r"data\.path: .* is no regular file"):
            prepare(experiment, tmp_path / "s")
        with pytest.raises(ConfigError, match=r"data\.path: .* is no regular file"):
            load_source(experiment.data, seed=0, directory=tmp_path)


def test_a_zero_byte_is_in_no_path(tmp_path: Path) -> None:
    data = {"source": "npz", "path": "a\0b.npz", "tensors": {"x": {"array": "a"}}, **_PARTITION}
    with pytest.raises(ConfigError, match="zero byte"):
        prepare(_experiment(data), tmp_path)


_PARTITION = {"partition": {"by": "iid", "clients": 2}}


def test_datasets_of_code_are_made_anew_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "changing_dataset.py").write_text(
        "calls = []\n"
        "def make():\n"
        "    calls.append(1)\n"
        "    return [(float(n), n + len(calls)) for n in range(4)]\n"
    )
    experiment = _experiment({"source": "torch", "dataset": "changing_dataset:make", **_PARTITION})
    one, two = prepare(experiment, tmp_path / "s"), prepare(experiment, tmp_path / "s")
    assert one.fingerprint == two.fingerprint
    assert one.clients != two.clients


def test_a_disk_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="the shards cannot be written to"):
        prepare(_experiment(_SYNTHETIC), tmp_path / "file")


def test_digits_of_forty_clients(tmp_path: Path) -> None:
    data = {"source": "digits", "partition": {"by": "dirichlet", "clients": 40, "alpha": 0.5}, "test": 0.1}
    first = prepare(_experiment(data), tmp_path)
    assert first.test is not None
    assert first.examples() + first.test.examples == 1797
    assert len(first.clients) == 40
    assert first.tensors["label"].range == (0, 9)


_DTYPES = st.sampled_from(["float32", "float64", "int64", "int32", "bool"])


_NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@given(dtypes=st.dictionaries(_NAMES, _DTYPES, min_size=1, max_size=4), examples=st.integers(1, 9))
def test_encoding_is_deterministic_and_loses_nothing(
    dtypes: dict[str, str], examples: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(examples)
    tensors = {name: rng.integers(0, 2, (examples, 3)).astype(dtype) for name, dtype in dtypes.items()}
    content = encode(tensors)
    backwards = {name: np.asfortranarray(tensors[name]) for name in reversed(tensors)}
    assert encode(backwards) == content
    big = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in tensors.items()}
    assert encode(big) == content
    path = tmp_path_factory.mktemp("shard") / "x.safetensors"
    path.write_bytes(content)
    found = read_shard(Shard(path, hashlib.sha256(content).hexdigest(), len(content), examples))
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_the_layout_of_a_shard_is_fixed() -> None:
    content = encode({"x": np.array([[1.0, 2.0]], np.float32), "label": np.array([3])})
    header = (
        b'{"label":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},'
        b'"x":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}}'
    )
    header += b" " * (-len(header) % 8)
    assert content == struct.pack("<Q", len(header)) + header + struct.pack("<qff", 3, 1.0, 2.0)

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from pydantic import TypeAdapter

from devicelab.config.data import DataConfig, Source
from devicelab.data.examples import Dataset
from devicelab.data.sources import load_source
from devicelab.errors import ConfigError, DataError

_CONFIG: TypeAdapter[Source] = TypeAdapter(DataConfig)
_IID = {"by": "iid", "clients": 1}


def _load(directory: Path = Path(), seed: int = 0, **settings: Any) -> Dataset:
    config = _CONFIG.validate_json(json.dumps({"partition": _IID, **settings}, default=str))
    return load_source(config, seed=seed, directory=directory)


def test_digits_come_with_a_package() -> None:
    dataset = _load(source="digits")
    assert dataset.tensors["x"].shape == (1797, 64)
    assert dataset.tensors["x"].dtype == np.float32
    assert (dataset.tensors["x"].min(), dataset.tensors["x"].max()) == (0, 1)
    assert np.bincount(dataset.tensors["label"]).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


# --- synthetic ----------------------------------------------------------------------------------------------


def test_synthetic_clients_are_the_same_however_many_there_are() -> None:
    few = _load(source="synthetic", clients=3, examples=20, features=5, partition={"by": "natural"})
    many = _load(source="synthetic", clients=9, examples=20, features=5, partition={"by": "natural"})
    assert few.owners is not None
    assert many.owners is not None
    for client in range(3):
        for name in ("x", "label"):
            ours, theirs = (d.tensors[name][d.owners == client] for d in (few, many) if d.owners is not None)
            np.testing.assert_array_equal(ours, theirs)


def test_synthetic_sizes_spread_and_labels_follow_a_truth() -> None:
    dataset = _load(source="synthetic", clients=300, examples=50, spread=1.0, classes=4)
    sizes = np.bincount(dataset.owners if dataset.owners is not None else [])
    assert len(sizes) == 300
    assert 40 < np.median(sizes) < 63
    assert 0.8 < np.std(np.log(sizes)) < 1.2
    assert set(np.unique(dataset.tensors["label"])) == {0, 1, 2, 3}
    equal = _load(source="synthetic", clients=5, examples=50, spread=0.0, alpha=0.0, beta=0.0)
    assert np.bincount(equal.owners if equal.owners is not None else []).tolist() == [50] * 5


def test_synthetic_data_larger_than_memory_are_refused() -> None:
    with pytest.raises(DataError, match="more than fit into memory"):
        _load(source="synthetic", clients=100, examples=1_000_000, features=1000)


# --- CSV and Parquet ----------------------------------------------------------------------------------------

_ROWS = "a,pixel_1,pixel_0,kind,who,flag\n1,0.5,2,cat,ann,true\n-2,1e3,4,dog,bo,false\n3,.25,6,cat,ann,1\n"
_TENSORS = {
    "x": {"columns": ["pixel_*", "a"]},
    "n": {"columns": "a", "dtype": "int32"},
    "kind": {"columns": "kind", "dtype": "category"},
    "flag": {"columns": "flag", "dtype": "bool"},
}


def test_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(_ROWS + "\n")
    dataset = _load(source="csv", path=path, tensors=_TENSORS, partition={"by": "natural", "key": "who"})
    assert {name: a.tolist() for name, a in dataset.tensors.items()} == {
        "x": [[0.5, 2, 1], [1000, 4, -2], [0.25, 6, 3]],
        "n": [1, -2, 3],
        "kind": [0, 1, 0],
        "flag": [True, False, True],
    }
    assert {n: a.dtype.name for n, a in dataset.tensors.items()} == {
        "x": "float32",
        "n": "int32",
        "kind": "int64",
        "flag": "bool",
    }
    assert dataset.owners is not None
    assert dataset.owners.tolist() == ["ann", "bo", "ann"]


def test_a_csv_file_with_quotes_another_delimiter_a_byte_order_mark_and_a_test_file(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b'\xef\xbb\xbf"a";kind\r\n"1.5";10\r\n2;9\r\n')
    (tmp_path / "test.csv").write_text("kind;a\n9;7\n")
    tensors = {"x": {"columns": "a"}, "kind": {"columns": "kind", "dtype": "category"}}
    dataset = _load(source="csv", path=path, test_path=tmp_path / "test.csv", tensors=tensors, delimiter=";")
    assert dataset.tensors["x"].tolist() == [1.5, 2]
    assert dataset.tensors["kind"].tolist() == [1, 0]  # as numbers: 9 before 10
    assert dataset.test is not None
    assert {name: a.tolist() for name, a in dataset.test.items()} == {"x": [7], "kind": [0]}


@pytest.mark.parametrize(
    ("text", "tensors", "error", "message"),
    [
        ("a,b\n1,2\n3\n", {"x": {"columns": "a"}}, DataError, "line 3: 1 values, the header has 2"),
        ("a,a\n1,2\n", {"x": {"columns": "a"}}, DataError, "two columns 'a'"),
        ("", {"x": {"columns": "a"}}, DataError, "is empty"),
        ("a\n", {"x": {"columns": "a"}}, DataError, "there are no examples"),
        (
            "a\n1\nx\n",
            {"x": {"columns": "a"}},
            DataError,
            "column 'a' holds 'x' (example 1, from 0), which is no float32",
        ),
        ("a,b\n,2\n", {"x": {"columns": "a"}}, DataError, "holds an empty value (example 0"),
        ("a\n1.5\n", {"x": {"columns": "a", "dtype": "int64"}}, DataError, "holds '1.5'"),
        ("a\n3000000000\n", {"x": {"columns": "a", "dtype": "int32"}}, DataError, "which is no int32"),
        ("a\n9" + "9" * 20 + "\n", {"x": {"columns": "a", "dtype": "int64"}}, DataError, "which is no int64"),
        ("a\nmaybe\n", {"x": {"columns": "a", "dtype": "bool"}}, DataError, "'maybe'"),
        ("a\nnan\n", {"x": {"columns": "a"}}, DataError, "'x' is NaN or infinite in 1 of 1 examples"),
        ("a\n1e60\n", {"x": {"columns": "a"}}, DataError, "'x' is NaN or infinite"),
        ('a\n"x\n', {"x": {"columns": "a"}}, DataError, "no CSV file"),
        ("abc\n1\n", {"x": {"columns": "abd"}}, ConfigError, "has no column 'abd'; did you mean 'abc'?"),
        ("a\n1\n", {"x": {"columns": ["p_*"]}}, ConfigError, "data.tensors.x.columns"),
        ("a\n1\n", {"x": {"columns": ["a"], "dtype": "category"}}, ConfigError, "a category is one column"),
    ],
)
def test_what_is_wrong_with_a_csv_file(
    text: str, tensors: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text)
    with np.errstate(over="ignore"), pytest.raises(error) as caught:
        _load(source="csv", path=path, tensors=tensors)
    assert message in str(caught.value)


def test_a_csv_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    tensors = {"x": {"columns": "a"}}
    with pytest.raises(ConfigError, match=r"data.path: .* cannot be read: No such file"):
        _load(source="csv", path=tmp_path / "none.csv", tensors=tensors)
    (tmp_path / "bin.csv").write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(DataError, match="no CSV file in UTF-8"):
        _load(source="csv", path=tmp_path / "bin.csv", tensors=tensors)


def test_a_test_file_with_an_unknown_category(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("k\ncat\ndog\n")
    (tmp_path / "b.csv").write_text("k\ncow\n")
    tensors = {"label": {"columns": "k", "dtype": "category"}}
    with pytest.raises(DataError, match="holds cow, which is none of its 2 categories"):
        _load(source="csv", path=tmp_path / "a.csv", test_path=tmp_path / "b.csv", tensors=tensors)


def test_a_key_that_is_no_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("owner,x\na,1\n")
    with pytest.raises(ConfigError, match=r"data.partition.key: .* has no column 'ownr'; did you mean 'owner'"):
        _load(
            source="csv",
            path=tmp_path / "a.csv",
            tensors={"x": {"columns": "x"}},
            partition={"by": "natural", "key": "ownr"},
        )


def test_a_parquet_file(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "data.parquet"
    columns = {
        "a": pa.array([1, -2, 3], pa.int16()),
        "pixel_1": pa.array([0.5, 1000, 0.25], pa.float64()),
        "pixel_0": [2, 4, 6],
        "kind": ["cat", "dog", "cat"],
        "who": [7, 8, 7],
        "flag": [True, False, True],
    }
    parquet.write_table(pa.table(columns), path)
    dataset = _load(source="parquet", path=path, tensors=_TENSORS, partition={"by": "natural", "key": "who"})
    assert {name: a.tolist() for name, a in dataset.tensors.items()} == {
        "x": [[0.5, 2, 1], [1000, 4, -2], [0.25, 6, 3]],
        "n": [1, -2, 3],
        "kind": [0, 1, 0],
        "flag": [True, False, True],
    }
    assert dataset.owners is not None
    assert dataset.owners.tolist() == [7, 8, 7]


def test_what_is_wrong_with_a_parquet_file(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "data.parquet"
    parquet.write_table(pa.table({"a": pa.array([1, None]), "l": [[1], [2]], "f": [1.5, 2.0]}), path)
    for column, dtype, message in (
        ("a", "float32", "lacks 1 of 2 values"),
        ("l", "float32", "neither numbers nor text"),
        ("f", "int64", r"holds 1.5 \(example 0, from 0\), which is no int64"),
    ):
        with pytest.raises(DataError, match=message):
            _load(source="parquet", path=path, tensors={"x": {"columns": column, "dtype": dtype}})
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="no Parquet file"):
        _load(source="parquet", path=path, tensors={"x": {"columns": "a"}})
    with pytest.raises(ConfigError, match="cannot be read"):
        _load(source="parquet", path=tmp_path / "none.parquet", tensors={"x": {"columns": "a"}})


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="needs the pyarrow package") as caught:
        _load(source="parquet", path=tmp_path / "x.parquet", tensors={"x": {"columns": "a"}})
    assert caught.value.hint == "pip install 'devicelab[parquet]'"


# --- NPZ ----------------------------------------------------------------------------------------------------


def test_an_npz_file(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    images = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    np.savez(path, images=images, y=np.array([1, 0, 2]), who=np.array(["b", "a", "b"]), more=np.zeros(5))
    tensors = {"x": {"array": "images", "dtype": "float32"}, "label": {"array": "y"}}
    dataset = _load(
        source="npz", path=path, test_path=path, tensors=tensors, partition={"by": "natural", "key": "who"}
    )
    np.testing.assert_array_equal(dataset.tensors["x"], images.astype(np.float32))
    assert dataset.tensors["label"].dtype == np.int64
    assert dataset.owners is not None
    assert dataset.owners.tolist() == ["b", "a", "b"]
    assert dataset.test is not None
    np.testing.assert_array_equal(dataset.test["x"], images)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((2, 2), np.uint8)}, "'x' holds uint8, plans take"),
        ({"a": np.zeros((0, 2), np.float32)}, "no examples"),
        ({"a": np.zeros((2, 0), np.float32)}, r"empty shape \[2, 0\]"),
        ({"a": np.float32(1)}, "0 dimensions"),
        ({"a": np.array([1, np.nan], np.float32)}, r"NaN or infinite in 1 of 2 examples, first in number 1"),
        ({"a": np.zeros(2, np.complex64)}, "complex64"),
        ({"a": np.array([object()])}, "cannot be loaded"),
    ],
)
def test_arrays_that_cannot_be_tensors(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message):
        _load(source="npz", path=path, tensors={"x": {"array": "a"}})


def test_npz_files_that_are_none(tmp_path: Path) -> None:
    tensors = {"x": {"array": "a"}}
    path = tmp_path / "data.npz"
    np.savez(path, abc=np.zeros(2))
    with pytest.raises(ConfigError, match=r"data.tensors.x.array: .* has no array 'a'"):
        _load(source="npz", path=path, tensors=tensors)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged"):
        _load(source="npz", path=path, tensors=tensors)
    np.save(tmp_path / "single.npy", np.zeros(2))
    with pytest.raises(DataError, match="no NPZ file"):
        _load(source="npz", path=tmp_path / "single.npy", tensors=tensors)
    with pytest.raises(ConfigError, match="cannot be read"):
        _load(source="npz", path=tmp_path / "none.npz", tensors=tensors)


def test_ragged_arrays_and_owners_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, a=np.zeros(2, np.float32), b=np.zeros(3, np.float32), who=np.zeros(2))
    with pytest.raises(DataError, match="different numbers of examples: x 2, y 3"):
        _load(source="npz", path=path, tensors={"x": {"array": "a"}, "y": {"array": "b"}})
    with pytest.raises(DataError, match="names no owners"):
        _load(source="npz", path=path, tensors={"x": {"array": "a"}}, partition={"by": "natural", "key": "who"})


def test_a_test_set_of_another_shape(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros((2, 3), np.float32))
    np.savez(tmp_path / "b.npz", a=np.zeros((2, 4), np.float32))
    with pytest.raises(
        DataError, match=r"the test set has other tensors: x float32\[4\] and not x float32\[3\]"
    ):
        _load(
            source="npz", path=tmp_path / "a.npz", test_path=tmp_path / "b.npz", tensors={"x": {"array": "a"}}
        )


# --- datasets by dotted path --------------------------------------------------------------------------------

_DATASETS = """\
import torch
from torch.utils.data import Dataset, TensorDataset

class Pairs(Dataset):
    def __init__(self, size, train=True):
        self.size, self.train = size, train

    def __len__(self):
        return self.size if self.train else 2

    def __getitem__(self, n):
        return torch.full((2,), float(n)), n % 3

class Named(Pairs):
    def __getitem__(self, n):
        return {"x": torch.tensor(n / 2), "seen": n > 1, "who": ["ann", "bo"][n % 2], "rate": 0.5 * n}

class Ragged(Pairs):
    def __getitem__(self, n):
        return torch.zeros(n + 1), 0

class Changing(Pairs):
    def __getitem__(self, n):
        return {"x": 1} if n == 0 else {"y": 1}

class Broken(Pairs):
    def __getitem__(self, n):
        return 1 / n, 0

def tensors():
    return TensorDataset(torch.arange(6).reshape(3, 2).float(), torch.tensor([0, 1, 2]))

def no_dataset():
    return iter([1])
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    name = f"datasets_{uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(_DATASETS)
    yield name
    sys.modules.pop(name, None)


def test_a_dataset_of_pairs_with_a_test_set(module: str, tmp_path: Path) -> None:
    args = {"size": 4}
    dataset = _load(
        tmp_path, source="torch", dataset=f"{module}:Pairs", args=args, test_args={"size": 4, "train": False}
    )
    assert dataset.tensors["x"].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert dataset.tensors["label"].tolist() == [0, 1, 2, 0]
    assert (dataset.tensors["x"].dtype, dataset.tensors["label"].dtype) == (np.float32, np.int64)
    assert dataset.test is not None
    assert dataset.test["label"].tolist() == [0, 1]


def test_a_dataset_of_mappings_with_owners(module: str, tmp_path: Path) -> None:
    dataset = _load(
        tmp_path,
        source="torch",
        dataset=f"{module}:Named",
        args={"size": 3},
        partition={"by": "natural", "key": "who"},
    )
    assert {n: (a.dtype.name, a.tolist()) for n, a in dataset.tensors.items()} == {
        "x": ("float32", [0, 0.5, 1]),
        "seen": ("bool", [False, False, True]),
        "rate": ("float32", [0, 0.5, 1]),
    }
    assert dataset.owners is not None
    assert dataset.owners.tolist() == ["ann", "bo", "ann"]


def test_pytorchs_own_dataset_made_by_a_function(module: str, tmp_path: Path) -> None:
    dataset = _load(tmp_path, source="torch", dataset=f"{module}:tensors", names=("a", "b"))
    assert dataset.tensors["a"].tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("Ragged", {"args": {"size": 2}}, r"example 1: 'x' is float32\[2\], the first is float32\[1\]"),
        ("Changing", {"args": {"size": 2}}, "example 1 holds y, the first x"),
        ("Pairs", {"args": {"size": 2}, "names": ("a", "b", "c")}, "example 0 has 2 parts, but data.names 3"),
        ("Broken", {"args": {"size": 2}}, r"example 0: ZeroDivisionError: .* \(.*datasets_.*, line [0-9]+\)"),
        ("Pairs", {"args": {"size": 0}}, "no tensors"),
        (
            "Pairs",
            {"args": {"size": 2}, "partition": {"by": "natural", "key": "who"}},
            "yields no 'who', only x",
        ),
        ("no_dataset", {}, "which has no length or no items"),
    ],
)
def test_datasets_that_cannot_be_used(
    name: str, settings: dict[str, Any], message: str, module: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        _load(tmp_path, source="torch", dataset=f"{module}:{name}", **settings)


def test_arguments_of_the_test_set_are_named_in_errors(module: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.test_args.sise: .* did you mean 'size'"):
        _load(tmp_path, source="torch", dataset=f"{module}:Pairs", args={"size": 2}, test_args={"sise": 1})

"""Small made-up files in the real formats; and once the real data, with pip."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devicelab.config.data import MovieLensData, NaturalPartition
from devicelab.data.sources import movielens
from devicelab.data.sources.movielens import MovieLens, fetch, load, read_movielens
from devicelab.errors import ConfigError, DataError

# Users 10, 7 and 300; films 50, 8 and 600; not in the order of time.
_RATINGS = [(10, 50, 4, 100), (7, 8, 3, 90), (10, 8, 5, 50), (300, 600, 1, 70), (10, 600, 2, 100)]


def _u_data(directory: Path) -> Path:
    path = directory / "u.data"
    path.write_text("".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in _RATINGS))
    lines = ["8|Léon (1994)|01-Jan-1994||http://x|0|1", "50|Star Wars (1977)|01-Jan-1977||http://y|0|1"]
    (directory / "u.item").write_bytes("\n".join(lines).encode("latin-1"))
    return path


def _ratings_csv(directory: Path) -> Path:
    path = directory / "ratings.csv"
    lines = ["userId,movieId,rating,timestamp", *(f"{u},{i},{r}.0,{t}" for u, i, r, t in _RATINGS)]
    path.write_text("\r\n".join(lines) + "\r\n")
    (directory / "movies.csv").write_text(
        'movieId,title,genres\n8,Léon (1994),Crime\n50,"Star Wars (1977)",Sci-Fi\n', encoding="utf-8"
    )
    return path


def _inter(directory: Path) -> Path:
    path = directory / "ml-100k.inter"
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += [f"{u}\t{i}\t{r}\t{t}" for u, i, r, t in _RATINGS]
    path.write_text("\n".join(lines))
    (directory / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "8\tLéon\t1994\tCrime\n50\tStar Wars\t1977\tSci-Fi\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("write", [_u_data, _ratings_csv, _inter])
def test_three_formats_say_the_same(write: Any, tmp_path: Path) -> None:
    found = read_movielens(write(tmp_path))
    assert found.user_ids.tolist() == [7, 10, 300]
    assert found.item_ids.tolist() == [8, 50, 600]
    assert found.user.tolist() == [1, 0, 1, 2, 1]
    assert found.item.tolist() == [1, 0, 0, 2, 2]
    assert found.rating.tolist() == [4, 3, 5, 1, 2]
    assert found.time.tolist() == [100, 90, 50, 70, 100]
    assert found.titles == ("Léon (1994)", "Star Wars (1977)", "")
    assert (found.user.dtype, found.rating.dtype) == (np.int64, np.float32)


def test_titles_are_not_needed(tmp_path: Path) -> None:
    path = _u_data(tmp_path)
    (tmp_path / "u.item").unlink()
    assert read_movielens(path).titles == ("", "", "")


def _config(path: Path, **settings: Any) -> MovieLensData:
    return MovieLensData(source="movielens", path=path, **settings)


def test_users_are_private_or_rows_of_a_table(tmp_path: Path) -> None:
    path = _u_data(tmp_path)
    private = load(_config(path), seed=0, directory=tmp_path)
    assert private.tensors["user"].tolist() == [0] * 5
    assert private.owners is not None
    assert private.owners.tolist() == [10, 7, 10, 300, 10]
    assert private.times is not None
    shared = load(_config(path, user="shared"), seed=0, directory=tmp_path)
    assert shared.tensors["user"].tolist() == [1, 0, 1, 2, 1]


def test_a_key_makes_no_sense(tmp_path: Path) -> None:
    config = _config(_u_data(tmp_path), partition=NaturalPartition(by="natural", key="age"))
    with pytest.raises(ConfigError, match=r"data.partition.key: MovieLens has no owners but its users"):
        load(config, seed=0, directory=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not hold lines"),
        ("1\t2\t3\n", "does not hold lines"),
        ("user,film\n1,2\n", "is no u.data"),
        ("1\t2\tx\t4\n", "is no u.data"),
        ("1\t2\t3\t4\n1\t2\n", "is no u.data"),
        ("1.5\t2\t3\t4\n", "no whole numbers"),
        ("-1\t2\t3\t4\n", "no whole numbers"),
        ("1\t2\t3\tinf\n", "no whole numbers"),
        ("1\t2\t6\t4\n", "ratings outside"),
        ("1\t2\tnan\t4\n", "no whole numbers"),
        ("1\t2\t3\t4\n1\t2\t5\t9\n", "two ratings of one film by one user"),
    ],
)
def test_files_of_another_kind(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "u.data"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_movielens(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.path: .* cannot be read"):
        read_movielens(tmp_path / "u.data")


def test_titles_of_another_kind(tmp_path: Path) -> None:
    path = _u_data(tmp_path)
    (tmp_path / "u.item").write_text("eight|Léon\n")
    with pytest.raises(DataError, match="does not hold lines of item and title"):
        read_movielens(path)


# --- fetching -----------------------------------------------------------------------------------------------


def _wheel(directory: Path, contents: dict[str, bytes]) -> None:
    with zipfile.ZipFile(directory / "recbole-1.2.1-py3-none-any.whl", "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"recbole/dataset_example/ml-100k/{name}", content)


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A package of made-up contents, pinned as the real ones are, and an empty cache."""
    monkeypatch.setenv("DEVICELAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "made").mkdir()
    path = _inter(tmp_path / "made")
    contents = {name: path.with_name(name).read_bytes() for name in ("ml-100k.inter", "ml-100k.item")}
    pins = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(movielens, "_CONTENTS", pins)
    return contents


def test_the_package_is_fetched_once_and_damage_is_mended(
    made_up: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []

    def pip(command: tuple[str, ...], directory: Path, deadline: object) -> None:
        calls.append(command)
        _wheel(directory, made_up)

    monkeypatch.setattr(movielens, "run_client", pip)
    told: list[str] = []
    assert read_movielens(progress=told.append).user_ids.tolist() == [7, 10, 300]
    assert read_movielens(progress=told.append).titles[1] == "Star Wars (1977)"
    assert len(calls) == len(told) == 1
    assert {"--no-deps", "recbole==1.2.1"} <= set(calls[0])
    fetch().write_bytes(b"damaged")
    assert read_movielens().user_ids.tolist() == [7, 10, 300]
    assert len(calls) == 2


def test_what_is_not_what_was_pinned_is_not_kept(
    made_up: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pip(command: tuple[str, ...], directory: Path, deadline: object) -> None:
        _wheel(directory, made_up | {"ml-100k.item": b"something else"})

    monkeypatch.setattr(movielens, "run_client", pip)
    with pytest.raises(DataError, match=r"ml-100k.item in recbole==1.2.1 is not what it should be") as caught:
        fetch()
    assert "data.path" in (caught.value.hint or "")
    assert not list((tmp_path / "cache").rglob("ml-100k*"))


def test_packages_that_hold_something_else(made_up: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(command: tuple[str, ...], directory: Path, deadline: object) -> None:
        _wheel(directory, {})

    monkeypatch.setattr(movielens, "run_client", empty)
    with pytest.raises(DataError, match="does not hold MovieLens-100K"):
        fetch()
    monkeypatch.setattr(movielens, "run_client", lambda *_: None)
    with pytest.raises(DataError, match="pip left 0 wheels"):
        fetch()


def test_a_host_without_pip_is_told_what_to_do(
    made_up: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_pip(*args: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", "/usr/bin/python: No module named pip\n")

    monkeypatch.setattr("devicelab.fetching.run_to_end", no_pip)
    with pytest.raises(ConfigError, match=r"MovieLens-100K cannot be fetched: .*No module named pip") as caught:
        fetch()
    assert "u.data or ratings.csv" in (caught.value.hint or "")


@pytest.fixture(scope="module")
def real() -> MovieLens:
    return read_movielens()


def test_the_real_data_come_out_of_the_package(real: MovieLens) -> None:
    assert (len(real.rating), len(real.user_ids), len(real.item_ids)) == (100_000, 943, 1682)
    assert real.user_ids.tolist() == list(range(1, 944))
    assert real.rating.mean() == pytest.approx(3.52986)
    assert real.titles[49] == "Star Wars (1977)"
    assert all(real.titles[:266])

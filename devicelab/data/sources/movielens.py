"""MovieLens-100K (Harper & Konstan 2015): who rated which film how, and when.

Read from GroupLens' own files (``u.data``, or ``ratings.csv`` of the newer sets) or from RecBole's
(``ml-100k.inter``). Its terms forbid passing it on, so nothing of it comes with devicelab; without a path it is
taken, once, out of the ``recbole`` package of the Python package index, pinned by the files' SHA-256.

Users and items are numbered from 0 in ascending order of the ids in the file. A client's examples are in order
of time; of equal times, which are many (44 % of users rated their last two films in the same second), the later
in the file is the newer. That is the tie rule of every split by time: the file's order is all that is left to
go by, and it is read as any log is.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from devicelab.config.data import MovieLensData, NaturalPartition
from devicelab.data.examples import Array, Dataset
from devicelab.data.histories import HistoryView
from devicelab.deadline import Deadline
from devicelab.errors import ConfigError, DataError
from devicelab.fetching import Progress, run_client
from devicelab.files import cache_dir, require_regular, write_atomically

__all__ = ["PACKAGE", "MovieLens", "fetch", "load", "read_movielens", "titles"]

PACKAGE: Final = "recbole==1.2.1"
_INSIDE: Final = "recbole/dataset_example/ml-100k"
_CONTENTS: Final = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
_FETCH_SECONDS: Final = 300.0
_LARGEST_MEMBER: Final = 16 << 20
_BY_HAND: Final = "download MovieLens from GroupLens and set data.path to its u.data or ratings.csv"

_COLUMNS: Final[Mapping[tuple[str, ...], str]] = {
    ("user_id:token", "item_id:token", "rating:float", "timestamp:float"): "\t",
    ("userId", "movieId", "rating", "timestamp"): ",",
}
_TITLES: Final = {"u.data": "u.item", "ratings.csv": "movies.csv", "ml-100k.inter": "ml-100k.item"}


@dataclass(frozen=True, slots=True)
class MovieLens:
    """All ratings, in the file's order.

    Attributes:
        user: Each rating's user as a place in ``user_ids``, int64 (ratings,).
        item: Its film as a place in ``item_ids``, int64 (ratings,).
        rating: 0.5 to 5, float32 (ratings,).
        time: Seconds since 1970, int64 (ratings,).
        user_ids: The file's ids, ascending, int64 (users,).
        item_ids: The same, int64 (items,).
        titles: Each film's title, empty where it is not known; (items,).
    """

    user: Array
    item: Array
    rating: Array
    time: Array
    user_ids: Array
    item_ids: Array
    titles: tuple[str, ...]


def load(config: MovieLensData, *, seed: int, directory: Path) -> Dataset:
    """``user`` and ``item`` int64, ``rating`` float32, each (examples,), owned by the users, with times.

    ``user`` is 0 throughout if the settings say ``private``. For histories it is ``item`` alone, with a view.
    """
    del directory
    if isinstance(config.partition, NaturalPartition) and config.partition.key not in {None, "user"}:
        raise ConfigError("data.partition.key: MovieLens has no owners but its users; leave it out")
    found = read_movielens(config.path)
    owners = found.user_ids[found.user]
    if config.histories is not None:
        view = HistoryView(
            found.item,
            items=len(found.item_ids),
            length=config.histories.length,
            negatives=config.histories.negatives,
            seed=seed,
        )
        return Dataset({"item": found.item}, owners, found.time, view=view)
    user = np.zeros_like(found.user) if config.user == "private" else found.user
    tensors = {"user": user, "item": found.item, "rating": found.rating}
    return Dataset(tensors, owners, found.time)


def titles(config: MovieLensData) -> tuple[str, ...]:
    """What the items are called, in the order of their numbers; empty where that is not known."""
    return read_movielens(config.path).titles


def read_movielens(path: Path | None = None, *, progress: Progress | None = None) -> MovieLens:
    """Read the ratings and, from the file beside them, the titles.

    Args:
        path: ``u.data``, ``ratings.csv`` or ``ml-100k.inter``; None: :func:`fetch`.
        progress: Told what is being done.

    Raises:
        ConfigError: The file is not there, or the package cannot be fetched.
        DataError: The file is none of the three.
    """
    path = fetch(progress=progress) if path is None else path
    users, items, ratings, times = _read_ratings(path)
    if len(np.unique(np.stack([users, items]), axis=1).T) != len(users):
        raise DataError(f"{path} holds two ratings of one film by one user")
    user_ids, user = np.unique(users, return_inverse=True)
    item_ids, item = np.unique(items, return_inverse=True)
    known = _read_titles(path)
    titles = tuple(known.get(number, "") for number in item_ids.tolist())
    return MovieLens(user, item, ratings, times, user_ids, item_ids, titles)


def fetch(*, progress: Progress | None = None, deadline: Deadline | None = None) -> Path:
    """Where ``ml-100k.inter`` is on this host, its titles beside it; fetched with pip if it is not there yet.

    Raises:
        ConfigError: pip is missing or fails; the hint says what else to do.
        DataError: What came is not what was pinned.
        DeadlineError: It took too long.
    """
    home = cache_dir() / "movielens-100k"
    if not all(_is_good(home / name, digest) for name, digest in _CONTENTS.items()):
        if progress is not None:
            progress(f"fetching MovieLens-100K with pip ({PACKAGE}, 2 MB, once)")
        home.mkdir(parents=True, exist_ok=True)
        for name, content in _download(deadline or Deadline("fetch of MovieLens-100K", _FETCH_SECONDS)).items():
            write_atomically(home / name, content)
    return home / "ml-100k.inter"


def _is_good(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _download(deadline: Deadline) -> dict[str, bytes]:
    directory = Path(tempfile.mkdtemp(prefix="devicelab-"))
    try:
        command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", PACKAGE)
        run_client((*command, "--only-binary=:all:"), directory, deadline)
        wheels = list(directory.glob("*.whl"))
        if len(wheels) != 1:
            raise DataError(f"pip left {len(wheels)} wheels of {PACKAGE}, not one", hint=_BY_HAND)
        return _unpacked(wheels[0])
    except ConfigError as error:
        raise ConfigError(f"MovieLens-100K cannot be fetched: {error.message}", hint=_BY_HAND) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _unpacked(wheel: Path) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, digest in _CONTENTS.items():
                with archive.open(f"{_INSIDE}/{name}") as member:
                    contents[name] = member.read(_LARGEST_MEMBER)
                if hashlib.sha256(contents[name]).hexdigest() != digest:
                    raise DataError(f"{name} in {PACKAGE} is not what it should be", hint=_BY_HAND)
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{wheel.name} does not hold MovieLens-100K: {error}", hint=_BY_HAND) from error
    return contents


def _read_ratings(path: Path) -> tuple[Array, Array, Array, Array]:
    """Users, items, ratings and times as the file has them."""
    require_regular(path, "data.path")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            first = file.readline().rstrip("\r\n")
            delimiter = next((d for names, d in _COLUMNS.items() if tuple(first.split(d)) == names), None)
            if delimiter is None:
                file.seek(0)  # u.data has no header
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that there are no lines, which is said below
                table = np.loadtxt(file, dtype=np.float64, delimiter=delimiter or "\t", ndmin=2, comments=None)
    except OSError as error:
        raise ConfigError(f"data.path: {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(
            f"{path} is no u.data, ratings.csv or ml-100k.inter: {' '.join(str(error).split())[:200]}"
        ) from error
    if table.size == 0 or table.shape[1] != len(next(iter(_COLUMNS))):
        raise DataError(f"{path} does not hold lines of user, item, rating and time")
    ids, times = table[:, :2], table[:, 3]
    whole = np.isfinite(table).all() and (ids == np.rint(ids)).all() and (times == np.rint(times)).all()
    if not whole or ids.min() < 0 or ids.max() >= 1 << 53 or np.abs(times).max() >= 1 << 53:
        raise DataError(f"{path} holds ids or times that are no whole numbers")
    if table[:, 2].min() < 0.5 or table[:, 2].max() > 5:
        raise DataError(f"{path} holds ratings outside 0.5 to 5")
    return (
        ids[:, 0].astype(np.int64),
        ids[:, 1].astype(np.int64),
        table[:, 2].astype(np.float32),
        times.astype(np.int64),
    )


def _read_titles(ratings: Path) -> dict[int, str]:
    """Titles by the file's item id; none if the file beside the ratings is missing."""
    path = ratings.with_name(_TITLES.get(ratings.name, "u.item"))
    if not path.is_file():
        return {}
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # as u.item is
    try:
        return {int(number): title for number, title in _title_fields(text.splitlines(), path.name)}
    except ValueError as error:
        raise DataError(f"{path} does not hold lines of item and title: {error}") from error


def _title_fields(lines: Iterable[str], name: str) -> Iterator[tuple[str, str]]:
    """An item's id and its title with the year, as GroupLens writes it, of each line."""
    if name == "movies.csv":
        rows = csv.reader(lines)
        next(rows, None)
        yield from ((row[0], row[1]) for row in rows if len(row) >= 2)
    elif name == "ml-100k.item":
        for line in list(lines)[1:]:
            number, title, year, *_ = [*line.split("\t"), "", ""]
            yield number, f"{title} ({year})" if year else title
    else:
        for line in lines:
            number, title, *_ = [*line.split("|"), ""]
            yield number, title

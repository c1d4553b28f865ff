"""Sources: one module each, loaded when it is needed. Each turns its settings into a :class:`Dataset`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final

from devicelab.config.data import (
    CsvData,
    DigitsData,
    MovieLensData,
    NpzData,
    ParquetData,
    Source,
    SyntheticData,
    TorchData,
)
from devicelab.data.examples import Dataset, check_alike, checked

__all__ = ["item_titles", "load_source", "source_files"]

_MODULES: Final[dict[type[Source], str]] = {
    DigitsData: "digits",
    MovieLensData: "movielens",
    CsvData: "tables",
    ParquetData: "tables",
    NpzData: "npz",
    TorchData: "torchdata",
    SyntheticData: "synthetic",
}


def load_source(config: Source, *, seed: int, directory: Path) -> Dataset:
    """Read or make a source's examples.

    Args:
        config: Its settings.
        seed: The experiment's, for sources that make their data.
        directory: The experiment's, for sources that are the user's own code.

    Raises:
        ConfigError: A file, column or class is not there.
        DataError: What is there cannot become shards.
    """
    module = import_module(f"{__name__}.{_MODULES[type(config)]}")
    load: Callable[..., Dataset] = module.load
    dataset = load(config, seed=seed, directory=directory)
    what = f"data ({config.source})"
    checked(dataset.tensors, what)
    if dataset.test is not None:
        checked(dataset.test, f"{what}, test set")
        check_alike(dataset.tensors, dataset.test, what)
    return dataset


def item_titles(config: Source) -> tuple[str, ...]:
    """What a source's items are called, by their numbers; empty if it has none, or no names for them.

    Raises:
        ConfigError, DataError: As :func:`load_source`.
    """
    if not isinstance(config, MovieLensData):
        return ()
    from devicelab.data.sources.movielens import titles  # noqa: PLC0415 - a source's module, as above

    return titles(config)


def source_files(config: Source) -> list[Path] | None:
    """The files that a source's examples depend on; None if they depend on something else as well.

    Together with the settings, the seed and the versions of packages they decide what the examples are.
    """
    if isinstance(config, TorchData):
        return None
    found = [getattr(config, name, None) for name in ("path", "test_path")]
    return [path for path in found if path is not None]

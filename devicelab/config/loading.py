"""From files to settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from devicelab.config.base import DIRECTORY, Settings
from devicelab.config.document import Document, read_document
from devicelab.config.experiment import Experiment
from devicelab.config.lab import LabConfig
from devicelab.config.problems import config_error

__all__ = ["load_experiment", "load_lab"]

S = TypeVar("S", bound=Settings)


def load_experiment(path: Path, *, directory: Path | None = None) -> Experiment:
    """Read and validate an experiment file.

    Args:
        path: The file.
        directory: Where relative paths in it start from; by default where the file is.

    Raises:
        ConfigError: It cannot be read or something in it is wrong; the message lists everything that is.
    """
    directory = directory or path.expanduser().absolute().parent
    experiment = _validated(Experiment, read_document(path.expanduser()), directory)
    return experiment.located(directory)


def load_lab(path: Path) -> LabConfig:
    """Read and validate a lab file.

    Raises:
        ConfigError: It cannot be read or something in it is wrong; the message lists everything that is.
    """
    path = path.expanduser()
    return _validated(LabConfig, read_document(path), path.absolute().parent)


def _validated(model: type[S], document: Document, directory: Path) -> S:
    # By way of JSON: there a strict model takes a list for a tuple and text for a path, and nothing else.
    text = json.dumps(document.root)
    try:
        return model.model_validate_json(text, context={DIRECTORY: directory})
    except ValidationError as error:
        raise config_error(error, document, model) from None

"""From ``package.module:Name`` in a YAML file to the object that is meant, and to an instance of it.

A mapping with the keys ``class`` and (perhaps) ``args`` among the arguments is built the same way::

    class: devicelab.plans.zoo:MLP
    args: {optimizer: {class: "devicelab.plans.optimizers:Adam", args: {lr: 0.001}}}
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from devicelab.errors import ConfigError, DevicelabError

__all__ = ["build", "describe_failure", "import_object", "nearest"]


def import_object(dotted: str, directory: Path, *, where: str) -> Any:  # noqa: ANN401 - an object of the user's
    """The object that a dotted path means.

    Args:
        dotted: ``package.module:Name``, or ``package.module:Outer.Inner``.
        directory: Put first on Python's path, and left there, so that modules beside an experiment are found
            (``pytest`` does so with a test's directory).
        where: The setting that says so, for messages: ``plan.class``.

    Raises:
        ConfigError: There is no such module or name, or the module fails when it is imported.
    """
    module_name, _, names = dotted.partition(":")
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
        importlib.invalidate_caches()
    found: object = _import(module_name, directory, where)
    for name in names.split("."):
        if not hasattr(found, name):
            known = [known for known in dir(found) if not known.startswith("_")]
            raise ConfigError(f"{where}: {module_name} has no {names!r}{nearest(name, known)}")
        found = getattr(found, name)
    return found


def build(
    dotted: str, args: Mapping[str, object], directory: Path, *, where: str, args_where: str | None = None
) -> Any:  # noqa: ANN401 - an object of the user's
    """Call what a dotted path means with keyword arguments; see the module for arguments that are objects.

    Args:
        dotted: ``package.module:Name``.
        args: The keyword arguments.
        directory: See :func:`import_object`.
        where: The setting that holds the path, for messages.
        args_where: The setting that holds the arguments; ``args`` beside ``where`` if None.

    Raises:
        ConfigError: There is no such thing, it takes other arguments, or it raises something.
        DevicelabError: What it raises, where that is one of ours.
    """
    make = import_object(dotted, directory, where=where)
    place = args_where or f"{where.rpartition('.')[0]}.args"
    if not callable(make):
        raise ConfigError(f"{where}: {dotted} is {make!r:.80}, nothing that can be called")
    built = {key: _built(value, directory, f"{place}.{key}") for key, value in args.items()}
    _check_arguments(make, built, dotted, place)
    try:
        return make(**built)
    except DevicelabError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"{where}: {dotted} failed: {describe_failure(error)}") from error


def _built(value: object, directory: Path, where: str) -> object:
    if isinstance(value, dict) and "class" in value and set(value) <= {"class", "args"}:
        args = value.get("args", {})
        if not isinstance(value["class"], str) or ":" not in value["class"] or not isinstance(args, dict):
            raise ConfigError(f"{where}: `class` is package.module:Name, `args` a mapping")
        return build(value["class"], args, directory, where=f"{where}.class")
    if isinstance(value, dict):
        return {key: _built(item, directory, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_built(item, directory, f"{where}[{n}]") for n, item in enumerate(value)]
    return value


def _import(name: str, directory: Path, where: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise ConfigError(
                f"{where}: there is no module {missing!r}",
                hint=f"modules are looked for in {directory} and among the installed packages",
            ) from error
        raise ConfigError(f"{where}: importing {name} failed: {describe_failure(error)}") from error
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"{where}: importing {name} failed: {describe_failure(error)}") from error


def _check_arguments(make: Callable[..., object], args: Mapping[str, object], dotted: str, where: str) -> None:
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):
        return  # some built-in types do not tell what they take
    parameters = signature.parameters.values()
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in args:
            if key not in known:
                listed = f"; it takes {', '.join(known)}" if known else "; it takes none"
                raise ConfigError(
                    f"{where}.{key}: {dotted} has no such argument{nearest(key, known) or listed}"
                )
    for parameter in parameters:
        needed = parameter.default is parameter.empty and parameter.name in known
        if needed and parameter.name not in args:
            raise ConfigError(f"{where}.{parameter.name}: is missing, and {dotted} needs it")


def describe_failure(error: Exception) -> str:
    """What happened and where in the user's own code, for a message without a traceback."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {text}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    last = frames[-1]
    ours = last.filename == __file__
    return f"{type(error).__name__}: {text}" + ("" if ours else f" ({last.filename}, line {last.lineno})")


def nearest(word: str, known: Iterable[str]) -> str:
    """A question to add to an error about an unknown word, empty if no known one is like it."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""

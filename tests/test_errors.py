"""The exception tree: its picture, its exit codes, its words."""

from __future__ import annotations

import inspect
import re

import pytest

from devicelab import errors


def _drawn() -> dict[str, tuple[str | None, int]]:
    """The tree in the module's docstring as {class: (parent, exit code)}."""
    tree: dict[str, tuple[str | None, int]] = {}
    trail: list[str] = []
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        found = re.match(r"^ {4}([│ ├└─]*)([A-Za-z]+Error) +(\d+)", line)
        if found:
            depth = len(found[1]) // 4
            trail[depth:] = [found[2]]
            tree[found[2]] = (trail[depth - 1] if depth else None, int(found[3]))
    return tree


def _defined() -> dict[str, type[errors.DevicelabError]]:
    return {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.DevicelabError)
    }


def test_the_picture_in_the_docstring_is_the_tree() -> None:
    drawn = _drawn()
    assert set(drawn) == set(_defined())
    for name, kind in _defined().items():
        parent, code = drawn[name]
        assert kind.exit_code == code, name
        assert parent is None or kind.__bases__[0].__name__ == parent, name


def test_every_error_is_exported() -> None:
    assert set(_defined()) <= set(errors.__all__)


def test_a_device_error_names_the_device_first() -> None:
    error = errors.DeviceLostError("connection reset", device="R58M123")
    assert str(error) == "R58M123: connection reset"
    assert error.device == "R58M123"


def test_a_remote_command_error_carries_everything_and_shows_the_last_line() -> None:
    error = errors.RemoteCommandError(
        ["cat", "/nope"], device="X", code=1, stdout=b"", stderr=b"warning\ncat: /nope: No such file\n"
    )
    assert str(error) == "X: `cat /nope` exited with 1: cat: /nope: No such file"
    assert (error.argv, error.code, error.stderr) == (
        ["cat", "/nope"],
        1,
        b"warning\ncat: /nope: No such file\n",
    )


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with 0"),
        (137, "was killed (SIGKILL)"),
        (139, "crashed (SIGSEGV)"),
        (132, "met an illegal instruction (SIGILL)"),
        (143, "was ended (SIGTERM)"),
        (255, "exited with 255"),
    ],
)
def test_exit_codes_in_words(code: int, words: str) -> None:
    assert errors.describe_exit(code) == words

"""The parts of docs/ that are made from the code are what the code makes, and leave nothing out."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from devicelab.config import Experiment, LabConfig
from devicelab.config.base import Settings
from devicelab.errors import DevicelabError
from scripts.reference.commands import command_reference, every_command
from scripts.reference.failures import every_error, meaning_and_remedy
from scripts.reference.pages import PAGES, filled
from scripts.reference.settings import settings_reference

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_what_the_code_says_today(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert filled(page, text) == text, "write it anew: python -m scripts.reference"


def test_a_page_without_a_place_for_its_part_is_noticed() -> None:
    with pytest.raises(ValueError, match=r"commands\.md needs one pair"):
        filled("commands.md", "# Commands\n")


def _models() -> set[type[Settings]]:
    """All settings there are, whoever uses them."""
    found, left = set(), [Settings]
    while left:
        for model in left.pop().__subclasses__():
            found.add(model)
            left.append(model)
    return {model for model in found if model.__module__.startswith("devicelab.config.")}


def test_every_setting_has_its_row() -> None:
    text = settings_reference(Experiment) + settings_reference(LabConfig)
    fields = [(field.alias or name, field) for model in _models() for name, field in model.model_fields.items()]
    assert len(fields) > 100
    for key, field in fields:
        if field.description:
            told = " ".join(field.description.split()).replace("|", "\\|")
            assert any(line.startswith(f"| `{key}` |") and told in line for line in text.splitlines()), key


def test_every_setting_says_what_it_means() -> None:
    silent = {
        f"{model.__name__}.{name}"
        for model in _models()
        for name, field in model.model_fields.items()
        if not field.description
        and name not in {"source", "by", "rule", "optimizer"}  # what chooses is a title
    }
    assert not silent


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_says_what_it_means_and_what_to_do(kind: type[DevicelabError]) -> None:
    meaning, remedy = meaning_and_remedy(kind)
    assert meaning != remedy
    row = next(
        line for line in (DOCS / "troubleshooting.md").read_text().splitlines() if f"`{kind.__name__}`" in line
    )
    assert row.split(" | ")[1] == str(kind.exit_code)


def test_an_error_that_does_not_say_what_to_do_is_noticed() -> None:
    class SilentError(DevicelabError):
        """Something."""

    with pytest.raises(ValueError, match="SilentError needs"):
        meaning_and_remedy(SilentError)


def test_every_option_of_every_command_has_its_row() -> None:
    text = command_reference()
    for name, command in every_command():
        section = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for parameter in command.params:
            assert (parameter.help or "").partition("  [default:")[0].replace("|", "\\|") in section


def test_the_picture_of_the_house_has_every_room_in_its_order() -> None:
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    rooms = [room.strip().removeprefix("devicelab.") for layer in layers for room in layer.split(":")]
    drawn = (DOCS / "how-it-works.md").read_text().partition("## How it is built")[2]
    lines = [line.split()[0] for line in drawn.splitlines() if line[:1].islower()]
    assert [room for room in rooms if (DOCS.parent / "devicelab" / room).is_dir() or room == "errors"] == lines

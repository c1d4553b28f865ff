from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from devicelab.config import load_experiment
from devicelab.config.document import parse_document
from devicelab.config.explain import explain, explanation, flow
from tests.cli.command import devicelab, document

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80) | st.sampled_from(
    [
        "on",
        "No",
        "null",
        "true",
        "1e5",
        "1",
        "90s",
        "1h",
        "a: b",
        "a:b",
        "#",
        "-",
        "",
        " ",
        "=",
        "<<",
        "a #b",
        "[",
        "a,b",
    ]
)
_SCALARS = _TEXT | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_TREES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4)
)


@given(_TREES)
def test_what_is_written_is_read_again(tree: object) -> None:
    assert parse_document(f"key: {flow(tree)}", "x.yaml").root == {"key": tree}


@given(_TREES)
def test_other_readers_of_yaml_understand_the_same(tree: object) -> None:
    assert yaml.safe_load(f"key: {flow(tree)}") == {"key": tree}


def test_the_document_has_every_setting_and_what_it_means(tmp_path: Path) -> None:
    path = shutil.copy(Path(__file__).parents[2] / "configs" / "digits.yaml", tmp_path)
    experiment = load_experiment(Path(path))
    told = explanation(experiment)
    (tmp_path / "again.yaml").write_text(json.dumps(told["settings"]))
    assert load_experiment(tmp_path / "again.yaml") == experiment
    for path, meaning in told["meaning"].items():
        value = told["settings"]
        for key in path.split("."):
            value = value[key]
        assert meaning
    assert set(told["settings"]) == {path for path in told["meaning"] if "." not in path}
    assert "round.clients.number" in told["meaning"]


@pytest.mark.parametrize("command", ["push-plan", "run-round"])
def test_the_commands_write_one_document(command: str) -> None:
    path = Path(__file__).parents[2] / "configs" / "digits.yaml"
    assert document(command, str(path), "--explain") == explanation(load_experiment(path))
    assert devicelab(command, str(path), "--explain").stdout == explain(load_experiment(path))

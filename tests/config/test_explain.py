from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from devicelab.config.document import parse_document
from devicelab.config.explain import flow

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

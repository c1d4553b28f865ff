from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from devicelab.config.document import parse_document, read_document
from devicelab.errors import ConfigError


def _root(text: str) -> object:
    return parse_document(text, "x.yaml").root


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("on", "on"),
        ("no", "no"),
        ("1e-3", 0.001),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        (".5", 0.5),
        ("-3.", -3.0),
        ("+7", 7),
        ("~", None),
        ("", None),
        ("null", None),
        ("true", True),
        ("'true'", "true"),
        ('"1"', "1"),
        (".inf", ".inf"),
        ("1_000", "1_000"),
        ("[1, {a: b}]", [1, {"a": "b"}]),
    ],
)
def test_plain_words_mean_what_the_core_schema_says(written: str, meant: object) -> None:
    assert _root(f"key: {written}") == {"key": meant}


def test_a_key_is_always_text() -> None:
    assert _root("on: 1\n5: 2\nnull: 3") == {"on": 1, "5": 2, "null": 3}


# What JSON escapes in one piece, and short enough for a key (YAML 1.2.2, 7.4.2).
_TEXT = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=100)
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT
_TREES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4)
)


@given(st.dictionaries(_TEXT, _TREES, max_size=4))
def test_json_is_read_as_json(tree: dict[str, object]) -> None:
    assert _root(json.dumps(tree)) == tree


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_keep_every_bit(number: float) -> None:
    read = parse_document(f"x: {number!r}", "x.yaml").root["x"]
    assert isinstance(read, float)
    assert math.copysign(1, read) == math.copysign(1, number)
    assert read == number


@given(st.text(max_size=60) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@ \n\t?,.0", max_size=60))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_document(text, "x.yaml").root, dict)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is there twice, first on line 1"),
        ("x:\n  a: 1\n  a: 1", "line 3: the key 'a' is there twice, first on line 2"),
        ("- 1", "the top must be a mapping"),
        ("just words", "the top must be a mapping"),
        ("a: [1", "line 1: not YAML"),
        ("a: 1\n b: 2", "line 2: not YAML"),
        ("a: !!python/object/apply:os.system [ls]", "has no meaning here"),
        ("a: !!binary aGk=", "'!!binary' has no meaning here"),
        ("? [1, 2]\n: x", "a key must be text"),
        ("a: &x [*x]", "values, or deeper"),
        ("a: *x", "not YAML"),
        ("a: " + "[" * 40 + "]" * 40, "values, or deeper"),
        ("a: " + "[" * 4000, "not YAML"),
        ('a: "\\ud83d\\ude00"', "line 1: half a character; write it itself, or as \\U0001F600"),
        ('"\\ud83d": 1', "line 1: half a character"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _root(text)
    assert message in str(caught.value)


def test_aliases_of_aliases_do_not_grow_without_bounds() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match="more than 100000 values"):
        _root("\n".join(lines))


def test_an_empty_file_is_an_empty_mapping() -> None:
    assert _root("") == {}
    assert _root("# only a comment\n") == {}


def test_lines_of_values_and_of_what_is_not_there() -> None:
    document = parse_document("a: 1\nb:\n  c:\n    - 5\n    - 6\n", "x.yaml")
    assert document.line(("a",)) == 1
    assert document.line(("b", "c", 1)) == 5
    assert document.line(("b", "missing")) == 2
    assert document.line(("missing", "deeper")) == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_document(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="no regular file"):
        read_document(tmp_path)
    large = tmp_path / "large.yaml"
    large.write_text("# " + "x" * (1 << 20))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        read_document(large)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(ConfigError, match="line 2: not UTF-8"):
        read_document(latin)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_document(path).root == {"a": 1}


@given(st.dictionaries(st.text("abc", min_size=1), _SCALARS, max_size=5))
def test_what_pyyaml_writes_is_read_alike(tree: dict[str, object]) -> None:
    # Text that looks like a number to YAML 1.2 only (1e5) is the one difference; json.dumps quotes it.
    plain = {key: value for key, value in tree.items() if not isinstance(value, str)}
    assert _root(yaml.safe_dump(plain)) == plain

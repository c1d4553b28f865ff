from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from uuid import uuid4

import pytest

from devicelab.dotted import build, import_object
from devicelab.errors import ConfigError, PlanError

CODE = """\
from devicelab.errors import PlanError

number = 3

class Outer:
    class Inner:
        def __init__(self, *, width, depth=1, parts=()):
            self.width, self.depth, self.parts = width, depth, parts

def anything(**kwargs):
    return kwargs

def nothing():
    return None

def fails():
    raise ValueError("no good\\nat all")

def refuses():
    raise PlanError("a plan must have a name")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    name = f"mine_{uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(CODE)
    yield name
    sys.modules.pop(name, None)


def test_a_module_beside_the_experiment_is_found(module: str, tmp_path: Path) -> None:
    inner = import_object(f"{module}:Outer.Inner", tmp_path, where="plan.class")
    assert inner(width=2).width == 2
    assert sys.path[0] == str(tmp_path)
    import_object(f"{module}:number", tmp_path, where="plan.class")
    assert sys.path.count(str(tmp_path)) == 1


def test_arguments_may_be_objects_of_their_own(module: str, tmp_path: Path) -> None:
    spec = {"class": "fractions:Fraction", "args": {"numerator": 3, "denominator": 4}}
    args = {"width": spec, "parts": [{"deep": spec}, {"class": "fractions:Fraction"}]}
    inner = build(f"{module}:Outer.Inner", args, tmp_path, where="plan.class")
    assert inner.width == Fraction(3, 4)
    assert inner.parts == [{"deep": Fraction(3, 4)}, Fraction(0)]
    other = {"class": "a", "other": 1}
    assert build(f"{module}:anything", {"x": other}, tmp_path, where="plan.class") == {"x": other}


@pytest.mark.parametrize(
    ("dotted", "args", "message"),
    [
        ("no_such_thing:X", {}, "plan.class: there is no module 'no_such_thing'"),
        ("os.no_such:X", {}, "plan.class: there is no module 'os.no_such'"),
        ("MODULE:Outr", {}, "has no 'Outr'; did you mean 'Outer'?"),
        ("MODULE:Outer.Iner", {}, "has no 'Outer.Iner'; did you mean 'Inner'?"),
        ("MODULE:number", {}, "is 3, nothing that can be called"),
        ("MODULE:Outer.Inner", {"wdth": 1}, "plan.args.wdth: MODULE:Outer.Inner has no such argument; did you"),
        ("MODULE:Outer.Inner", {"depth": 1}, "plan.args.width: is missing"),
        ("MODULE:nothing", {"a": 1}, "it takes none"),
        ("MODULE:fails", {}, "plan.class: MODULE:fails failed: ValueError: no good at all ("),
        ("MODULE:anything", {"a": {"class": "x"}}, "plan.args.a: `class` is package.module:Name"),
        ("MODULE:anything", {"a": [{"class": "x:Y"}]}, "plan.args.a[0].class: there is no module 'x'"),
    ],
)
def test_what_is_wrong_is_said_with_the_setting(
    dotted: str, args: dict[str, object], message: str, module: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(dotted.replace("MODULE", module), args, tmp_path, where="plan.class")
    assert message.replace("MODULE", module) in str(caught.value)


def test_where_the_users_code_failed_is_named(module: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        build(f"{module}:fails", {}, tmp_path, where="plan.class")
    line = CODE.splitlines().index('    raise ValueError("no good\\nat all")') + 1
    assert f"({tmp_path / module}.py, line {line})" in str(caught.value)


def test_errors_of_ours_come_through(module: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="must have a name"):
        build(f"{module}:refuses", {}, tmp_path, where="plan.class")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def (", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_fails_when_imported(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    name = f"broken_{uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(ConfigError) as caught:
        import_object(f"{name}:X", tmp_path, where="plan.class")
    assert f"plan.class: importing {name} failed: {message}" in str(caught.value)
    assert f"{name}.py" in str(caught.value)

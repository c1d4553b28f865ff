"""What is published: an sdist that builds the wheel, and a wheel that trains where there is no compiler."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from email import message_from_bytes
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest

from devicelab.runner.native.build import TARGETS
from tests.packaging.elsewhere import REBUILT, ROOT, Built, Elsewhere, build, make_elsewhere
from tests.runner.native.bench import runners

pytestmark = [
    pytest.mark.xdist_group("packaging"),  # built once
    pytest.mark.timeout(1200),  # two runners are compiled, and PyTorch is read into an environment of its own
]

PROGRAMS = {f"devicelab/runner/bin/{target}/devicelab-runner" for target in TARGETS}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("built"), *(target for target in TARGETS if target not in REBUILT))


@pytest.fixture(scope="module")
def elsewhere(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    return make_elsewhere(tmp_path_factory.mktemp("elsewhere"), built.wheel)


def test_the_sdist_is_the_project_and_nothing_else(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = [PurePosixPath(name).relative_to(built.source.name) for name in archive.getnames()]
    assert {name.parts[0] for name in names} == {
        *("devicelab", "configs", "docs", "scripts", "tests"),
        *("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "NOTICE"),
        *("PKG-INFO", ".ci", ".github", ".gitignore"),
    }
    assert PurePosixPath("devicelab/runner/native/main.zig") in names
    assert PurePosixPath("tests/packaging/test_packaging.py") in names
    assert not [name for name in names if name.match("devicelab/runner/bin/*")]
    assert not [name for name in names if name.suffix in {".pyc", ".part", ".so", ".whl"}]


def test_the_wheel_is_the_package_with_its_runners_and_examples(built: Built) -> None:
    assert built.wheel.name.endswith("-py3-none-any.whl")  # its programs are for phones, whatever the host is
    with ZipFile(built.wheel) as archive:
        modes = {each.filename: each.external_attr >> 16 for each in archive.infolist()}
    assert set(modes) >= PROGRAMS
    assert all(modes[program] & 0o111 == 0o111 for program in PROGRAMS)
    package = {name for name in modes if name.startswith("devicelab/")}
    source = {str(path.relative_to(ROOT)) for path in (ROOT / "devicelab").rglob("*") if path.is_file()}
    source = {
        name for name in source if "__pycache__" not in name and not name.startswith("devicelab/runner/bin/")
    }
    native = {name for name in source if name.startswith("devicelab/runner/native/")}
    examples = {f"devicelab/configs/{path.name}" for path in (ROOT / "configs").iterdir()}
    assert package == (source - native) | PROGRAMS | examples
    meta = {PurePosixPath(name).name for name in modes if not name.startswith("devicelab/")}
    assert meta == {"METADATA", "WHEEL", "entry_points.txt", "RECORD", "LICENSE", "NOTICE"}


def test_what_the_wheel_says_of_itself(built: Built) -> None:
    with ZipFile(built.wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("METADATA")]
        about = message_from_bytes(archive.read(name))
    assert about["Name"] == "devicelab"
    assert about["License-Expression"] == "Apache-2.0"
    assert about.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert not [
        each for each in about.get_all("Requires-Dist", []) if "ziglang" in each and "extra" not in each
    ]


def test_the_runners_from_the_sdist_are_the_checkouts_byte_by_byte(built: Built) -> None:
    """REBUILT are compiled in another directory, by the build hook; the rest went through it."""
    with ZipFile(built.wheel) as archive:
        of_wheel = {
            target: archive.read(f"devicelab/runner/bin/{target}/devicelab-runner") for target in TARGETS
        }
    for target, program in runners(*TARGETS).items():
        assert _sha256(of_wheel[target]) == _sha256(program.read_bytes()), target


def test_elsewhere_has_no_compiler_and_no_checkout(elsewhere: Elsewhere) -> None:
    for tool in ("zig", "cc", "gcc", "clang", "ld", "adb", "git"):
        assert shutil.which(tool, path=elsewhere.environment["PATH"]) is None
    code = "import importlib.util as u; print([n for n in ('ziglang', 'pytest') if u.find_spec(n)])"
    assert elsewhere.run("python", "-c", code).stdout == "[]\n"
    where = elsewhere.run("python", "-c", "import devicelab; print(devicelab.__file__)").stdout
    assert where.startswith(str(elsewhere.python.parents[1]))


@pytest.mark.usefixtures("image")
def test_the_wheel_trains_on_a_virtual_phone_in_an_empty_directory(elsewhere: Elsewhere) -> None:
    try:
        elsewhere.run("devicelab", "virtual", "up", "--phones", "2")
        found = elsewhere.document("discover", "--transport", "direct")["devices"]
        assert [device["ready"] for device in found] == [True, True]
        elsewhere.run("devicelab", "examples")
        pushed = elsewhere.document("push-plan", "configs/digits.yaml", "--transport", "direct")
        assert not [device for device in pushed["devices"] if device["problem"]]
        words = ("run-round", "configs/digits.yaml", "--transport", "direct", "--rounds", "1")
        run = elsewhere.document(*words)
        [one] = run["rounds"]
        assert one["loss_after"] < one["loss_before"]
        assert Path(run["report"]).read_text().startswith("<!doctype html>")
    finally:
        elsewhere.run("devicelab", "virtual", "down")
    visible = {path.name for path in elsewhere.directory.iterdir() if not path.name.startswith(".")}
    assert visible == {"configs", "leases", "state"}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

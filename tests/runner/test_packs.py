"""Engines and runners on this host: fetched once, checked always, and never something else."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from devicelab.deadline import Deadline
from devicelab.errors import ConfigError, DeadlineError
from devicelab.runner import packs
from devicelab.runner.kept import artifact, kept
from devicelab.runner.packs import Pack, find_pack, find_runner
from devicelab.runner.targets import TARGETS
from tests.elves import make_elf

ANDROID = {target.abi: target for target in TARGETS.values() if target.system == "android"}
ENGINES = {
    abi: make_elf(["libc.so"], machine=target.machine, wide=target.bits == 64)
    for abi, target in ANDROID.items()
}


def make_aar(engines: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("AndroidManifest.xml", "<manifest/>")
        for abi, engine in engines.items():
            archive.writestr(f"jni/{abi}/libonnxruntime.so", engine)
    return file.getvalue()


def make_npm_package(aar: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in (("package/package.json", b"{}"), ("package/Plugins/Android/onnxruntime.aar", aar)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


class Clients:
    """Package clients that leave what they are told to, and count."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin = directory / "bin"
        self.bin.mkdir()
        self.log = directory / "log"
        monkeypatch.setenv("PATH", str(self.bin))

    def add(self, name: str, content: bytes | None, file: str) -> None:
        """A client that leaves ``content``, or fails."""
        source = self.bin / f"{name}.content"
        source.write_bytes(content or b"")
        act = f"pathlib.Path({file!r}).write_bytes(pathlib.Path({str(source)!r}).read_bytes())"
        if content is None:
            act = "sys.exit('npm error 404 there is no such thing')"
        script = self.bin / name
        script.write_text(
            f"#!{sys.executable} -S\nimport pathlib, sys\n"
            f"open({str(self.log)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n{act}\n"
        )
        script.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEVICELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/engines"


@pytest.fixture
def runners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runners for all targets."""
    runners = tmp_path / "runners"
    for target in TARGETS.values():
        path = runners / target.name / "devicelab-runner"
        path.parent.mkdir(parents=True)
        wide = target.bits == 64
        path.write_bytes(make_elf(["libonnxruntime.so"], target.linker, target.machine, wide=wide))
    monkeypatch.setattr(packs, "RUNNERS", runners)


@pytest.fixture
def clients(tmp_path: Path, cache: Path, runners: None, monkeypatch: pytest.MonkeyPatch) -> Clients:
    """No client yet; and the hashes of our own engines are the right ones."""
    hashes = {f"android-{abi}": hashlib.sha256(engine).hexdigest() for abi, engine in ENGINES.items()}
    monkeypatch.setattr(packs, "_ANDROID_SHA256", hashes)
    return Clients(tmp_path, monkeypatch)


def pack(abi: str = "arm64-v8a", engine: Path | None = None) -> Pack:
    return find_pack(ANDROID[abi], engine=engine)


def test_npm_fetches_all_abis_at_once_and_once(clients: Clients, cache: Path) -> None:
    clients.add("npm", make_npm_package(make_aar(ENGINES)), "x.tgz")
    said: list[str] = []
    found = find_pack(ANDROID["arm64-v8a"], progress=said.append)
    assert found.engine.path.read_bytes() == ENGINES["arm64-v8a"]
    assert found.engine.sha256 == hashlib.sha256(ENGINES["arm64-v8a"]).hexdigest()
    assert found.version == packs.ANDROID_ENGINE
    assert pack("x86").engine.path.read_bytes() == ENGINES["x86"]
    assert clients.calls == [f"pack --silent {packs._NPM_PACKAGE}"]
    assert len(said) == 1
    manifest = json.loads((found.engine.path.parents[1] / "manifest.json").read_text())
    assert manifest["android-x86"] == {
        "sha256": hashlib.sha256(ENGINES["x86"]).hexdigest(),
        "size": len(ENGINES["x86"]),
    }
    assert sorted(path.name for path in cache.iterdir()) == [".lock", f"android-{packs.ANDROID_ENGINE}"]


def test_a_changed_engine_is_noticed_and_fetched_again(clients: Clients) -> None:
    clients.add("npm", make_npm_package(make_aar(ENGINES)), "x.tgz")
    engine = pack().engine.path
    engine.write_bytes(ENGINES["arm64-v8a"][:-1] + b"!")
    assert pack().engine.path.read_bytes() == ENGINES["arm64-v8a"]
    (engine.parents[1] / "manifest.json").write_text("{")
    assert pack().engine.path.read_bytes() == ENGINES["arm64-v8a"]
    assert len(clients.calls) == 3


def test_maven_where_npm_fails(clients: Clients) -> None:
    clients.add("npm", None, "")
    clients.add("mvn", make_aar(ENGINES), "onnxruntime-android-1.aar")
    assert pack().engine.path.read_bytes() == ENGINES["arm64-v8a"]
    assert "onnxruntime-android" in clients.calls[1]


def test_failures_name_the_way_out(clients: Clients) -> None:
    with pytest.raises(ConfigError, match="neither npm nor mvn is here") as caught:
        pack()
    assert "--engine FILE" in str(caught.value.hint)
    clients.add("npm", None, "")
    with pytest.raises(ConfigError, match="npm error 404 there is no such thing"):
        pack()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (make_npm_package(make_aar({**ENGINES, "x86": b"evil"})), "for android-x86 is something else"),
        (make_npm_package(make_aar({"x86": ENGINES["x86"]})), "for android-.* is something else"),
        (make_npm_package(b"PK no zip"), "damaged archive"),
        (make_npm_package(make_aar({})), "no AAR of ONNX Runtime"),
        (b"no tar", "damaged archive"),
        (make_npm_package(make_aar(ENGINES))[:-50], "damaged archive"),
    ],
)
def test_something_else_is_not_kept(clients: Clients, cache: Path, content: bytes, reason: str) -> None:
    clients.add("npm", content, "x.tgz")
    with pytest.raises(ConfigError, match=reason):
        pack()
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_an_engine_by_hand(clients: Clients, tmp_path: Path) -> None:
    library, aar = tmp_path / "my.so", tmp_path / "my.aar"
    library.write_bytes(ENGINES["arm64-v8a"])
    aar.write_bytes(make_aar({"x86_64": ENGINES["x86_64"], "arm64-v8a": ENGINES["arm64-v8a"]}))
    assert pack(engine=library).engine.path == library
    assert pack(engine=aar).engine.path.read_bytes() == ENGINES["arm64-v8a"]
    assert pack(engine=aar).version is None
    with pytest.raises(ConfigError, match=r"holds no libonnxruntime\.so for android-x86"):
        pack("x86", engine=aar)
    with pytest.raises(ConfigError, match="64-bit ARM64, android-x86 is 32-bit x86"):
        pack("x86", engine=library)
    with pytest.raises(ConfigError, match="is no file"):
        pack(engine=tmp_path / "missing")
    library.write_text("hello")
    with pytest.raises(ConfigError, match="neither a library"):
        pack(engine=library)
    assert clients.calls == []


def test_a_missing_runner_is_said(clients: Clients) -> None:
    find_runner(ANDROID["x86"]).path.unlink()
    with pytest.raises(ConfigError, match="holds no runner for android-x86"):
        pack("x86")


def test_linux_engines_come_from_the_wheel(runners: None) -> None:
    own, other = ("x86_64", "aarch64") if platform.machine() == "x86_64" else ("aarch64", "x86_64")
    found = find_pack(TARGETS[f"linux-{own}"])
    assert "site-packages/onnxruntime/capi" in str(found.engine.path)
    fetched = find_pack(TARGETS[f"linux-{other}"])
    assert fetched.version == found.version
    assert fetched.engine.size > 10 << 20


def test_only_one_of_two_fetches(cache: Path, tmp_path: Path) -> None:
    def fetch(part: Path) -> None:
        with pytest.raises(DeadlineError):  # somebody else waits for the first
            kept("thing", lambda _part: None, Deadline("wait", 0.1))
        (part / "linux-x86_64").mkdir()
        (part / "linux-x86_64/libonnxruntime.so").write_bytes(b"x")

    cache.mkdir(parents=True)
    (cache / ".part-killed").mkdir()
    found = kept("thing", fetch, Deadline("fetch", 60))
    assert found["linux-x86_64"] == artifact(cache / "thing/linux-x86_64/libonnxruntime.so")
    assert sorted(path.name for path in cache.iterdir()) == [".lock", "thing"]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEVICELAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot keep engines in .*file/engines: Not a directory"):
        kept("thing", lambda _part: None, Deadline("fetch", 60))

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devicelab.deadline import Deadline
from devicelab.errors import ConfigError, DeadlineError, VirtualPhoneError
from devicelab.fetching import run_to_end
from devicelab.virtual import packages
from devicelab.virtual.packages import Mirror, choose_mirror, fetch_packages, parse_stanzas, system_mirror

# As `apt-get indextargets` prints it (apt 2.6), less the fields that do not matter here.
STANZA = """\
MetaKey: {component}/binary-amd64/Packages
ShortDesc: Packages
Origin: {origin}
Component: {component}
Created-By: {by}
Release: {release}
Repo-URI: {uri}
Signed-By: {key}
Target-Of: deb
"""
DEBIAN_KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"


def stanza(
    uri: str = "http://mirror.example/debian/",
    release: str = "bookworm",
    *,
    origin: str = "Debian",
    component: str = "main",
    key: str = DEBIAN_KEY,
    by: str = "Packages",
) -> str:
    return STANZA.format(uri=uri, release=release, origin=origin, component=component, key=key, by=by)


def mirror(*stanzas: str, distribution: str = "debian", codename: str = "bookworm") -> Mirror:
    return choose_mirror(parse_stanzas("\n".join(stanzas)), distribution, codename)


def test_the_distributions_own_archive_is_chosen() -> None:
    found = mirror(
        stanza("https://packages.example.com/debian/", origin="Example", key="/etc/apt/keyrings/example.gpg"),
        stanza("http://mirror.example/debian-security/", "bookworm-security"),
        stanza("http://mirror.example/debian/", "bookworm-updates"),
        stanza("cdrom://[Debian 12]/"),
        stanza("http://mirror.example/debian/", by="Translations"),
        stanza("http://mirror.example/debian/", component="contrib"),
        stanza("http://mirror.example.org/debian/"),
    )
    assert found == Mirror("debian", "http://mirror.example.org/debian", "bookworm", DEBIAN_KEY)


def test_before_the_first_apt_update_there_is_no_origin_to_see() -> None:
    found = mirror(
        stanza("https://packages.example.com/debian/", origin="", key="/etc/apt/keyrings/example.gpg"),
        stanza("http://mirror.example.org/debian/", origin=""),
    )
    assert found.uri == "http://mirror.example.org/debian"


def test_one_line_sources_name_no_key() -> None:
    assert mirror(stanza(key="")).signed_by == ""


def test_ubuntu_keeps_its_own_suite() -> None:
    found = mirror(
        stanza(
            "http://archive.ubuntu.com/ubuntu/",
            "noble",
            origin="Ubuntu",
            key="/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        ),
        distribution="ubuntu",
        codename="noble",
    )
    assert (found.suite, found.uri) == ("noble", "http://archive.ubuntu.com/ubuntu")


def test_no_archive_is_an_error_that_says_where_to_look() -> None:
    with pytest.raises(VirtualPhoneError, match="no source for debian") as error:
        mirror(stanza(origin="Example", key="x", release="stable"))
    assert "indextargets" in str(error.value.hint)


def test_a_key_inside_the_source_survives(tmp_path: Path) -> None:
    key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEZ\n -----END PGP PUBLIC KEY BLOCK-----"
    found = mirror(stanza(key=key))
    apt = packages._Apt(tmp_path, found, "amd64", "trixie", Deadline("test", 60))
    assert f"signed-by={tmp_path}/key.asc" in (tmp_path / "sources.list").read_text(encoding="utf-8")
    assert (tmp_path / "key.asc").read_text(encoding="utf-8") == (
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEZ\n-----END PGP PUBLIC KEY BLOCK-----\n"
    )
    assert apt.state == tmp_path


@given(st.text(alphabet=":\n aB.\t", max_size=80))
def test_any_stanzas_are_read(text: str) -> None:
    for found in parse_stanzas(text):
        assert found


def test_this_machines_own_mirror() -> None:
    found = system_mirror()
    assert found.distribution in ("debian", "ubuntu")
    assert found.suite


def test_another_suite_of_the_same_mirror(tmp_path: Path) -> None:
    suite = "bookworm" if system_mirror().distribution == "debian" else None
    assert any(name.startswith("netbase_") for name in fetch_packages(["netbase"], tmp_path, suite=suite))
    assert (tmp_path / "etc/services").exists()


def test_without_apt_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VirtualPhoneError, match="apt-get, apt-config, dpkg-deb not found") as error:
        fetch_packages(["mksh"], tmp_path)
    assert error.value.hint


def test_on_another_system_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "fedora", "PRETTY_NAME": "Fedora 42"})
    with pytest.raises(VirtualPhoneError, match="Fedora 42 is neither Debian nor Ubuntu"):
        fetch_packages(["mksh"], tmp_path)


def test_no_network_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Mirror("debian", "http://127.0.0.1:9/debian", "bookworm", "")
    monkeypatch.setattr(packages, "system_mirror", lambda _deadline: nowhere)
    monkeypatch.setattr(packages, "_SECOND_TRY_SECONDS", 0.1)
    with pytest.raises(VirtualPhoneError, match=r"`apt-get update` failed: .*127\.0\.0\.1"):
        fetch_packages(["mksh"], tmp_path)


def test_a_mirror_that_fails_once_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "apt-get"
    fake.write_text(
        f"#!/bin/sh\n[ -e {tmp_path}/tried ] && exit 0\n: >{tmp_path}/tried\nexit 100\n", encoding="utf-8"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(packages, "_SECOND_TRY_SECONDS", 0.1)
    monkeypatch.setattr(
        packages, "system_mirror", lambda _deadline: Mirror("debian", "http://x", "bookworm", "")
    )
    assert fetch_packages(["mksh"], tmp_path / "dest") == []


@pytest.mark.parametrize(
    "words",
    [
        "E: You don't have enough free space in /tmp/archives/.",
        "W: An error\nE: Write error - write (28: No space left on device)\nE: Something else",
        "tar: ./usr/lib/libz.so.1: Wrote only 6656 of 10240 bytes\ndpkg-deb: error: tar returned 2",
    ],
)
def test_a_full_disk_is_the_hosts_trouble(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tmp_path / "apt-get"
    full.write_text(f'#!/bin/sh\ncat >&2 <<"END"\n{words}\nEND\nexit 100\n', encoding="utf-8")
    full.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ConfigError, match=r"`apt-get indextargets` failed: .*(space|Wrote only)") as error:
        fetch_packages(["mksh"], tmp_path / "dest")
    assert "--state-dir" in str(error.value.hint)


def test_a_hanging_apt_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "apt-get"
    slow.write_text("#!/bin/sh\nsleep 100\n", encoding="utf-8")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(DeadlineError, match="fetching mksh"):
        fetch_packages(["mksh"], tmp_path / "dest", deadline=Deadline("fetching mksh", 0.5))


def test_a_missing_package_is_named_and_the_host_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """apt-get runs under a configuration that keeps to the private state and runs no hooks."""
    seen: list[dict[str, str]] = []

    def spy(
        argv: Sequence[str], deadline: Deadline, *, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        if argv[0] == "apt-get" and "indextargets" not in argv:
            dump = run_to_end(["apt-config", "dump"], deadline, environment=environment).stdout
            seen.append({line.split(" ", 1)[0].lower(): line.split(" ", 1)[1] for line in dump.splitlines()})
        return run_to_end(argv, deadline, environment=environment)

    monkeypatch.setattr(packages, "run_to_end", spy)
    said: list[str] = []
    with pytest.raises(VirtualPhoneError, match="Unable to locate package devicelab-no-such-package"):
        fetch_packages(["devicelab-no-such-package"], tmp_path, progress=said.append)

    assert "package lists" in said[0]
    assert len(seen) in {2, 3}  # update, maybe once more, and install
    for settings in seen:
        state = settings["dir::state"].strip('";')
        assert "devicelab-apt." in state
        for key in (
            "dir::cache",
            "dir::state::lists",
            "dir::state::status",
            "dir::etc::sourcelist",
            "dir::etc::parts",
        ):
            assert settings[key].strip('";').startswith(state)
        assert not [key for key in settings if "-invoke" in key]
        assert settings["acquire::allowinsecurerepositories"] == '"false";'
        assert not Path(state).exists()  # and nothing is left of it

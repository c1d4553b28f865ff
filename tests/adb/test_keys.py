"""Host keys: the same as adb's to the byte, private to the user, and made only once."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import adbutils
import pytest
from adb_shell.auth.sign_cryptography import CryptographySigner
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from hypothesis import given, settings
from hypothesis import strategies as st

from devicelab.adb.keys import TOKEN_SIZE, HostKey, KeyRing, android_dir, encode_public_key, load_key
from devicelab.errors import ConfigError

ADB = Path(adbutils.__file__).parent / "binaries" / "adb"
TOKEN = bytes(range(TOKEN_SIZE))


def adb(home: Path, *words: str) -> bytes:
    """The real adb; keygen and pubkey need no server."""
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    return subprocess.run([ADB, *words], env=environment, check=True, capture_output=True, timeout=60).stdout


@pytest.fixture(autouse=True)
def no_vendor_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADB_VENDOR_KEYS", raising=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a key of adb's own."""
    directory = tmp_path_factory.mktemp("adb")
    adb(directory, "keygen", str(directory / "adbkey"))
    return directory


@pytest.fixture(scope="module")
def key(made: Path) -> HostKey:
    return load_key(made / "adbkey")


def test_the_usual_place_is_adbs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert android_dir() == tmp_path / ".android"
    (key,) = KeyRing().keys()
    assert key.path == tmp_path / ".android" / "adbkey"


def test_a_new_key_is_private_and_its_directory_too(tmp_path: Path) -> None:
    directory = tmp_path / "home" / ".android"
    KeyRing(directory).keys()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "adbkey").stat().st_mode) == 0o600
    assert stat.S_IMODE((directory / "adbkey.pub").stat().st_mode) == 0o644
    assert sorted(path.name for path in directory.iterdir()) == ["adbkey", "adbkey.pub"]


def test_adb_takes_our_key_for_its_own(tmp_path: Path) -> None:
    directory = tmp_path / ".android"
    (key,) = KeyRing(directory).keys()
    theirs = adb(tmp_path, "pubkey", str(directory / "adbkey")).split()[0]
    assert key.public_line.split()[0] == theirs
    assert (directory / "adbkey.pub").read_bytes() == key.public_line


def test_we_take_adbs_key_for_our_own(made: Path) -> None:
    before = {path: path.read_bytes() for path in made.iterdir()}
    (key,) = KeyRing(made).keys()
    assert key.public_line.split()[0] == (made / "adbkey.pub").read_bytes().split()[0]
    assert {path: path.read_bytes() for path in made.iterdir()} == before, "nothing is written"


def test_the_public_line_has_the_owners_name(key: HostKey) -> None:
    blob, owner = key.public_line.split(b" ")
    assert len(base64.b64decode(blob, validate=True)) == 524
    assert b"@" in owner


def test_the_fingerprint_is_that_of_the_dialog(made: Path, key: HostKey) -> None:
    """Android: MD5 over the decoded base64, upper case, colons (AdbDebuggingManager.getFingerprints)."""
    blob = base64.b64decode((made / "adbkey.pub").read_bytes().split()[0])
    digest = hashlib.md5(blob).hexdigest().upper()
    assert key.fingerprint == ":".join(digest[at : at + 2] for at in range(0, 32, 2))
    assert len(key.fingerprint) == 47


def test_the_key_is_hidden_where_it_is_printed(key: HostKey) -> None:
    assert str(key.private.private_numbers().d) not in repr(key)


@settings(max_examples=20, deadline=None)
@given(token=st.binary(min_size=TOKEN_SIZE, max_size=TOKEN_SIZE))
def test_signatures_are_those_of_adb_shell_and_verify(made: Path, key: HostKey, token: bytes) -> None:
    signature = key.sign(token)
    assert signature == CryptographySigner(str(made / "adbkey")).Sign(token)
    key.private.public_key().verify(signature, token, padding.PKCS1v15(), Prehashed(hashes.SHA1()))


def test_a_token_of_another_length_is_not_signed(key: HostKey) -> None:
    with pytest.raises(ValueError, match="digest"):
        key.sign(b"x" * 32)


def test_the_montgomery_numbers(key: HostKey) -> None:
    public = key.private.public_key()
    blob = encode_public_key(public)
    n = public.public_numbers().n
    words, n0inv = int.from_bytes(blob[:4], "little"), int.from_bytes(blob[4:8], "little")
    assert words == 64
    assert (n0inv * n + 1) % (1 << 32) == 0
    assert int.from_bytes(blob[8:264], "little") == n
    assert int.from_bytes(blob[264:520], "little") == pow(2, 4096, n)
    assert int.from_bytes(blob[520:], "little") == 65537


def test_many_processes_at_once_make_one_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from devicelab.adb.keys import KeyRing;"
        "sys.stdin.readline(); print(KeyRing(Path(sys.argv[1])).keys()[0].fingerprint)"
    )
    directory = tmp_path / ".android"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    fingerprints = {racer.communicate(timeout=120)[0] for racer in racers}
    assert len(fingerprints) == 1
    assert fingerprints != {""}
    assert sorted(path.name for path in directory.iterdir()) == ["adbkey", "adbkey.pub"]


def test_a_lost_public_file_is_written_again(tmp_path: Path, made: Path) -> None:
    directory = tmp_path / ".android"
    directory.mkdir()
    (directory / "adbkey").write_bytes((made / "adbkey").read_bytes())
    (key,) = KeyRing(directory).keys()
    assert (directory / "adbkey.pub").read_bytes() == key.public_line


def test_keys_are_read_once(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / ".android")
    first = ring.keys()
    (tmp_path / ".android" / "adbkey").unlink()
    assert ring.keys() == first


def _pem(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, password: bytes = b"") -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        _pem(ec.generate_private_key(ec.SECP256R1())),
        _pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)),
        _pem(rsa.generate_private_key(public_exponent=65537, key_size=2048), b"secret"),
    ],
    ids=["empty", "nonsense", "cut", "elliptic", "1024 bits", "encrypted"],
)
def test_a_broken_key_is_named_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "adbkey"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)) as caught:
        KeyRing(tmp_path).keys()
    assert "Move the file away" in str(caught.value.hint)
    assert path.read_bytes() == content


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="file/sub/adbkey"):
        KeyRing(tmp_path / "file" / "sub").keys()


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigError, match="no home directory") as caught:
        KeyRing().keys()
    assert caught.value.hint == "Set HOME."


def test_vendor_keys_come_after_ours(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vendor = tmp_path / "vendor"
    vendor.mkdir()
    others = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]
    (vendor / "b.adb_key").write_bytes(_pem(others[1]))
    (vendor / "a.adb_key").write_bytes(_pem(others[0]))
    (vendor / "ignored.pem").write_bytes(b"not a key, and not read")
    (vendor / "broken.adb_key").write_bytes(b"not a key")
    missing = tmp_path / "missing"
    again = vendor / "a.adb_key"
    monkeypatch.setenv(
        "ADB_VENDOR_KEYS", os.pathsep.join(map(str, [vendor, missing, again, "", made / "adbkey"]))
    )
    with caplog.at_level(logging.WARNING):
        keys = KeyRing(made).keys()
    assert [key.path for key in keys] == [made / "adbkey", vendor / "a.adb_key", vendor / "b.adb_key"]
    assert len(caplog.records) == 2
    assert "broken.adb_key" in caplog.text
    assert "missing" in caplog.text

"""Keys in adb's format, the keys file, and the question on the screen."""

from __future__ import annotations

import base64
import os
import select
import stat
import struct
import threading
from pathlib import Path

import pytest
from adb_shell.auth.keygen import encode_pubkey, keygen
from adb_shell.auth.sign_cryptography import CryptographySigner
from hypothesis import given, settings
from hypothesis import strategies as st

from devicelab.errors import VirtualPhoneError
from devicelab.virtual.authorization import (
    Answer,
    Authorization,
    KeyFormatError,
    PublicKey,
    parse_public_key,
)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "adbkey"
    keygen(str(path))
    return path


@pytest.fixture
def key(key_file: Path) -> PublicKey:
    return parse_public_key(base64.b64encode(encode_pubkey(str(key_file))) + b" me@desk\0")


@pytest.fixture
def authorization(tmp_path: Path) -> Authorization:
    return Authorization(tmp_path / "adb_keys", required=True)


def sign(key_file: Path, token: bytes) -> bytes:
    return bytes(CryptographySigner(str(key_file)).Sign(token))


def test_a_key_is_read_as_android_shows_it(key: PublicKey) -> None:
    assert key.owner == "me@desk"
    assert len(key.fingerprint) == 16 * 3 - 1
    assert key.fingerprint == key.fingerprint.upper()
    assert parse_public_key(key.line.encode()) == key


def test_a_signature_fits_its_key_and_token_only(key: PublicKey, key_file: Path, tmp_path: Path) -> None:
    token = os.urandom(20)
    signature = sign(key_file, token)
    assert key.signed(token, signature)
    assert not key.signed(os.urandom(20), signature)
    assert not key.signed(token, b"")
    assert not key.signed(token[:19], signature)
    assert not key.signed(token, signature + b"\0")
    assert not key.signed(token, b"\0" + signature[:-1])
    assert not key.signed(token, bytes(256))
    assert not key.signed(token, b"\xff" * 4096)
    keygen(str(tmp_path / "other"))
    assert not key.signed(token, sign(tmp_path / "other", token))


def test_an_owner_cannot_smuggle_a_second_key_into_the_file(key: PublicKey) -> None:
    blob = key.line.split()[0]
    hostile = parse_public_key(f"{blob} a\n{blob} \x1b[2Jb\u00e9{'c' * 100}\0".encode())
    assert "\n" not in hostile.line
    assert hostile.owner.isprintable()
    assert len(hostile.owner) <= 64


@pytest.mark.parametrize(
    ("words", "exponent", "modulus"),
    [
        (63, 65537, b"\xff" * 256),
        (64, 5, b"\xff" * 256),
        (64, 65537, b"\xff" * 255 + b"\0"),
        (64, 3, bytes(256)),
    ],
)
def test_odd_numbers_are_no_keys(words: int, exponent: int, modulus: bytes) -> None:
    blob = struct.pack("<II256s256sI", words, 0, modulus, bytes(256), exponent)
    with pytest.raises(KeyFormatError):
        parse_public_key(base64.b64encode(blob))


@settings(max_examples=1000)
@given(st.one_of(st.binary(max_size=1000), st.binary(min_size=524, max_size=524).map(base64.b64encode)))
def test_random_bytes_are_refused_cleanly(data: bytes) -> None:
    try:
        key = parse_public_key(data)
    except KeyFormatError:
        return
    assert parse_public_key(key.line.encode()).fingerprint == key.fingerprint


def test_always_is_written_down_once_and_revoked(
    authorization: Authorization, key: PublicKey, key_file: Path, tmp_path: Path
) -> None:
    token = os.urandom(20)
    for _ in range(2):
        with authorization.ask(key) as opened:
            assert [str(q) for q in authorization.pending()] == [
                f"Allow USB debugging? The computer's RSA key fingerprint is {key.fingerprint} (me@desk)"
            ]
            assert authorization.answer(Answer.ALWAYS) == [opened.question]
            assert opened.answer is Answer.ALWAYS
            assert authorization.pending() == []
    assert (tmp_path / "adb_keys").read_text() == key.line + "\n"
    assert stat.S_IMODE((tmp_path / "adb_keys").stat().st_mode) == 0o600
    assert authorization.accepts(token, sign(key_file, token))
    authorization.revoke_all()
    assert not authorization.accepts(token, sign(key_file, token))


def test_the_keys_file_is_read_anew_and_junk_in_it_is_skipped(
    authorization: Authorization, key: PublicKey, tmp_path: Path
) -> None:
    assert authorization.trusted() == []
    (tmp_path / "adb_keys").write_bytes(b"\n# note\n\xff\xfe\n" + key.line.encode() + b"\r\nAAAA x\n")
    assert authorization.trusted() == [key]


@pytest.mark.parametrize("answer", list(Answer))
def test_an_answer_from_another_thread_wakes_the_asker(
    authorization: Authorization, key: PublicKey, answer: Answer
) -> None:
    with authorization.ask(key) as first, authorization.ask(key) as second:
        threading.Timer(0.05, authorization.answer, (answer, second.question.number)).start()
        poll = select.poll()
        for opened in (first, second):
            poll.register(opened.wake, select.POLLIN)
        assert [fd for fd, _ in poll.poll(30_000)] == [second.wake]
        assert (first.answer, second.answer) == (None, answer)
        assert authorization.pending() == [first.question]


def test_a_question_goes_away_with_its_asker(authorization: Authorization, key: PublicKey) -> None:
    with authorization.ask(key) as opened:
        number = opened.question.number
    assert authorization.pending() == []
    with pytest.raises(VirtualPhoneError, match="no computer is asking"):
        authorization.answer(Answer.ALLOW, number)
    with pytest.raises(VirtualPhoneError, match="no computer is asking"):
        authorization.answer(Answer.ALLOW)


def test_the_number_of_questions_is_bounded(authorization: Authorization, key: PublicKey) -> None:
    def ask(depth: int) -> None:
        with authorization.ask(key):
            if depth:
                ask(depth - 1)

    ask(15)
    with pytest.raises(VirtualPhoneError, match="16 computers"):
        ask(16)
    assert authorization.pending() == []


def test_a_key_that_cannot_be_remembered_leaves_the_question_open(key: PublicKey, tmp_path: Path) -> None:
    authorization = Authorization(tmp_path / "missing" / "adb_keys", required=True)
    with authorization.ask(key) as opened:
        with pytest.raises(VirtualPhoneError, match="cannot write"):
            authorization.answer(Answer.ALWAYS)
        assert opened.answer is None
        assert authorization.pending() == [opened.question]

"""Who may debug a virtual phone: trusted keys on its disk, and the question that a real one shows.

Keys travel and rest in adb's own format: base64 of Android's ``RSAPublicKey`` structure (AOSP,
``system/core/libcrypto_utils/android_pubkey.cpp``), a space, and who it belongs to.

Checking a signature is a few lines of public arithmetic here, because every phone's keeper would otherwise
load a whole cryptography library for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import logging
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from threading import Lock

from devicelab.errors import VirtualPhoneError
from devicelab.files import write_atomically

__all__ = [
    "TOKEN_SIZE",
    "Answer",
    "Authorization",
    "KeyFormatError",
    "OpenQuestion",
    "PublicKey",
    "Question",
    "parse_public_key",
]

TOKEN_SIZE = 20

_log = logging.getLogger(__name__)

_MODULUS_WORDS = 64
_MODULUS_SIZE = 4 * _MODULUS_WORDS
_SHA1_DIGEST_INFO = bytes.fromhex("3021300906052b0e03021a05000414")  # RFC 8017, 9.2, note 1
_STRUCTURE = struct.Struct("<II256s256sI")  # words, -1/n mod 2**32, n, R**2 mod n (both little-endian), e
_EXPONENTS = (3, 65537)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_OWNER_LIMIT = 64
_KEYS_FILE_LIMIT = 1 << 20
_QUESTIONS_LIMIT = 16


class KeyFormatError(ValueError):
    """Bytes that were offered as a public key are none."""


class Answer(StrEnum):
    """What the owner of a phone can press."""

    ALLOW = "allow"  # this connection only
    ALWAYS = "always"  # and from now on
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A computer's key as it offered it.

    Attributes:
        line: How the key stands in a keys file, without a line end.
        fingerprint: As Android shows it: MD5 of the structure, upper-case hex pairs with colons.
        owner: ``user@computer``, as the computer claims; printable ASCII, at most 64 characters, maybe empty.
        modulus: RSA's n, 2048 bits.
        exponent: RSA's e.
    """

    line: str
    fingerprint: str
    owner: str
    modulus: int = field(repr=False)
    exponent: int = field(repr=False)

    def signed(self, token: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is this key's over ``token``.

        adb signs with PKCS#1 v1.5 and passes the 20 random bytes off as a SHA-1 digest (RFC 8017, 8.2.2: encode
        what must have been signed and compare it whole, so there is no padding to parse and get wrong).
        """
        number = int.from_bytes(signature, "big")
        if len(signature) != _MODULUS_SIZE or number >= self.modulus or len(token) != TOKEN_SIZE:
            return False
        padding = b"\xff" * (_MODULUS_SIZE - 3 - len(_SHA1_DIGEST_INFO) - TOKEN_SIZE)
        encoded = b"\0\1" + padding + b"\0" + _SHA1_DIGEST_INFO + token
        return pow(number, self.exponent, self.modulus) == int.from_bytes(encoded, "big")


def parse_public_key(data: bytes) -> PublicKey:
    """Read a key in adb's format, as AUTH packets (NUL at the end) and keys files hold it.

    Raises:
        KeyFormatError: Not base64, not the structure, not a 2048-bit RSA key.
    """
    encoded, _, owner = data.rstrip(b"\0\r\n").partition(b" ")
    try:
        blob = base64.b64decode(encoded, validate=True)
        words, _, modulus, _, exponent = _STRUCTURE.unpack(blob)
    except (binascii.Error, struct.error) as error:
        raise KeyFormatError(f"not an adb public key: {error}") from None
    number = int.from_bytes(modulus, "little")
    if words != _MODULUS_WORDS or exponent not in _EXPONENTS or number.bit_length() != 2048 or not number & 1:
        raise KeyFormatError("not a 2048-bit RSA key with exponent 3 or 65537")
    digest = hashlib.md5(blob, usedforsecurity=False).hexdigest().upper()
    name = _UNPRINTABLE.sub("?", owner.decode("utf-8", "replace"))[:_OWNER_LIMIT].strip()
    line = f"{base64.b64encode(blob).decode()} {name}".rstrip()
    return PublicKey(line, ":".join(re.findall("..", digest)), name, number, exponent)


@dataclass(frozen=True, slots=True)
class Question:
    """One "Allow USB debugging?" that waits for an answer."""

    number: int
    fingerprint: str
    owner: str

    def __str__(self) -> str:
        whose = f" ({self.owner})" if self.owner else ""
        return f"Allow USB debugging? The computer's RSA key fingerprint is {self.fingerprint}{whose}"


@dataclass(slots=True)
class OpenQuestion:
    """A question together with what wakes its asker.

    Attributes:
        question: What is asked.
        key: The key that it is about.
        wake: An eventfd, readable as soon as there is an answer.
        answer: The answer, once there is one.
    """

    question: Question
    key: PublicKey
    wake: int
    answer: Answer | None = None


class Authorization:
    """A phone's memory of computers and its pending questions; any thread may call anything.

    Args:
        keys_file: Where "always" is remembered, one key a line as in Android's ``/data/misc/adb/adb_keys``. It
            is read anew at every check, so that it may also be edited from outside.
        required: Whether computers must be authorized at all; :attr:`required` may be switched at any time and
            concerns handshakes from then on.
    """

    def __init__(self, keys_file: Path, *, required: bool) -> None:
        self.required = required
        self._keys_file = keys_file
        self._lock = Lock()
        self._numbers = itertools.count(1)
        self._open: dict[int, OpenQuestion] = {}

    def trusted(self) -> list[PublicKey]:
        """The keys that need not ask; lines that hold none are skipped, as adbd does.

        Raises:
            OSError: The keys file is there but cannot be read.
        """
        try:
            with self._keys_file.open("rb") as file:
                lines = file.read(_KEYS_FILE_LIMIT).splitlines()
        except FileNotFoundError:
            return []
        keys = []
        for line in filter(None, lines):
            try:
                keys.append(parse_public_key(line))
            except KeyFormatError as error:
                _log.debug("%s: line skipped: %s", self._keys_file, error)
        return keys

    def accepts(self, token: bytes, signature: bytes) -> bool:
        """Whether a trusted key signed ``token``."""
        return any(key.signed(token, signature) for key in self.trusted())

    @contextmanager
    def ask(self, key: PublicKey) -> Iterator[OpenQuestion]:
        """Put the question on the screen for as long as the ``with`` block lasts or until it is answered.

        Raises:
            VirtualPhoneError: Too many questions are pending already.
        """
        wake = os.eventfd(0)
        try:
            with self._lock:
                if len(self._open) >= _QUESTIONS_LIMIT:
                    raise VirtualPhoneError(f"{_QUESTIONS_LIMIT} computers are asking already")
                number = next(self._numbers)
                opened = OpenQuestion(Question(number, key.fingerprint, key.owner), key, wake)
                self._open[number] = opened
            try:
                yield opened
            finally:
                with self._lock:
                    self._open.pop(number, None)
        finally:
            os.close(wake)

    def pending(self) -> list[Question]:
        """The questions without an answer, oldest first."""
        with self._lock:
            return [opened.question for opened in self._open.values()]

    def answer(self, answer: Answer, number: int | None = None) -> list[Question]:
        """Press a button.

        Args:
            answer: Which one.
            number: Which question; None answers all that are pending.

        Returns:
            The questions that this answered.

        Raises:
            VirtualPhoneError: Nobody asks (any more), or the key cannot be written down.
        """
        with self._lock:
            chosen = [opened for key, opened in self._open.items() if number in (None, key)]
            if not chosen:
                raise VirtualPhoneError(
                    "no computer is asking for permission",
                    hint="The phone asks when a computer whose key it does not know connects.",
                )
            if answer is Answer.ALWAYS:
                self._remember([opened.key for opened in chosen])
            for opened in chosen:
                del self._open[opened.question.number]
                opened.answer = answer
                os.eventfd_write(opened.wake, 1)
        return [opened.question for opened in chosen]

    def revoke_all(self) -> None:
        """Forget every computer; those that are connected stay so, as on a phone with its cable in.

        Raises:
            VirtualPhoneError: The keys file cannot be written.
        """
        with self._lock:
            self._write([])

    def _remember(self, keys: list[PublicKey]) -> None:
        lines = [key.line for key in self.trusted()]
        self._write([*dict.fromkeys([*lines, *(key.line for key in keys)])])

    def _write(self, lines: list[str]) -> None:
        try:
            write_atomically(self._keys_file, "".join(f"{line}\n" for line in lines).encode(), mode=0o600)
        except OSError as error:
            raise VirtualPhoneError(f"cannot write {self._keys_file}: {error.strerror}") from error

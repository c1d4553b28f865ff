"""The keys by which phones know this host: adb's own, in adb's own place and format.

So a phone that has allowed adb allows us, and the other way round. Private keys are RSA 2048 in PKCS#8 PEM.
Public keys travel as base64 of AOSP's ``RSAPublicKey`` structure (``libcrypto_utils/android_pubkey.cpp``)
followed by ``user@host``.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import logging
import os
import socket
import struct
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from devicelab.errors import ConfigError
from devicelab.files import write_atomically

if TYPE_CHECKING:  # it takes a while to load, and only a phone that asks for authorization needs it
    from cryptography.hazmat.primitives.asymmetric import rsa

__all__ = ["TOKEN_SIZE", "HostKey", "KeyRing", "android_dir", "encode_public_key", "load_key"]

TOKEN_SIZE = 20
"""Bytes in the token that a phone wants signed: as long as a SHA-1 digest, and signed as if it were one."""

_BITS = 2048
_WORDS = _BITS // 32
_PUBLIC = struct.Struct(f"<II{_BITS // 8}s{_BITS // 8}sI")  # words, -1/n mod 2**32, n, R**2 mod n, e

_log = logging.getLogger(__name__)


def android_dir() -> Path:
    """Where adb keeps its keys: ``~/.android``.

    Raises:
        ConfigError: This user has no home.
    """
    try:
        return Path.home() / ".android"
    except RuntimeError as error:  # a container with a number for a user
        raise ConfigError("no home directory for adb's key", hint="Set HOME.") from error


def encode_public_key(key: rsa.RSAPublicKey) -> bytes:
    """The 524 bytes that Android knows a 2048-bit key by, with the numbers for Montgomery multiplication."""
    numbers = key.public_numbers()
    size = _BITS // 8
    n0inv = -pow(numbers.n, -1, 1 << 32) % (1 << 32)
    rr = (1 << (2 * _BITS)) % numbers.n
    return _PUBLIC.pack(
        _WORDS, n0inv, numbers.n.to_bytes(size, "little"), rr.to_bytes(size, "little"), numbers.e
    )


@dataclass(frozen=True, slots=True)
class HostKey:
    """One private key.

    Attributes:
        path: The file it came from.
        private: The key.
    """

    path: Path
    private: rsa.RSAPrivateKey

    @property
    def public_line(self) -> bytes:
        """What is sent to a phone and stands in ``adbkey.pub``: base64, a space, ``user@host``."""
        blob = encode_public_key(self.private.public_key())
        return base64.b64encode(blob) + f" {_user()}@{socket.gethostname()}".encode()

    @property
    def fingerprint(self) -> str:
        """As the phone's "Allow USB debugging?" dialog shows it: MD5, upper-case, colons between bytes."""
        blob = encode_public_key(self.private.public_key())
        return hashlib.md5(blob, usedforsecurity=False).digest().hex(":").upper()

    def sign(self, token: bytes) -> bytes:
        """Answer a phone's challenge.

        Args:
            token: :data:`TOKEN_SIZE` bytes; others cannot be signed as a digest.
        """
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric.utils import Prehashed  # noqa: PLC0415

        return self.private.sign(token, padding.PKCS1v15(), Prehashed(hashes.SHA1()))  # noqa: S303  # ADB's choice


class KeyRing:
    """The keys to try on a phone, read when the first phone asks.

    Args:
        directory: Where ``adbkey`` is; None: :func:`android_dir`.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._keys: list[HostKey] = []

    def keys(self) -> list[HostKey]:
        """This user's key first, made if absent, then those in ``$ADB_VENDOR_KEYS``; each once.

        Raises:
            ConfigError: This user's key cannot be read or made, or there is no place for it.
        """
        with self._lock:
            if not self._keys:
                path = (self._directory or android_dir()) / "adbkey"
                unique: dict[str, HostKey] = {}
                for key in (_user_key(path), *_vendor_keys()):
                    unique.setdefault(key.fingerprint, key)
                self._keys = list(unique.values())
            return list(self._keys)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container with a number for a user
        return "unknown"


def _user_key(path: Path) -> HostKey:
    try:
        if not path.exists():
            _make(path)
        key = load_key(path)
        public = path.with_name(f"{path.name}.pub")
        if not public.exists():
            write_atomically(public, key.public_line)
    except OSError as error:
        raise ConfigError(
            f"adb's key {path} cannot be used: {error.strerror or error}",
            hint="Phones that ask for authorization need it; make its directory readable and writable.",
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"adb's key {path} cannot be used: {error}",
            hint="Move the file away, then a new one is made; phones will ask to allow this computer again.",
        ) from error
    return key


def _make(path: Path) -> None:
    """Make a new key under a name of its own and link it to its place.

    So the first of two processes wins, and the file is never there half.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = rsa.generate_private_key(public_exponent=65537, key_size=_BITS).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)  # mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(temporary)
    except FileExistsError:
        _log.debug("another process has just made %s; using that", path)
    finally:
        temporary.unlink()


def load_key(path: Path) -> HostKey:
    """Read one private key.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not an unencrypted RSA key of 2048 bits.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (TypeError, UnsupportedAlgorithm) as error:  # encrypted; of a kind that nobody knows
        raise ValueError(str(error)) from error
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size != _BITS:
        raise ValueError(f"not an RSA key of {_BITS} bits")
    return HostKey(path, key)


def _vendor_keys() -> list[HostKey]:
    """Keys in ``$ADB_VENDOR_KEYS``, files or directories of ``*.adb_key``.

    What cannot be read is passed over with a warning, as adb does: build environments set the variable for
    everybody.
    """
    keys = []
    for entry in filter(None, os.environ.get("ADB_VENDOR_KEYS", "").split(os.pathsep)):
        path = Path(entry)
        for file in sorted(path.glob("*.adb_key")) if path.is_dir() else [path]:
            try:
                keys.append(load_key(file))
            except (OSError, ValueError) as error:
                _log.warning("ADB_VENDOR_KEYS: %s passed over: %s", file, error)
    return keys

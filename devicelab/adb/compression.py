"""Compressed pushes and pulls: which methods both sides have, and their streams as adbd wants them.

adbd (Android 11 and newer) takes and gives one brotli stream, lz4 frame or zstd frame per file, cut into DATA
frames at any place. The packages are optional (``pip install devicelab[compression]``); without one its method
is simply not offered.

Decompressors hand out their result in pieces of bounded size, so that a few bytes which stand for gigabytes can
be stopped at the caller's cap.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Literal, Protocol

from devicelab.adb.malformed import MalformedError

__all__ = [
    "METHODS",
    "Compression",
    "Compressor",
    "Decompressor",
    "available",
    "compressor",
    "decompressor",
    "flag",
    "worth_compressing",
]

Compression = Literal["none", "brotli", "lz4", "zstd"]

_FLAGS: dict[Compression, int] = {"none": 0, "brotli": 1, "lz4": 2, "zstd": 4}  # kSyncFlag… in adb
METHODS: tuple[Compression, ...] = ("zstd", "lz4", "brotli")
"""All that compress, the best first: adb's own order."""

_MODULES: dict[Compression, str] = {"brotli": "brotli", "lz4": "lz4.frame", "zstd": "zstandard"}
_PIECE = 1 << 20  # bytes handed out at a time (brotli may double it)
_WINDOW = 8 << 20  # bytes; what the zstd format asks every decoder to support (RFC 8878, 3.1.1.1.2)
_GAIN = 0.9  # compressing pays if a sample shrinks below this


class Compressor(Protocol):
    """Makes one compressed stream."""

    def feed(self, data: bytes | memoryview) -> bytes:
        """Add data; returns what is ready."""
        ...

    def finish(self) -> bytes:
        """End the stream; returns what is left."""
        ...


Sink = Callable[[bytes], object]


class Decompressor(Protocol):
    """Reads one compressed stream."""

    def feed(self, data: bytes | memoryview) -> None:
        """Add data; the result goes to the sink in pieces of a few mebibytes at most.

        Raises:
            MalformedError: The data is damaged, or needs more memory than allowed.
        """
        ...


def flag(method: Compression) -> int:
    """The number that stands for a method in SND2 and RCV2."""
    return _FLAGS[method]


def available(features: frozenset[str]) -> list[Compression]:
    """The methods that the phone announced and this host has packages for, the best first."""
    if "sendrecv_v2" not in features:
        return []
    announced = (method for method in METHODS if f"sendrecv_v2_{method}" in features)
    return [method for method in announced if _module(method) is not None]


def compressor(method: Compression) -> Compressor:
    """A fresh stream at the method's fastest useful level, as the cable is rarely slower than that.

    Raises:
        ValueError: This host does not have the method.
    """
    makers: dict[Compression, Callable[[ModuleType], Compressor]] = {
        "brotli": _BrotliCompressor,
        "lz4": _Lz4Compressor,
        "zstd": _ZstdCompressor,
    }
    return makers[method](_required(method))


def decompressor(method: Compression, sink: Sink) -> Decompressor:
    """A fresh reader; what ``sink`` raises comes through and ends it.

    Raises:
        ValueError: This host does not have the method.
    """
    makers: dict[Compression, Callable[[ModuleType, Sink], Decompressor]] = {
        "brotli": _BrotliDecompressor,
        "lz4": _Lz4Decompressor,
        "zstd": _ZstdDecompressor,
    }
    return makers[method](_required(method), sink)


def worth_compressing(method: Compression, sample: bytes) -> bool:
    """Whether a sample of the content shrinks enough to pay; trained weights and archives do not."""
    stream = compressor(method)
    return len(stream.feed(sample)) + len(stream.finish()) < _GAIN * len(sample)


@cache
def _module(method: Compression) -> ModuleType | None:
    try:
        module = importlib.import_module(_MODULES[method])
    except ImportError:
        return None
    if method == "brotli" and not hasattr(module.Decompressor, "can_accept_more_data"):
        return None  # before brotli 1.2 its output cannot be bounded
    return module


def _required(method: Compression) -> ModuleType:
    module = _module(method)
    if module is None:
        raise ValueError(f"no package for {method} here: pip install devicelab[compression]")
    return module


class _BrotliCompressor:
    def __init__(self, module: ModuleType) -> None:
        self._stream = module.Compressor(quality=1)

    def feed(self, data: bytes | memoryview) -> bytes:
        return bytes(self._stream.process(bytes(data)))

    def finish(self) -> bytes:
        return bytes(self._stream.finish())


class _Lz4Compressor:
    def __init__(self, module: ModuleType) -> None:
        self._stream = module.LZ4FrameCompressor()
        self._begun = False

    def feed(self, data: bytes | memoryview) -> bytes:
        begin = b"" if self._begun else self._stream.begin()
        self._begun = True
        return begin + bytes(self._stream.compress(data))

    def finish(self) -> bytes:
        begin = b"" if self._begun else self._stream.begin()
        return begin + bytes(self._stream.flush())


class _ZstdCompressor:
    def __init__(self, module: ModuleType) -> None:
        self._stream = module.ZstdCompressor(level=1).compressobj()

    def feed(self, data: bytes | memoryview) -> bytes:
        return bytes(self._stream.compress(data))

    def finish(self) -> bytes:
        return bytes(self._stream.flush())


class _BrotliDecompressor:
    def __init__(self, module: ModuleType, sink: Sink) -> None:
        self._error = module.error
        self._stream = module.Decompressor()
        self._sink = sink

    def feed(self, data: bytes | memoryview) -> None:
        rest = bytes(data)
        while not self._stream.is_finished():
            try:
                piece = self._stream.process(rest, output_buffer_limit=_PIECE)
            except self._error as error:
                raise MalformedError(f"damaged brotli data: {error}") from error
            rest = b""
            if piece:
                self._sink(piece)
            elif self._stream.can_accept_more_data():
                return


class _Lz4Decompressor:
    def __init__(self, module: ModuleType, sink: Sink) -> None:
        self._stream = module.LZ4FrameDecompressor()
        self._sink = sink

    def feed(self, data: bytes | memoryview) -> None:
        rest = bytes(data)
        while not self._stream.eof:
            try:
                piece = self._stream.decompress(rest, max_length=_PIECE)
            except RuntimeError as error:
                raise MalformedError(f"damaged lz4 data: {error}") from error
            rest = b""
            if piece:
                self._sink(piece)
            if self._stream.needs_input:
                return


class _ZstdDecompressor:
    def __init__(self, module: ModuleType, sink: Sink) -> None:
        self._error = module.ZstdError
        # Of the package's interfaces the one that both bounds its pieces and takes its input as it comes.
        self._stream = module.ZstdDecompressor(max_window_size=_WINDOW).stream_writer(
            _Writer(sink), write_size=_PIECE
        )

    def feed(self, data: bytes | memoryview) -> None:
        try:
            self._stream.write(data)
        except self._error as error:
            raise MalformedError(f"damaged zstd data: {error}") from error


class _Writer:
    """A sink as zstandard wants it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, data: bytes) -> int:
        self._sink(data)
        return len(data)

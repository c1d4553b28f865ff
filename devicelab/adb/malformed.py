"""What every codec here raises: bytes that the protocol does not allow."""

from __future__ import annotations

__all__ = ["MalformedError"]


class MalformedError(ValueError):
    """Bytes that a protocol does not allow; the text says which.

    A codec knows neither the phone nor the operation. Whoever feeds it turns this into a
    :class:`~devicelab.errors.ProtocolError` that names both.
    """

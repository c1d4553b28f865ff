"""How each ATen operator is written in ONNX (opset 18), a family a file."""

from __future__ import annotations

from devicelab.plans.operators import (
    creating,
    elementwise,
    indexing,
    linear,
    normalizing,
    reducing,
    shaping,
    windows,
)
from devicelab.plans.writer import Translator

__all__ = ["TRANSLATORS"]

TRANSLATORS: dict[str, Translator] = {
    **creating.TRANSLATORS,
    **elementwise.TRANSLATORS,
    **indexing.TRANSLATORS,
    **linear.TRANSLATORS,
    **normalizing.TRANSLATORS,
    **reducing.TRANSLATORS,
    **shaping.TRANSLATORS,
    **windows.TRANSLATORS,
}

"""Checkpoint files: the same content, the same bytes."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from safetensors.numpy import load, save

from devicelab.errors import StoreError
from devicelab.store.checkpoints import (
    CheckpointFacts,
    checkpoint_name,
    decode_tensors,
    encode_tensors,
    read_facts,
)
from tests.store.making import model

FACTS = CheckpointFacts("digits", 7, 3, "ab" * 32)


def test_the_order_of_the_tensors_does_not_show() -> None:
    tensors = model(1.5)
    turned = dict(reversed(tensors.items()))
    assert encode_tensors(tensors, FACTS) == encode_tensors(turned, FACTS)
    assert encode_tensors(tensors, FACTS) != encode_tensors(tensors, CheckpointFacts("digits", 7, 4, "ab" * 32))


def test_another_process_writes_the_same_bytes() -> None:
    script = """
import sys
from devicelab.store.checkpoints import CheckpointFacts, encode_tensors
from tests.store.making import model
sys.stdout.buffer.write(encode_tensors(model(1.5), CheckpointFacts("digits", 7, 3, "ab" * 32)))
"""
    for _ in range(2):
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=120)
        assert ended.stdout == encode_tensors(model(1.5), FACTS)


def test_any_tool_can_read_it_and_finds_the_facts(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    content = encode_tensors(model(2.0), FACTS)
    path.write_bytes(content)
    assert load(content)["param/w"].tolist() == model(2.0)["param/w"].tolist()
    assert read_facts(path) == FACTS
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert json.loads(header["__metadata__"]["devicelab"])["round"] == 3


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
        hnp.arrays(
            st.sampled_from([np.float32, np.float64, np.int64, np.int32, np.bool_]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=5,
    )
)
def test_what_is_written_is_read(tensors: dict[str, NDArray[Any]]) -> None:
    found = decode_tensors(encode_tensors(tensors, FACTS), Path("x"))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert found[name].tobytes() == tensor.tobytes()


def test_the_order_of_a_tensors_memory_does_not_show() -> None:
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    plain = encode_tensors({"w": table.T.copy()})
    assert encode_tensors({"w": table.T}) == plain
    assert encode_tensors({"w": np.asfortranarray(table.T)}) == plain


@pytest.mark.parametrize("content", [b"", b"\x08", b"\xff" * 100, encode_tensors(model())[:-1], b"{}" * 50])
def test_damage_is_an_error_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="no safetensors file"):
        decode_tensors(content, path)
    with pytest.raises(StoreError, match="no safetensors file"):
        read_facts(path)
    with pytest.raises(StoreError, match="no safetensors file"):
        read_facts(tmp_path / "missing")


@pytest.mark.parametrize(
    "metadata", [None, {"a": "b"}, {"devicelab": "{"}, {"devicelab": "[]"}, {"devicelab": "{}"}]
)
def test_somebody_elses_file_has_no_facts(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "theirs.safetensors"
    path.write_bytes(save(model(), metadata))
    assert read_facts(path) is None


def test_names_sort_by_round() -> None:
    assert checkpoint_name(0) == "checkpoints/round-0000.safetensors"
    assert checkpoint_name(12345) == "checkpoints/round-12345.safetensors"

"""Virtual phones for tests: fixtures that any room's tests may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devicelab.virtual.client import VirtualPhone
from devicelab.virtual.desk import VirtualDesk
from devicelab.virtual.image import build_image

__all__ = ["desk", "image", "module_desk", "phone"]


@pytest.fixture(scope="session")
def image() -> Path:
    """The phone image, built once for all workers and runs (the cache directory is shared and locked)."""
    return build_image()


@pytest.fixture
def desk(tmp_path: Path, image: Path) -> Iterator[VirtualDesk]:
    """An empty desk of this test's own; what stands on it at the end is taken down."""
    desk = VirtualDesk(tmp_path)
    yield desk
    desk.down()


@pytest.fixture(scope="module")
def module_desk(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[VirtualDesk]:
    """The same for all tests of a module."""
    desk = VirtualDesk(tmp_path_factory.mktemp("desk"))
    yield desk
    desk.down()


@pytest.fixture
def phone(desk: VirtualDesk) -> VirtualPhone:
    """One current Pixel that runs."""
    return desk.up(["pixel"])[0]

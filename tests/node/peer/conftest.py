"""What tests of a peer start from."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def path() -> Iterator[Path]:
    """A short path, as sockets need one."""
    folder = Path(tempfile.mkdtemp(prefix="loop-"))
    yield folder / "s"
    shutil.rmtree(folder)

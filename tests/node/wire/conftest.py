"""What several modules here begin with; those that need another define their own."""

from pathlib import Path

import pytest

from tests.node.wire.stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Everybody, with nothing stored."""
    return Stage(tmp_path)

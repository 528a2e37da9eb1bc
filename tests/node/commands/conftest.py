"""What commands set up for their process, and must not leave to the next test."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Commands log on this test's stderr: forget it afterwards."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()

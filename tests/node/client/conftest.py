"""A chain to ask, and a client that waits for nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.client import client as client_module
from tests.node.network import HOSPITALS, Network, open_network, register_dataset


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain with one certified block."""
    with open_network(tmp_path) as made:
        made.block(register_dataset(made, HOSPITALS[0]))
        yield made


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here has to be waited for."""
    monkeypatch.setattr(client_module, "POLL_S", 0.001)
    monkeypatch.setattr(client_module, "RESEND_S", 0.02)
    monkeypatch.setattr(client_module, "RETRY_S", 0.001)

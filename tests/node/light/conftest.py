"""A chain of three sets of validators, and clients that wait for nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.client import client, connection
from tests.node.network import Network, grow, open_network, register_dataset, shrink


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A chain of three sets of validators; nothing here writes to it."""
    folder: Path = tmp_path_factory.mktemp("network")
    with open_network(folder) as made:
        made.block(register_dataset(made, "hospital-1"), register_dataset(made, "hospital-2"))
        grow(made)
        shrink(made)
        made.block()
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here has to be waited for."""
    monkeypatch.setattr(client, "POLL_S", 0.001)
    monkeypatch.setattr(connection, "SILENCE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(connection, "ANSWER_TIMEOUT_S", 2.0)

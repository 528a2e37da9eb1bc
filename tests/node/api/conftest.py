"""The chains that the HTTP interface is tested on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.network import Network, learn, open_network


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain at its genesis."""
    with open_network(tmp_path) as made:
        yield made


@pytest.fixture
def learned(network: Network) -> Network:
    """A chain on which a task of two rounds ran."""
    learn(network, 2)
    return network

"""The chains that readers are tested on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.network import Network, learn
from tests.node.readers.reading import private_network


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain whose readers are its members."""
    with private_network(tmp_path) as made:
        yield made


@pytest.fixture
def learned(network: Network) -> Network:
    """Such a chain, on which a task of one round ran."""
    learn(network, 1)
    return network

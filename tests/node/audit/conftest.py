"""The chain that audits are tried on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.network import Network, learn, open_network


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A chain on which a task of two rounds ran; nothing here writes to it."""
    folder: Path = tmp_path_factory.mktemp("audit")
    with open_network(folder) as made:
        learn(made, 2)
        yield made

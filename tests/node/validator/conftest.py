"""What several modules here begin with; those that need another define their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.validator.store import Store
from tests.node.network import Network, open_network
from tests.node.validator.claims import Registry
from tests.node.validator.office import Office
from tests.node.validator.test_prune import grow


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A chain of 30 blocks with snapshots at 16 and 24."""
    with open_network(tmp_path_factory.mktemp("served")) as network:
        grow(network, 30)
        yield network


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    made = Store(tmp_path / "joining")
    yield made
    made.close()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry whose task waits for submissions."""
    with open_network(tmp_path) as network:
        yield Registry(network)


@pytest.fixture
def office() -> Office:
    """Before anybody asked for anything."""
    return Office()

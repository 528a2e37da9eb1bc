"""The chain that case files are tested on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.case.contents import Case
from tests.node.case.made import case_of, make, run_case
from tests.node.network import Network, open_network


@pytest.fixture(scope="package")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A chain of `run_case`; nothing here writes to it."""
    folder: Path = tmp_path_factory.mktemp("case")
    with open_network(folder) as made:
        run_case(made)
        yield made


@pytest.fixture(scope="package")
def data(network: Network) -> bytes:
    """The case file of that chain's model."""
    return make(network)


@pytest.fixture
def case(network: Network) -> Case:
    """The case of that chain's model."""
    return case_of(network)

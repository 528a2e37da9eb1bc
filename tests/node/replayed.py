"""Runs a whole learning task on a fresh store and prints its header digests: for other processes.

python -m tests.node.replayed FOLDER
"""

import sys
from pathlib import Path

from tests.node.network import learn, open_network


def main(folder: Path) -> None:
    """Print one header digest a line, from genesis on."""
    with open_network(folder) as network:
        learn(network, 2)
        for height in range(network.chain.head.height + 1):
            row = network.chain.store.row(height)
            assert row is not None
            sys.stdout.write(f"{row.header.digest.hex()} {row.header.state.hex()}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

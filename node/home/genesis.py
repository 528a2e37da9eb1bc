"""What every home holds beside its configuration: the genesis document."""

from pathlib import Path

from node.home.document import load
from vm.genesis import Genesis, check_genesis
from vm.refusal import Refused

GENESIS_BYTES_MAX = 16 * 1024 * 1024  # 4,096 members take about 2 MiB


def read_genesis(path: Path) -> Genesis:
    """Read and check the genesis document; raises `Refused("genesis.*" | "document.*")`."""
    try:
        with path.open("rb") as file:
            data = file.read(GENESIS_BYTES_MAX + 1)
    except OSError as error:
        raise Refused(
            "genesis.unreadable", f"{path}: expected a genesis document, found: {error.strerror}"
        ) from error
    if len(data) > GENESIS_BYTES_MAX:
        raise Refused(
            "genesis.unreadable", f"{path}: expected at most {GENESIS_BYTES_MAX} bytes, found more"
        )
    genesis = load(Genesis, data)
    check_genesis(genesis)
    return genesis

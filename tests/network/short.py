"""A validator whose snapshots and retention are short, so that a test need not wait for long ones.

    python -m tests.network.short HOME [corrupt | dying]

`corrupt` changes a value in every range of state that it serves; `dying` kills itself as the kernel
would in the middle of a state sync.
"""

import os
import signal
import sys
from dataclasses import replace

from node.cli import main
from node.home import config
from node.validator import prune, serve, sync
from node.validator.install import Sync
from node.validator.snapshot import Missing
from vm.range import RangeLeaf, StateRange

SNAPSHOT_BLOCKS = 32
WINDOW_BLOCKS = 32
RETAIN_BLOCKS = 32
RANGE_BYTES = 1_000
PRUNE_EVERY_BLOCKS = 8
RANGES_SURVIVED = 5
WATCH_S = 0.5


def shorten() -> None:
    """Make every number of the kind small."""
    prune.Pruner.__init__.__defaults__ = (SNAPSHOT_BLOCKS, WINDOW_BLOCKS)
    prune.EVERY_BLOCKS = PRUNE_EVERY_BLOCKS
    serve.Source.__init__.__defaults__ = (SNAPSHOT_BLOCKS, WINDOW_BLOCKS)
    serve.RANGE_BYTES = RANGE_BYTES
    sync.run.__defaults__ = (WINDOW_BLOCKS,)
    sync.watch.__defaults__ = (WATCH_S,)
    vars(config)["TX_LIFETIME_BLOCKS_MAX"] = WINDOW_BLOCKS
    os.environ["CONCILIUM_STORE_RETAIN_BLOCKS"] = str(RETAIN_BLOCKS)


def corrupt() -> None:
    """Change a value in every range that is served."""
    true = serve.Source.range

    def bent(
        self: serve.Source, height: int, start: bytes, stop: bytes, content_bytes: int
    ) -> StateRange:
        found = true(self, height, start, stop, content_bytes)
        if not found.leaves:
            return found
        first = replace(found.leaves[0], value=b"bent")
        return replace(found, leaves=(first, *found.leaves[1:]))

    serve.Source.range = bent  # type: ignore[method-assign]


def die_in_sync() -> None:
    """Die once some ranges are kept."""
    true, left = Sync.keep_leaves, RANGES_SURVIVED

    def dying(self: Sync, leaves: tuple[RangeLeaf, ...], missing: Missing) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        true(self, leaves, missing)

    Sync.keep_leaves = dying  # type: ignore[method-assign]


if __name__ == "__main__":
    shorten()
    match sys.argv[2:]:
        case ["corrupt"]:
            corrupt()
        case ["dying"]:
            die_in_sync()
    sys.exit(main(["run", sys.argv[1]]))

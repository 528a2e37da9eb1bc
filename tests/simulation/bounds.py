"""Bounds of the real thing that a short run would never meet, made smaller for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from consensus import complaints
from node.validator import mempool, snapshot

OMITTED_BLOCKS_MAX = 16  # two windows, as the mempool's own bound is two of the largest
HOLLOW_BLOCKS_MAX = 16  # two windows, as the bound on them is two of the largest
AHEAD_BLOCKS_MAX = 1  # for want of a longer chain


@contextmanager
def short_bounds() -> Iterator[None]:
    """Within this block these bounds hold."""
    with (
        patch.object(mempool, "OMITTED_BLOCKS_MAX", OMITTED_BLOCKS_MAX),
        patch.object(complaints, "HOLLOW_BLOCKS_MAX", HOLLOW_BLOCKS_MAX),
        patch.object(snapshot, "AHEAD_BLOCKS_MAX", AHEAD_BLOCKS_MAX),
    ):
        yield

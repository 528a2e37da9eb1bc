"""Limits of a short run: timeouts, and bounds that it would never meet, made smaller for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from consensus import complaints
from consensus.event import Limits
from node.validator import mempool, snapshot

OMITTED_BLOCKS_MAX = 16  # two windows, as the mempool's own bound is two of the largest
HOLLOW_BLOCKS_MAX = 16  # two windows, as the bound on them is two of the largest
AHEAD_BLOCKS_MAX = 1  # for want of a longer chain

TIMING = Limits(
    window=8,
    view_timeout_ms=300,
    view_timeout_ms_max=5_000,
    status_ms=100,
    status_idle_ms=1_000,
    payload_bytes_max=256 * 1024,  # so small that a greedy traitor reaches it
    pace_ms=40,
)


@contextmanager
def short_bounds() -> Iterator[None]:
    """Within this block these bounds hold."""
    with (
        patch.object(mempool, "OMITTED_BLOCKS_MAX", OMITTED_BLOCKS_MAX),
        patch.object(complaints, "HOLLOW_BLOCKS_MAX", HOLLOW_BLOCKS_MAX),
        patch.object(snapshot, "AHEAD_BLOCKS_MAX", AHEAD_BLOCKS_MAX),
    ):
        yield

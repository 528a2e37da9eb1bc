"""Blocks that were read before are kept, within a bound, and shown only while the node has them."""

import pytest

from node.api import recent
from node.api.recent import Recent
from node.api.views import BlockSummary
from node.validator.prune import Pruner
from tests.node.api.asking import run
from tests.node.network import Network
from tests.node.serving import Node, get


def block(height: int) -> BlockSummary:
    """A block in one line."""
    return BlockSummary(height=height, digest="", time_ms=0, time=None, state="", transactions=0)


def test_the_block_that_was_put_first_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are never more than the bound."""
    monkeypatch.setattr(recent, "RECENT_MAX", 2)
    kept = Recent()

    for height in (1, 2, 3):
        kept.put(block(height))

    assert [kept.get(height) for height in (1, 2, 3)] == [None, block(2), block(3)]


def test_a_block_that_was_read_and_pruned_is_listed_no_more(network: Network) -> None:
    """What a node no longer keeps it does not show from memory."""
    for _ in range(12):
        network.block()
    pruner = Pruner(network.chain.store, snapshot_blocks=8, window=2)

    async def check(url: str, node: Node) -> None:
        before = (await get(f"{url}/v1/blocks")).body
        list(pruner.steps(pruner.target(3)))
        after = (await get(f"{url}/v1/blocks")).body
        assert [item["height"] for item in before["items"]] == list(range(12, -1, -1))
        assert after["items"] == before["items"][:3]

    run(network, check)

"""Checkpoints over HTTP: two of one history, and a block under one that the asker names."""

import pytest

from tests.node.api.asking import assert_problem, run
from tests.node.network import Network
from tests.node.serving import Node, get, proof_of
from vm.inclusion import BlockProof, ConsistencyProof, verify_block, verify_consistency


def test_any_two_checkpoints_are_shown_to_be_of_one_history(learned: Network) -> None:
    """Also genesis, whose history is empty; the answer may be kept for ever."""
    chain = learned.chain
    top = chain.head.height

    async def check(url: str, _: Node) -> None:
        for older, newer in ((0, 1), (0, top), (1, top), (7, 8), (8, top), (top - 1, top)):
            got = await get(f"{url}/v1/consistency?from={older}&to={newer}")
            proof = proof_of(ConsistencyProof, got.body)
            verify_consistency(proof, chain.id, (chain.epoch,))
            assert (proof.older.header.height, proof.newer.header.height) == (older, newer)
            assert got.body["older"]["header"]["height"] == older
            assert got.body["newer"]["header"]["height"] == newer
            assert "immutable" in got.headers["Cache-Control"]

    run(learned, check)


def test_a_block_is_shown_under_the_checkpoint_that_was_named(learned: Network) -> None:
    """Every block under every later checkpoint, and under its own."""
    chain = learned.chain

    async def check(url: str, _: Node) -> None:
        for under in (1, 6, chain.head.height):
            for height in range(under + 1):
                got = await get(f"{url}/v1/blocks/{height}?under={under}")
                proof = proof_of(BlockProof, got.body)
                header = verify_block(proof, height, under, chain.id, (chain.epoch,))
                assert got.body["checkpoint"]["header"]["digest"] == header.digest.hex()
                assert "immutable" in got.headers["Cache-Control"]

    run(learned, check)


def test_an_older_header_without_a_certificate_stands_under_the_newer_one(
    network: Network,
) -> None:
    """A node that caught up shows any height to be of one history with a checkpoint."""
    for certified in (False, False, False, True):
        network.block(certified=certified)

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/consistency?from=2&to=4")
        proof = proof_of(ConsistencyProof, got.body)
        verify_consistency(proof, network.chain.id, network.chain.epochs)
        assert proof.older.certificate == proof.newer.certificate

    run(network, check)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("consistency", 400, "query.invalid"),
        ("consistency?from=1", 400, "query.invalid"),
        ("consistency?from=1&to=x", 400, "query.invalid"),
        ("consistency?from=2&to=2", 409, "heights.order"),
        ("consistency?from=3&to=2", 409, "heights.order"),
        ("consistency?older=1&newer=2", 400, "query.unknown"),
        ("consistency?from=1&to=4", 404, "checkpoint.missing"),
        ("consistency?from=3&to=6", 404, "checkpoint.missing"),
        ("consistency?from=1&to=99", 404, "checkpoint.missing"),
        ("blocks/1?under=99", 404, "checkpoint.missing"),
        ("blocks/1?under=3", 404, "checkpoint.missing"),
        ("blocks/2?under=1", 404, "block.missing"),
        ("blocks/99?under=98", 404, "block.missing"),
        ("blocks/1?under=x", 400, "query.invalid"),
    ],
)
def test_what_is_no_checkpoint_here_is_refused(
    network: Network, path: str, status: int, code: str
) -> None:
    """Blocks 3 and 4 have no certificate of their own, and block 6 is not certified yet."""
    for certified in (True, True, False, False, True, False):
        network.block(certified=certified)

    async def check(url: str, _: Node) -> None:
        assert_problem(await get(f"{url}/v1/{path}"), status, code)

    run(network, check)

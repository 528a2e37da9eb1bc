"""The HTTP interface of a node that has synced over blocks of its own, before its first pruning."""

import asyncio
from pathlib import Path

from tests.node.api.asking import assert_problem
from tests.node.network import Network, open_network
from tests.node.serving import get, proof_of, serve
from tests.node.validator.test_prune import grow
from tests.node.validator.test_returning import extend, sync
from vm.inclusion import (
    BlockProof,
    ConsistencyProof,
    RecordProof,
    verify_block,
    verify_consistency,
    verify_record,
)


def test_blocks_from_before_the_snapshot_are_gone_and_no_error(tmp_path: Path) -> None:
    """No path leads from them to a certified header: whether they had a certificate or not."""
    with open_network(tmp_path / "returning") as mine, open_network(tmp_path / "true") as served:
        grow(mine, 11)
        extend(served)
        items = [row.receipts[0].transaction for row in map(mine.chain.store.row, (9, 10)) if row]
        sync(mine, served)
        joined = Network(mine.chain.store, mine.genesis)
        grow(joined, 5)

        async def main() -> None:
            async with serve(joined) as (url, _):
                found = {
                    height: (await get(f"{url}/v1/blocks/{height}")).status for height in range(30)
                }
                gone = [await get(f"{url}/v1/transactions/{item.hex()}") for item in items]
                listed = (await get(f"{url}/v1/blocks")).body["items"]
                checkpoints = await get(f"{url}/v1/checkpoints")

                assert found == {height: 410 if height < 25 else 200 for height in range(30)}
                assert [answer.status for answer in gone] == [410, 410]
                assert [item["height"] for item in listed] == [29, 28, 27, 26, 25]
                assert checkpoints.status == 200

        asyncio.run(main())


def test_what_lies_before_the_snapshot_is_proven_nowhere_here(tmp_path: Path) -> None:
    """Neither states nor headers of then: the answer says so, and names who keeps them."""
    with open_network(tmp_path / "returning") as mine, open_network(tmp_path / "true") as served:
        grow(mine, 11)
        extend(served)
        sync(mine, served)
        joined = Network(mine.chain.store, mine.genesis)
        grow(joined, 5)
        base, top = mine.chain.store.base(), 29
        trusted = (mine.chain.id, mine.chain.epochs)

        async def main() -> None:
            async with serve(joined) as (url, _):
                for height in range(base):
                    for path in (
                        f"blocks/{height}?under={top}",
                        f"consistency?from={height}&to={top}",
                        f"members/hospital-1.trainer?at={height}",
                    ):
                        assert_problem(await get(f"{url}/v1/{path}"), 410, "height.pruned")
                for height in range(base, top):
                    got = await get(f"{url}/v1/consistency?from={height}&to={top}")
                    verify_consistency(proof_of(ConsistencyProof, got.body), *trusted)
                    got = await get(f"{url}/v1/blocks/{height}?under={top}")
                    verify_block(proof_of(BlockProof, got.body), height, top, *trusted)
                    got = await get(f"{url}/v1/members/hospital-1.trainer?at={height}")
                    proof = proof_of(RecordProof, got.body)
                    verify_record(proof, *trusted)
                    assert proof.certified.header.height == height

        asyncio.run(main())

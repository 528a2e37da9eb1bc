"""The HTTP interface of a node that has synced over blocks of its own, before its first pruning."""

import asyncio
from pathlib import Path

from tests.node.network import Network, open_network
from tests.node.serving import get, serve
from tests.node.validator.test_prune import grow
from tests.node.validator.test_returning import extend, sync


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

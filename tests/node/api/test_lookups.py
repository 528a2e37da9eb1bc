"""Transactions that are waited for: told with their block, in bounded numbers, in nobody's way."""

import asyncio

import aiohttp
import pytest

from node.api import feed, lookups, pool
from node.api.events import STREAMS_MAX
from node.api.views import WAIT_MS_MAX
from tests.node.api.asking import assert_problem, post, run
from tests.node.network import HOSPITALS, Network, register_dataset
from tests.node.serving import Got, Node, get, serve
from vm.refusal import Refused
from vm.shape import pack
from vm.transaction import Transaction

Waiting = list["asyncio.Task[Got]"]


@pytest.fixture
def mine(network: Network) -> Transaction:
    """A transaction for the block after the first."""
    network.block()
    return register_dataset(network, HOSPITALS[0])


async def wait_for(url: str, node: Node, transaction: Transaction, readers: int) -> Waiting:
    """Have so many readers wait for a transaction; each was told that it is pending."""
    await post(url, [pack(transaction)])
    path = f"{url}/v1/transactions/{transaction.id.hex()}?wait_ms={WAIT_MS_MAX}"
    waiting: Waiting = []
    for _ in range(readers):
        waiting.append(asyncio.create_task(get(path)))
        await node.asked.acquire()
    return waiting


async def statuses(waiting: Waiting) -> set[str]:
    """What readers were told in the end; none was refused."""
    answers = await asyncio.gather(*waiting)
    assert {got.status for got in answers} == {200}, [got.body for got in answers]
    return {got.body["status"] for got in answers}


def test_a_pending_transaction_is_waited_for(network: Network, mine: Transaction) -> None:
    """The answer comes with the block that certifies it, past others that do not."""

    async def check(url: str, node: Node) -> None:
        waiting = await wait_for(url, node, mine, 1)
        node.feed.publish(network.block().height)
        node.execute()
        assert await statuses(waiting) == {"certified"}

    run(network, check)


@pytest.mark.parametrize("query", ["", "?wait_ms=0", "?wait_ms=20"])
def test_a_pending_transaction_is_waited_for_no_longer_than_asked(
    network: Network, mine: Transaction, query: str
) -> None:
    """Without a wish not at all; then the answer says that it is pending."""

    async def check(url: str, node: Node) -> None:
        await post(url, [pack(mine)])
        got = await get(f"{url}/v1/transactions/{mine.id.hex()}{query}")
        assert got.body["status"] == "pending"

    run(network, check)


@pytest.mark.parametrize("wait", ["-1", "4001", "x"])
def test_nobody_waits_for_ever(network: Network, wait: str) -> None:
    """A wait is bounded, and what is unknown is not waited for."""
    network.block()
    path = f"/v1/transactions/{'00' * 32}?wait_ms="

    async def check(url: str, _: Node) -> None:
        assert_problem(await get(f"{url}{path}{wait}"), 400, "query.invalid")
        assert_problem(await get(f"{url}{path}{WAIT_MS_MAX}"), 404, "transaction.missing")

    run(network, check)


def test_only_so_many_wait_at_one_time(
    network: Network, mine: Transaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more is told at once that its transaction is pending; a place that was left is free."""
    monkeypatch.setattr(lookups, "LOOKUPS_MAX", 1)

    async def check(url: str, node: Node) -> None:
        first = await wait_for(url, node, mine, 1)
        assert await statuses(await wait_for(url, node, mine, 1)) == {"pending"}
        assert not first[0].done()
        node.execute()
        assert await statuses(first) == {"certified"}

        other = register_dataset(network, HOSPITALS[1])
        second = await wait_for(url, node, other, 1)
        node.execute()
        assert await statuses(second) == {"certified"}

    run(network, check)


def test_who_waits_for_transactions_takes_no_place_of_event_streams(
    network: Network, mine: Transaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One reader of the feed follows it for all of them."""
    assert STREAMS_MAX < feed.WAITERS_MAX
    monkeypatch.setattr(feed, "WAITERS_MAX", 2)

    async def check(url: str, node: Node) -> None:
        waiting = await wait_for(url, node, mine, 4)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/events") as response,
        ):
            assert await response.content.readline() == b": certified blocks follow\n"
            assert await response.content.readline() == b"\n"
            node.execute()
            async with asyncio.timeout(30):
                assert await response.content.readline() == b"id: 2\n"
        assert await statuses(waiting) == {"certified"}

    run(network, check)


def test_a_block_wakes_only_who_waits_for_its_transactions(
    network: Network, mine: Transaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read once for all: who waits for another one is not turned away by a rush of reads."""
    monkeypatch.setattr(pool, "READS_MAX", 4)
    other = register_dataset(network, HOSPITALS[1])

    async def check(url: str, node: Node) -> None:
        waiting = await wait_for(url, node, mine, 8)
        late = await wait_for(url, node, other, 8)
        node.feed.publish(network.block(mine).height)
        assert await statuses(waiting) == {"certified"}
        assert not any(reader.done() for reader in late)
        del node.waiting[mine.id]
        node.execute()
        assert await statuses(late) == {"certified"}

    run(network, check)


def test_where_a_block_cannot_be_read_now_its_transactions_are_pending(
    network: Network, mine: Transaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no failure of who waits: it asks again."""

    def fail(*_: object) -> None:
        raise Refused("node.not_ready", "expected the block, found that it is being pruned")

    async def check(url: str, node: Node) -> None:
        waiting = await wait_for(url, node, mine, 2)
        monkeypatch.setattr(lookups, "tell_settled", fail)
        node.execute()
        assert await statuses(waiting) == {"pending"}

    run(network, check)


def test_a_node_that_stops_ends_the_waits(network: Network, mine: Transaction) -> None:
    """It is not held up by them; each is told that its transaction is pending."""

    async def main() -> set[str]:
        async with serve(network) as (url, node):
            waiting = await wait_for(url, node, mine, 2)
        return await statuses(waiting)

    assert asyncio.run(main()) == {"pending"}

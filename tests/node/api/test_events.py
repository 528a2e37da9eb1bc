"""The event stream resumes by height, is bounded, and names what changed."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from node.api import events
from node.api.context import ApiContext
from node.api.pool import Pool
from node.api.views import EventView
from node.readers.desk import Desk
from node.validator.prune import Pruner
from tests.harness import as_read
from tests.node.api.asking import assert_problem, run
from tests.node.network import HOSPITALS, Network, register_dataset
from tests.node.serving import Node, get


async def lines(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """The lines of a stream."""
    async for line in response.content:
        yield line.decode().rstrip("\n")


async def heights(response: aiohttp.ClientResponse, count: int) -> list[int]:
    """The ids of the next `count` events."""
    found: list[int] = []
    async for line in lines(response):
        if line.startswith("id: "):
            found.append(int(line[4:]))
            if len(found) == count:
                break
    return found


def test_events_resume_by_height_and_follow_the_chain(network: Network) -> None:
    """Past blocks come first, each once, then new ones as they are certified."""
    for _ in range(4):
        network.block()

    async def check(url: str, node: Node) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/v1/events?since=1") as response:
                assert response.content_type == "text/event-stream"
                assert await heights(response, 3) == [2, 3, 4]
                node.waiting[b""] = as_read(register_dataset(network, HOSPITALS[0]))
                node.execute()
                assert await heights(response, 1) == [5]
            headers = {"Last-Event-ID": "3"}
            async with session.get(f"{url}/v1/events?since=1", headers=headers) as response:
                assert await heights(response, 2) == [4, 5]

    run(network, check)


def test_an_event_names_transactions_and_changed_records(network: Network) -> None:
    """A reader learns what to ask for."""
    network.block(register_dataset(network, HOSPITALS[0]))

    async def check(url: str, _: Node) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/events?since=0") as response,
        ):
            async for line in lines(response):
                if line.startswith("data: "):
                    break
        event = json.loads(line.removeprefix("data: "))
        assert event["transactions"][0]["kind"] == "dataset.register"
        assert event["records"] == [{"kind": "dataset", "key": ["hospital-1.opt"]}]
        assert event["left_out"] == 0

    run(network, check)


def test_an_event_names_a_bounded_number_of_records(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit is counted."""
    network.block(*(register_dataset(network, hospital) for hospital in HOSPITALS))
    monkeypatch.setattr(events, "EVENT_RECORDS_MAX", 1)

    async def check(url: str, node: Node) -> None:
        event = events._event(node.context, 1)
        assert event is not None
        assert (len(event.records), event.left_out) == (1, 3)

    run(network, check)


def test_an_idle_stream_sends_heartbeats_and_event_streams_are_bounded(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence is broken before proxies cut the line; one reader too many is turned away."""
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.001)
    monkeypatch.setattr(events, "STREAMS_MAX", 1)
    network.block()

    async def check(url: str, _: Node) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/events") as response,
        ):
            async for line in lines(response):
                if line == ": heartbeat":
                    break
            assert_problem(await get(f"{url}/v1/events"), 503, "events.full")

    run(network, check)


def test_an_announced_block_that_is_not_executed_here_waits(network: Network) -> None:
    """A certificate may come before its block: the event follows when the block does."""
    network.block()

    async def check(url: str, node: Node) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/events?since=0") as response,
        ):
            node.feed.publish(3)
            assert await heights(response, 1) == [1]
            network.block()
            network.block()
            node.feed.publish(4)
            assert await heights(response, 2) == [2, 3]

    run(network, check)


def prune(network: Network) -> None:
    """Keep the last three blocks."""
    pruner = Pruner(network.chain.store, snapshot_blocks=8, window=2)
    list(pruner.steps(pruner.target(3)))


def test_a_stream_resumes_at_the_edge_of_what_is_kept_and_not_beyond(network: Network) -> None:
    """The last pruned height is a place to go on from; the one before it is gone, and says so."""
    for _ in range(12):
        network.block()
    prune(network)  # heights 10 to 12 are left

    async def check(url: str, _: Node) -> None:
        async with aiohttp.ClientSession() as session:
            for place in ({"Last-Event-ID": "9"}, {}):
                query = "" if place else "?since=9"
                async with session.get(f"{url}/v1/events{query}", headers=place) as response:
                    assert await heights(response, 3) == [10, 11, 12]
        assert_problem(await get(f"{url}/v1/events?since=8"), 410, "block.pruned")
        got = await get(f"{url}/v1/events", headers={"Last-Event-ID": "8"})
        assert_problem(got, 410, "block.pruned")

    run(network, check)


def test_a_stream_that_pruning_overtakes_ends_and_tells_whoever_resumes(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends as a whole answer, with nothing of another one behind it."""
    for _ in range(12):
        network.block()
    given = events._event

    def overtaken(context: ApiContext, height: int) -> EventView | None:
        if height == 2:
            prune(network)
        return given(context, height)

    monkeypatch.setattr(events, "_event", overtaken)

    async def check(url: str, _: Node) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/events?since=0") as response,
        ):
            text = (await response.read()).decode()
        assert text.count("id: ") == 1
        assert text.endswith("}\n\n")
        got = await get(f"{url}/v1/events", headers={"Last-Event-ID": "1"})
        assert_problem(got, 410, "block.pruned")

    run(network, check)


def test_a_stream_is_what_the_html_standard_says(network: Network) -> None:
    """Lines of fields, a blank line behind each event, one line of data, the id a decimal."""
    network.block(register_dataset(network, HOSPITALS[0]))

    async def check(url: str, _: Node) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/events?since=0") as response,
        ):
            assert response.headers["Content-Type"] == "text/event-stream"
            assert response.headers["Cache-Control"] == "no-store"
            text = (await response.content.readuntil(b"\n\n")).decode()
            assert text == ": certified blocks follow\n\n"
            text = (await response.content.readuntil(b"\n\n")).decode()
            fields = [line.partition(": ")[::2] for line in text.removesuffix("\n\n").split("\n")]
            assert [name for name, _ in fields] == ["id", "event", "data"]
            assert fields[0][1] == "1"
            assert fields[1][1] == "block"
            assert json.loads(fields[2][1])["height"] == 1
            assert "\r" not in text

    run(network, check)


def test_the_newest_blocks_are_read_once_for_all_streams(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many follow the chain: what they read is not counted, and none falls behind."""
    given, read = events._event, list[int]()

    def counted(context: ApiContext, height: int) -> EventView | None:
        read.append(height)
        return given(context, height)

    monkeypatch.setattr(events, "_event", counted)

    async def check(url: str, node: Node) -> None:
        since = node.feed.height
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession())
            path = f"{url}/v1/events?since={since}"
            streams = [await stack.enter_async_context(session.get(path)) for _ in range(8)]
            for _ in range(events.NEWEST + 3):
                node.feed.publish(network.block().height)
            wanted = list(range(since + 1, since + events.NEWEST + 4))
            for stream in streams:
                assert await heights(stream, len(wanted)) == wanted
        late = wanted[-events.NEWEST :]
        assert [read.count(height) for height in late] == [1] * events.NEWEST

    run(network, check)


def test_a_block_that_was_not_there_is_read_anew_by_who_comes_later(network: Network) -> None:
    """One stream asks before the block is there, another after: it does not share that answer."""
    answers = [None, b"the block", b"no"]
    asked: list[int] = []

    class Reader:
        async def go_on(self, _: object, read: object, context: object, height: int) -> Any:
            asked.append(height)
            await asyncio.sleep(0)
            return answers[len(asked) - 1]

    async def main() -> list[Any]:
        newest = events._Newest(cast(ApiContext, None), cast(Pool, Reader()))
        return await asyncio.gather(*(newest.read(7) for _ in range(3)))

    assert asyncio.run(main()) == [None, b"the block", b"the block"]
    assert asked == [7, 7]


def test_old_blocks_are_counted_for_who_reads_them(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: a stream that is opened at the newest, and read when they are old."""
    monkeypatch.setattr(events, "NEWEST", 2)
    counted: list[int] = []
    given = Desk.spend

    def spend(self: Desk, request: web.Request, cpu_s: float) -> None:
        counted.append(1)
        given(self, request, cpu_s)

    monkeypatch.setattr(Desk, "spend", spend)

    async def check(url: str, node: Node) -> None:
        for _ in range(6):
            node.feed.publish(network.block().height)
        counted.clear()
        async with aiohttp.ClientSession() as session:
            path = f"{url}/v1/events?since={node.feed.height - 6}"
            async with session.get(path) as stream:
                assert len(await heights(stream, 6)) == 6
        assert len(counted) == 1 + 4  # whether they are kept, and all but the newest two

    run(network, check)

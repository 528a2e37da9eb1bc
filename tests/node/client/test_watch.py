"""The watch: quick on a node's word, sure without it."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from node.client import watch as module
from node.client.client import Client
from node.client.watch import Watch


class Node:
    """A client whose stream gives what the test puts in."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    async def events(self) -> AsyncIterator[Any]:
        """Events as they come."""
        while True:
            yield await self.queue.get()
            self.queue.task_done()  # the watch asks for the next

    def tell(self, *kinds: str) -> None:
        """A block wrote records of these kinds."""
        records = [SimpleNamespace(kind=kind) for kind in kinds]
        self.queue.put_nowait(SimpleNamespace(records=records))


def counts(*blocks: tuple[str, ...]) -> list[int]:
    """The watch's count after each block."""

    async def scenario() -> list[int]:
        node = Node()
        watch = Watch(cast(Client, node))
        task = asyncio.create_task(watch.run())
        found = []
        for kinds in blocks:
            node.tell(*kinds)
            await node.queue.join()
            found.append(watch.count)
        task.cancel()
        return found

    return asyncio.run(scenario())


def test_blocks_that_wrote_a_task_or_a_round_are_counted() -> None:
    """Once each, and no others."""
    blocks = ((), ("member",), ("task",), ("round", "task", "round"), ("update", "model"))

    assert counts(*blocks) == [0, 0, 1, 2, 2]


def test_news_since_the_last_look_are_not_waited_for() -> None:
    """A block that came while we worked is not slept over."""
    watch = Watch(cast(Client, Node()))
    watch.count = 3

    asyncio.run(asyncio.wait_for(watch.wait(2), 30))


def test_a_waiter_wakes_with_the_next_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """All waiters do, and later ones wait for a later block."""
    monkeypatch.setattr(module, "POLL_S", 1_000)

    async def scenario() -> int:
        node = Node()
        watch = Watch(cast(Client, node))
        task = asyncio.create_task(watch.run())
        for seen in (0, 1):
            waiters = [asyncio.create_task(watch.wait(seen)) for _ in range(2)]
            await asyncio.sleep(0)
            node.tell("round")
            await asyncio.gather(*waiters)
        task.cancel()
        return watch.count

    assert asyncio.run(asyncio.wait_for(scenario(), 30)) == 2


def test_a_silent_stream_is_polled_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that never tells cannot keep a peer from looking."""
    monkeypatch.setattr(module, "POLL_S", 0)

    async def scenario() -> int:
        watch = Watch(cast(Client, Node()))
        await watch.wait(0)
        return watch.count

    assert asyncio.run(asyncio.wait_for(scenario(), 30)) == 0

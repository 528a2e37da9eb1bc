"""The feed of certified heights."""

import asyncio

import pytest

from node.api.feed import WAITERS_MAX, Feed
from vm.refusal import Refused


def test_every_waiter_wakes_at_a_newer_height() -> None:
    """All who wait beyond a height get the height that passes it."""

    async def run() -> list[int]:
        feed = Feed(4)
        waiters = [asyncio.create_task(feed.wait(4)) for _ in range(3)]
        await asyncio.sleep(0)
        feed.publish(7)
        return await asyncio.gather(*waiters)

    assert asyncio.run(run()) == [7, 7, 7]


def test_a_height_that_has_passed_needs_no_waiting() -> None:
    """A reader that is behind is answered at once."""
    assert asyncio.run(Feed(9).wait(3)) == 9


def test_an_old_height_is_not_announced() -> None:
    """A late certificate of an earlier height neither wakes anybody nor sets the feed back."""

    async def run() -> None:
        feed = Feed(5)
        waiter = asyncio.create_task(feed.wait(5))
        await asyncio.sleep(0)

        feed.publish(4)
        feed.publish(5)
        await asyncio.sleep(0)

        assert feed.height == 5
        assert not waiter.done()
        waiter.cancel()

    asyncio.run(run())


def test_waiters_are_bounded_and_leave_when_cancelled() -> None:
    """The bound on waiters is enforced, and one who gives up frees the place."""

    async def run() -> None:
        feed = Feed()
        waiters = [asyncio.create_task(feed.wait(0)) for _ in range(WAITERS_MAX)]
        await asyncio.sleep(0)

        with pytest.raises(Refused, match=r"feed\.full"):
            await feed.wait(0)

        waiters[0].cancel()
        await asyncio.sleep(0)
        last = asyncio.create_task(feed.wait(0))
        await asyncio.sleep(0)
        feed.publish(1)
        assert await last == 1
        await asyncio.gather(*waiters, return_exceptions=True)

    asyncio.run(run())

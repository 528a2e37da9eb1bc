"""Work that goes on only as long as it is wanted, which may end while it runs."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

LOOK_S = 2.0  # between two looks at whether it still is: as long as a board keeps a record

T = TypeVar("T")


async def while_wanted(work: Coroutine[Any, Any, T], look: Callable[[], Awaitable[None]]) -> T:
    """What `work` gives; it is cancelled once `look` refuses, with whose `Refused` this ends."""
    task = asyncio.create_task(work)
    try:
        while True:
            await asyncio.wait([task], timeout=LOOK_S)
            if task.done():
                return task.result()
            await look()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

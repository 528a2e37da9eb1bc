"""Work off the event loop that must come to its end."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Callable[[], T], pool: Executor | None = None) -> T:
    """Run `work` in a thread; when cancelled, let it end first: what it uses is closed next."""
    running = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise

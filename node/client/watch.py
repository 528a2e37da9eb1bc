"""Tells when rounds may have changed: a node's events to be quick, a poll to be sure."""

import asyncio

from node.client.client import Client
from vm.learning import Round, Task

POLL_S = 2.0  # an event stream may be silent or lie; asking costs two proven reads


class Watch:
    """Counts blocks that wrote a task or a round."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._changed = asyncio.Event()
        self.count = 0

    async def run(self) -> None:
        """Read events until cancelled."""
        async for event in self.client.events():
            if any(record.kind in (Task.KIND, Round.KIND) for record in event.records):
                self.count += 1
                self._changed.set()
                self._changed = asyncio.Event()

    async def wait(self, seen: int) -> None:
        """Return once `count` is above `seen`, or after `POLL_S`."""
        if self.count > seen:
            return
        try:
            async with asyncio.timeout(POLL_S):
                await self._changed.wait()
        except TimeoutError:
            return

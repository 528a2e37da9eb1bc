"""The newest certified height, and a way to wait for the next one."""

import asyncio

from vm.refusal import Refused

WAITERS_MAX = 1_024  # each is an open event stream; one waits for all look-ups


class Feed:
    """Tells any number of readers, up to a bound, that a height was certified.

    It holds one number and no queue, so a slow reader costs nothing: it reads the heights that it
    missed from the store. Used from one event loop only.
    """

    def __init__(self, height: int = 0) -> None:
        self.height = height
        self._changed = asyncio.Event()
        self._waiters = 0

    def publish(self, height: int) -> None:
        """Announce a certified height; one that is not newer changes nothing."""
        if height <= self.height:
            return
        self.height = height
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, beyond: int) -> int:
        """Return the newest certified height once it is above `beyond`.

        Raises `Refused("feed.full")` if too many already wait.
        """
        if self.height > beyond:
            return self.height
        if self._waiters >= WAITERS_MAX:
            raise Refused(
                "feed.full", f"expected at most {WAITERS_MAX} readers waiting, found one more"
            )
        self._waiters += 1
        try:
            while self.height <= beyond:
                await self._changed.wait()
        finally:
            self._waiters -= 1
        return self.height

"""Validators to ask for the same thing: several at a time where one is slow, the silent ones last.

A validator that is stopped or cut off looks like a slow one. It may cost the first call a few
seconds, but not each call again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import TypeVar

from vm.refusal import Refused

SPARE_S = 10.0  # without anything done by then, one more is asked beside those under way
UNREACHABLE = "blob.unreachable"

T = TypeVar("T")


class Sources:
    """URLs in the order in which they are asked, first the nearest."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = list(urls)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._urls))

    def __len__(self) -> int:
        return len(self._urls)

    async def ask(
        self,
        wanted: int,
        request: Callable[[str], Awaitable[T]],
        final: Collection[str] = (),
    ) -> tuple[list[T], list[str]]:
        """What the first `wanted` that serve gave, or fewer if all others failed; and failures.

        `wanted` are asked at a time, another one for each that fails, and one more whenever
        nothing was done for `SPARE_S`. Those still under way in the end are cancelled; they and
        the unreachable ones are asked last from then on. A refusal whose code is in `final` is
        raised at once.
        """
        found: list[T] = []
        failures: list[str] = []
        waiting, spares = list(self), 0
        running: dict[asyncio.Future[T], str] = {}
        try:
            while len(found) < wanted:
                while waiting and len(running) < wanted - len(found) + spares:
                    url = waiting.pop(0)
                    running[asyncio.ensure_future(request(url))] = url
                if not running:
                    break
                done, _ = await asyncio.wait(
                    running, timeout=SPARE_S, return_when=asyncio.FIRST_COMPLETED
                )
                spares += not done
                for task in [task for task in running if task in done]:  # as they were asked
                    url = running.pop(task)
                    try:
                        found.append(task.result())
                    except Refused as refused:
                        if refused.code in final:
                            raise
                        if refused.code == UNREACHABLE:
                            self._ask_last(url)
                        failures.append(f"{url}: {refused}")
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        for url in running.values():
            self._ask_last(url)
        return found, failures

    def follow(self, urls: Sequence[str]) -> None:
        """From now on these are the sources; those that stay keep their order, new ones follow."""
        kept = [url for url in self._urls if url in urls]
        self._urls = kept + [url for url in urls if url not in kept]

    def _ask_last(self, url: str) -> None:
        if url in self._urls:  # else it went while it was asked
            self._urls.remove(url)
            self._urls.append(url)

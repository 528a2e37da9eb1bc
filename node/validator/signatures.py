"""Signatures of peers: a few on the loop, of many all that wait together in one visit of a thread.

The way to a thread and back takes as long as verifying. So the loop verifies those itself that come
alone, as the votes of a small network do; with many validators, whose votes come at the same time,
one visit serves all that the loop would be held up by.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple

from vm.keys import verify

ON_LOOP_MAX = 2  # in one pass of the loop: for some 0.1 ms nothing else is done in it


class Check(NamedTuple):
    """Whether `signature` is `public`'s over `message`."""

    public: bytes
    message: bytes
    signature: bytes


class Signatures:
    """Verifies, most in `pool`. Each peer waits for its answer, so no more wait than are peers."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._waiting: list[tuple[Check, asyncio.Future[bool]]] = []
        self._visiting = False
        self._passed = 0  # verified in this pass of the loop

    async def good(self, check: Check) -> bool:
        """Whether the signature verifies."""
        if self._passed < ON_LOOP_MAX:
            if not self._passed:
                asyncio.get_running_loop().call_soon(self._next_pass)
            self._passed += 1
            return verify(*check)
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((check, answer))
        if not self._visiting:
            self._visit()
        found: bool = await answer
        return found

    def _next_pass(self) -> None:
        self._passed = 0

    def _visit(self) -> None:
        asked, self._waiting = self._waiting, []
        self._visiting = True
        checks = [check for check, _ in asked]
        answers = [answer for _, answer in asked]
        try:
            visit = asyncio.get_running_loop().run_in_executor(self._pool, _verify_all, checks)
        except RuntimeError:  # the pool has ended, and with it the runtime: nobody needs an answer
            self._visiting = False
            for answer in answers:
                answer.cancel()
            return
        visit.add_done_callback(lambda done: self._answer(answers, done))

    def _answer(
        self, answers: Sequence[asyncio.Future[bool]], visit: asyncio.Future[list[bool]]
    ) -> None:
        self._visiting = False
        if self._waiting and not visit.cancelled():
            self._visit()
        for place, answer in enumerate(answers):
            if answer.done():  # whoever asked has gone
                continue
            if visit.cancelled():
                answer.cancel()
            elif (bug := visit.exception()) is not None:  # of ours: whoever asks stops the node
                answer.set_exception(bug)
            else:
                answer.set_result(visit.result()[place])


def _verify_all(checks: Sequence[Check]) -> list[bool]:
    return [verify(*check) for check in checks]

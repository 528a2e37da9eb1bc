"""Brings the access log's digest on chain: what is digested there cannot be left out later."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from node.audit.access import NOTHING, Known
from node.readers.log import Logbook
from vm import tree
from vm.accesslog import AccessLog, DigestLog
from vm.refusal import Refused
from vm.state import State

RETRY_S = 60.0  # after a digest that was refused or lost on the way
LOOK_S = 1.0  # between looks whether the log has grown

log = structlog.get_logger()


class Publisher:
    """Publishes the digest of one validator's log, at most once in `period_s`, if it grew.

    `submit(kind, body)` returns when the transaction was executed or has expired.
    """

    def __init__(
        self,
        validator: str,
        logbook: Logbook,
        state: Callable[[], State],
        submit: Callable[[str, DigestLog], Awaitable[None]],
        period_s: float,
    ) -> None:
        self._validator = validator
        self._logbook = logbook
        self._state = state
        self._submit = submit
        self._period_s = period_s

    async def run(self, clock_ms: Callable[[], int]) -> None:
        """Work until cancelled."""
        while True:
            wait_s = self.wait_s(clock_ms())
            if wait_s is None:
                await asyncio.sleep(min(LOOK_S, self._period_s))
            elif wait_s > 0:
                await asyncio.sleep(wait_s)
            elif not await self.attempt():
                await asyncio.sleep(RETRY_S)

    def wait_s(self, now_ms: int) -> float | None:
        """How long until a digest is due: 0 if it is, None while the chain has the newest.

        Of a log that has lost lines one is due too: the attempt finds it out and says so.
        """
        published = self._published()
        if self._logbook.size == self._known(published).size:
            return None
        if published is None:
            return 0.0
        return max(0.0, self._period_s - (now_ms - published.time_ms) / 1_000)

    async def attempt(self) -> bool:
        """Send the digest of what is there now; whether the chain has it then."""
        frontier = self._logbook.frontier
        try:
            body = await asyncio.to_thread(self._digest, frontier)
            await self._submit("access.digest", body)
        except Refused as refused:
            log.warning("access.unpublished", code=refused.code, reason=refused.message)
        except OSError as error:  # of the log's disk: the chain goes on, and it is tried again
            log.warning("access.unpublished", code="access.unreadable", reason=str(error))
        return self._known(self._published()).size == frontier.size

    def _digest(self, frontier: tree.Frontier) -> DigestLog:
        """The body; raises `Refused("access.differs")` if the log is not what the chain knows."""
        known = self._known(self._published())
        if frontier.size < known.size or self._logbook.root(known.size) != known.root:
            raise Refused(
                "access.differs",
                f"expected the {known.size} lines whose digest is on the chain, found others: move "
                "the folder of the log away, start again, and tell the auditors",
            )
        path = self._logbook.consistency(known.size, frontier.size)
        return DigestLog(self._logbook.identity, frontier.size, frontier.root, path)

    def _known(self, published: AccessLog | None) -> Known:
        """What the chain knows of this log, and not of one before it."""
        if published is None or published.log != self._logbook.identity:
            return NOTHING
        return Known(published.log, published.size, published.root)

    def _published(self) -> AccessLog | None:
        return self._state().get(AccessLog, self._validator)

"""Brings proof of a faulty validator before the chain: it is recorded there, and may suspend it."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from node.validator.chain import Chain
from vm.evidence import Evidence
from vm.proposal import Fault
from vm.refusal import Refused

RETRY_MS = 10_000  # after a report that was refused or lost on the way

log = structlog.get_logger()


class Accuser:
    """Reports the evidence that this validator's store holds, each piece until it is recorded."""

    def __init__(self, chain: Chain, submit: Callable[[str, Evidence], Awaitable[None]]) -> None:
        """`submit(kind, body)` returns when the transaction was executed or has expired."""
        self._chain = chain
        self._submit = submit
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There is new evidence."""
        self._news.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._news.clear()
            if await self.attempt():
                await self._news.wait()
            else:
                await asyncio.sleep(RETRY_MS / 1_000)

    async def attempt(self) -> bool:
        """Report what the chain does not have; False if something still has to be tried again."""
        waiting = [item for item in self._chain.store.evidence() if not self._is_settled(item)]
        for evidence in waiting:
            try:
                await self._submit("validator.fault", evidence)
            except Refused as refused:
                log.warning(
                    "fault.unreported",
                    validator=evidence.validator,
                    code=refused.code,
                    reason=refused.message,
                )
        return all(self._is_settled(item) for item in waiting)

    def _is_settled(self, evidence: Evidence) -> bool:
        """Whether the chain has a fault of this key."""
        epoch = self._chain.epochs[evidence.epoch]
        seat = epoch.validators.get(evidence.validator)
        assert seat is not None, "both signatures were checked against the seat"
        return self._chain.state().get(Fault, seat.key.hex()) is not None

"""Transactions on their way to every validator, so that each can time the primary.

A request that only the primary saw would not be missed if the primary dropped it
(hyperledger-archives/fabric#754).
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import accumulate

import structlog

from node.api.admission import SUBMIT_ITEMS_MAX, SUBMIT_MAX
from node.validator.intake import Intake
from node.validator.mempool import Mempool
from vm.encoding import MESSAGE_BYTES_MAX, decode, encode
from vm.refusal import Refused

RESEND_MS = (
    500  # what waits for one to two of these is sent again, before anybody's view timer fires
)
RESEND_MAX = 200  # transactions of one resend, oldest first
RESEND_BYTES_MAX = 512 * 1024  # the same in bytes: a validator that is away costs 1 MiB a second
BATCH_BYTES_MAX = MESSAGE_BYTES_MAX // 2  # of one message; a message must carry its framing too

log = structlog.get_logger()


class Gossip:
    """Sends admitted transactions to the other validators and takes in theirs."""

    def __init__(
        self, intake: Intake, mempool: Mempool, broadcast: Callable[[bytes], None]
    ) -> None:
        self._intake = intake
        self._mempool = mempool
        self._broadcast = broadcast
        self._waited: set[bytes] = set()

    def forward(self, packed: Sequence[bytes]) -> None:
        """Send transactions that a client brought."""
        batch, size = list[bytes](), 0
        for item in packed:
            if len(batch) == SUBMIT_MAX or size + len(item) > BATCH_BYTES_MAX:
                self._broadcast(encode(tuple(batch)))
                batch, size = [], 0
            batch.append(item)
            size += len(item)
        if batch:
            self._broadcast(encode(tuple(batch)))

    async def receive(self, sender: str, data: bytes) -> None:
        """Take in another validator's transactions; each is judged as a client's is."""
        try:
            items = decode(data, MESSAGE_BYTES_MAX, SUBMIT_ITEMS_MAX)
            if not isinstance(items, tuple) or not 1 <= len(items) <= SUBMIT_MAX:
                raise Refused("gossip.batch", f"expected 1 to {SUBMIT_MAX} transactions")
            packed = [item for item in items if isinstance(item, bytes)]
            if len(packed) < len(items):
                raise Refused("gossip.item", "expected packed transactions, found something else")
        except Refused as refused:
            log.warning("gossip.refused", peer=sender, code=refused.code, reason=refused.message)
            return
        await self._intake.submit(packed)

    def resend(self) -> None:
        """Send again what waited at the last call too, the oldest transactions only."""
        oldest = self._mempool.oldest(RESEND_MAX)
        again = [packed for packed in oldest if packed in self._waited]
        sizes = accumulate(map(len, again))
        self.forward(
            [packed for packed, size in zip(again, sizes, strict=True) if size <= RESEND_BYTES_MAX]
        )
        self._waited = set(oldest)

    async def run(self) -> None:
        """Send again what waits for long, until cancelled."""
        while True:
            await asyncio.sleep(RESEND_MS / 1_000)
            self.resend()

"""Transactions signed beforehand, in lots: each lot may stand in the next 1,023 blocks only.

A transaction names the last height at which it stands, at most `TX_LIFETIME_BLOCKS_MAX` ahead of
where it is handed in. So lots are signed for stretches of heights that follow each other, and each
is handed out once the chain is there; what the chain has outrun is thrown away.
"""

import secrets
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from vm.keys import SigningKey
from vm.record import Band, ColumnSchema
from vm.registry import RegisterDataset
from vm.shape import pack
from vm.transaction import NONCE_BYTES, TX_LIFETIME_BLOCKS_MAX, sign

STRETCH_BLOCKS = 400  # between the heights of two lots
WAIT_BLOCKS = 300  # for which a transaction may still wait when it is handed in
BEHIND_BLOCKS = 64  # that a node may be behind the one that told the height
ID_BYTES = 8  # drawn at random: every transaction writes a new key, far from the others
KIND = "dataset.register"


@dataclass(frozen=True, slots=True)
class Sender:
    """A steward, and what it signs with."""

    id: str
    key: SigningKey


def make(chain: bytes, sender: Sender, valid_until: int) -> bytes:
    """A packed transaction that registers a dataset of one column under a new random id."""
    body = RegisterDataset(
        id=secrets.token_hex(ID_BYTES),
        title="",
        root=secrets.token_bytes(32),
        schema=(ColumnSchema("a", "1"),),
        outcome="y",
        rows=Band(0, 9),
        positives=Band(0, 9),
        conditions=("DUO:0000006",),
        region="ZZ",
        opening=False,
        scores_max=0,
    )
    return pack(
        sign(
            sender.key,
            chain=chain,
            kind=KIND,
            sender=sender.id,
            body=body,
            valid_until_height=valid_until,
            nonce=secrets.token_bytes(NONCE_BYTES),
        )
    )


class Purse:
    """Lots of transactions of some senders, who take turns."""

    def __init__(self, chain: bytes, senders: Iterable[Sender]) -> None:
        self._chain = chain
        self._senders = deque(senders)
        self._lots: deque[tuple[int, deque[bytes]]] = deque()  # last height, transactions
        self._returned: deque[bytes] = deque()
        self.late = 0  # signed when they were wanted, for the lot at hand was used up

    def fill(self, height: int, lots: int, count: int) -> int:
        """Sign `lots` of `count` each, from `height` on; the bytes of the last transaction."""
        self._lots.clear()
        self._returned.clear()
        for number in range(lots):
            until = _until(height + number * STRETCH_BLOCKS)
            self._lots.append((until, deque(self._make(until) for _ in range(count))))
        return len(self._make(_until(height)))

    def take(self, count: int, height: int) -> list[bytes]:
        """So many that stand where the chain is now, at `height`."""
        while self._lots and self._lots[0][0] < height + WAIT_BLOCKS:
            self._lots.popleft()
        found: list[bytes] = []
        alive = [lot for until, lot in self._lots if until <= _until(height)]
        for lot in (self._returned, *alive):
            while lot and len(found) < count:
                found.append(lot.popleft())
        short = count - len(found)
        self.late += short
        return found + [self._make(_until(height)) for _ in range(short)]

    def give_back(self, packed: Iterable[bytes]) -> None:
        """Transactions that a node had no room for: they are the next ones to be taken."""
        self._returned.extend(packed)

    def _make(self, until: int) -> bytes:
        self._senders.rotate(1)
        return make(self._chain, self._senders[0], until)


def _until(height: int) -> int:
    """The last height at which what is signed for a chain at `height` stands."""
    return height + TX_LIFETIME_BLOCKS_MAX - BEHIND_BLOCKS

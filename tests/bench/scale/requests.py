"""Transactions of a run: their bytes, who brought them and when, and how long they took."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from tests.harness import as_read, key_of, organisation
from vm.block import PAYLOAD_BYTES_MAX, PAYLOAD_ITEMS_MAX, Payload
from vm.record import Band, ColumnSchema
from vm.registry import RegisterDataset
from vm.shape import unpack
from vm.transaction import NONCE_BYTES, TX_LIFETIME_BLOCKS_MAX, Transaction, Verified, sign

LIFETIME_BLOCKS = TX_LIFETIME_BLOCKS_MAX // 2  # other validators may be some blocks behind or ahead


def registration(place: int, serial: int) -> RegisterDataset:
    """The smallest honest record of a dataset; `place` counts organisations from 0."""
    return RegisterDataset(
        id=f"{organisation(place + 1)}.{serial:08x}",
        title="Births",
        root=bytes(32),
        schema=(ColumnSchema("age", "a"),),
        outcome="preterm",
        rows=Band(100, 199),
        positives=Band(10, 19),
        conditions=("DUO:0000006",),
        region="NL",
        opening=False,
        scores_max=1,
    )


def signed(chain: bytes, place: int, serial: int, height: int) -> Transaction:
    """A steward's registration that may stand above `height`."""
    steward = f"{organisation(place + 1)}.steward"
    return sign(
        key_of(steward),
        chain=chain,
        kind="dataset.register",
        sender=steward,
        body=registration(place, serial),
        valid_until_height=height + LIFETIME_BLOCKS,
        nonce=serial.to_bytes(NONCE_BYTES, "big"),
    )


@cache
def _pattern(place: int) -> Transaction:
    return signed(bytes(32), place, 0, 0)


class Book:
    """All transactions of one run; nobody verifies them, so their bytes differ by nonce alone."""

    def __init__(self) -> None:
        self.ids: dict[bytes, bytes] = {}  # by packed transaction
        self.waits: list[tuple[float, float]] = []  # begin of each that is certified, and seconds
        self.under_way: dict[bytes, tuple[int, float]] = {}  # who brought it, and when
        self._blocks: dict[bytes, tuple[bytes, ...]] = {}

    def make(self, place: int, height: int, begin_s: float) -> Verified:
        """A new transaction of the hospital whose validator has executed `height`."""
        pattern = _pattern(place)
        intent = replace(
            pattern.intent,
            valid_until_height=height + LIFETIME_BLOCKS,
            nonce=len(self.ids).to_bytes(NONCE_BYTES, "big"),
        )
        made = as_read(Transaction(intent, pattern.signature))
        self.ids[made.packed] = made.id
        self.under_way[made.packed] = place, begin_s
        return made

    def items(self, payload: bytes) -> tuple[bytes, ...]:
        """The transactions of a payload, none of a null request's; read once for all validators."""
        if not payload:
            return ()
        if payload not in self._blocks:
            read = unpack(Payload, payload, PAYLOAD_BYTES_MAX, PAYLOAD_ITEMS_MAX)
            self._blocks[payload] = read.transactions
        return self._blocks[payload]

    def certify(self, place: int, items: Sequence[bytes], now_s: float) -> int:
        """A validator has a certificate for these; how many of them it had brought itself."""
        own = [item for item in items if self.under_way.get(item, (-1, 0.0))[0] == place]
        for item in own:
            begin_s = self.under_way.pop(item)[1]
            self.waits.append((begin_s, now_s - begin_s))
        return len(own)

"""Blocks: the payload that consensus orders, the header that execution builds, receipts."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from vm import digest, tree
from vm.refusal import Refused
from vm.shape import Bytes, Code, Digest, Height, Many, TimeMs, pack, unpack
from vm.transaction import TRANSACTION_BYTES_MAX, Verified, check_lifetime, read

TRANSACTIONS_MAX = 2_000  # of one block
PAYLOAD_ITEMS_MAX = TRANSACTIONS_MAX + 8  # around them are two arrays, a version and a time
PAYLOAD_BYTES_MAX = 4 * 1024 * 1024  # of one block; consensus has the same bound on its messages


@dataclass(frozen=True, slots=True)
class Payload:
    """What consensus orders: a proposed time and packed transactions."""

    VERSION: ClassVar[int] = 1

    time_ms: TimeMs
    transactions: Annotated[
        tuple[Annotated[bytes, Bytes(1, TRANSACTION_BYTES_MAX)], ...], Many(TRANSACTIONS_MAX)
    ]


@dataclass(frozen=True, slots=True)
class Header:
    """What execution of a payload came to; a quorum signs its digest.

    `history` is the RFC 6962 root over the digests of all earlier headers (0 .. height - 1), so
    one certified header proves every earlier block. `validators` and `next_validators` are the
    digests of the epochs that rule this height and the next one.
    """

    VERSION: ClassVar[int] = 1

    chain: Digest
    height: Height
    time_ms: TimeMs
    transactions: Digest
    receipts: Digest
    state: Digest
    history: Digest
    validators: Digest
    next_validators: Digest

    @property
    def digest(self) -> Digest:
        """What checkpoints sign and history holds."""
        return digest.digest(digest.HEADER, pack(self))


class Result(StrEnum):
    """Whether a transaction took effect."""

    APPLIED = "applied"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a transaction came to: a leaf of the receipts tree.

    It holds the stable code only. The sentence that goes with it may be worded better one day, and
    nodes of two releases must still build equal trees.
    """

    VERSION: ClassVar[int] = 1

    transaction: Digest
    height: Height
    result: Result
    code: Code


def check_payload(
    data: bytes, height: int, chain: Digest, known: Mapping[bytes, Verified]
) -> tuple[Payload, tuple[Verified, ...]]:
    """Read a proposal and check what bytes and height decide; raises `Refused`.

    `known` maps packed transactions to what this node found when it verified them before, so that
    a signature is verified once. Checked: encoding, bounds, chain, signature, expiry,
    duplicates inside the payload. All else is decided in execution.
    """
    payload = unpack(Payload, data, PAYLOAD_BYTES_MAX, PAYLOAD_ITEMS_MAX)
    transactions = tuple(known.get(item) or read(item, chain) for item in payload.transactions)
    seen: set[bytes] = set()
    for transaction in transactions:
        check_lifetime(transaction.intent, height)
        if transaction.id in seen:
            raise Refused(
                "payload.duplicate",
                f"expected distinct transactions, found {transaction.id.hex()} twice",
            )
        seen.add(transaction.id)
    return payload, transactions


def transactions_root(packed: tuple[bytes, ...]) -> Digest:
    """RFC 6962 root over packed transactions in order of execution."""
    return tree.root(packed)


def receipts_root(receipts: tuple[Receipt, ...]) -> Digest:
    """RFC 6962 root over packed receipts, one for each transaction."""
    return tree.root([pack(receipt) for receipt in receipts])

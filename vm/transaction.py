"""Transactions: signed intents. The id is the digest of the unsigned bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from vm import digest
from vm.keys import SigningKey, verify
from vm.refusal import Refused
from vm.shape import Bytes, Code, Digest, Height, Name, PublicKey, Signature, pack, unpack

BODY_BYTES_MAX = 64 * 1024  # a task with 256 columns takes about 20 KiB
TRANSACTION_BYTES_MAX = BODY_BYTES_MAX + 512  # the rest is fixed or named fields
TRANSACTION_ITEMS_MAX = 16  # it has 12, its body being one; a hundred come in one message
TX_LIFETIME_BLOCKS_MAX = 1_024  # ids of that many last blocks are remembered against replay
NONCE_BYTES = 8


@dataclass(frozen=True, slots=True)
class Intent:
    """The unsigned part. `body` is the canonical bytes of the kind's body record."""

    VERSION: ClassVar[int] = 1

    chain: Digest
    kind: Code
    sender: Name
    public_key: PublicKey
    body: Annotated[bytes, Bytes(1, BODY_BYTES_MAX)]
    valid_until_height: Height
    nonce: Annotated[bytes, Bytes(NONCE_BYTES, NONCE_BYTES)]


@dataclass(frozen=True, slots=True)
class Transaction:
    """An intent and its sender's Ed25519 signature over the id."""

    VERSION: ClassVar[int] = 1

    intent: Intent
    signature: Signature

    @property
    def id(self) -> Digest:
        """The digest of the unsigned bytes."""
        return transaction_id(self.intent)


def transaction_id(intent: Intent) -> Digest:
    """What the sender signs and what a receipt names."""
    return digest.digest(digest.TRANSACTION, pack(intent))


def sign(
    key: SigningKey,
    *,
    chain: Digest,
    kind: str,
    sender: str,
    body: object,
    valid_until_height: int,
    nonce: bytes,
) -> Transaction:
    """Make a transaction; the caller brings the nonce, which lets equal intents recur."""
    intent = Intent(chain, kind, sender, key.public, pack(body), valid_until_height, nonce)
    return Transaction(intent, key.sign(transaction_id(intent)))


def read(data: bytes, chain: Digest) -> Transaction:
    """Decode and check what bytes alone decide; raises `Refused`.

    Codes: `encoding.*`, `shape.*`, `transaction.chain`, `transaction.signature`.
    """
    return check(
        unpack(Transaction, data, TRANSACTION_BYTES_MAX, TRANSACTION_ITEMS_MAX), chain, verify
    )


def check(
    transaction: Transaction,
    chain: Digest,
    verify_signature: Callable[[bytes, bytes, bytes], bool],
) -> Transaction:
    """Check chain and signature of a decoded transaction; raises `Refused`."""
    intent = transaction.intent
    if intent.chain != chain:
        raise Refused(
            "transaction.chain", f"expected chain {chain.hex()}, found {intent.chain.hex()}"
        )
    if not verify_signature(intent.public_key, transaction.id, transaction.signature):
        raise Refused(
            "transaction.signature",
            f"expected a signature by {intent.public_key.hex()} over {transaction.id.hex()}, "
            "found one that does not verify",
        )
    return transaction


def check_lifetime(intent: Intent, height: int) -> None:
    """Check that the transaction may stand in the block at `height`; raises `Refused`."""
    if intent.valid_until_height < height:
        raise Refused(
            "transaction.expired",
            f"expected to stand by height {intent.valid_until_height}, found height {height}",
        )
    if intent.valid_until_height >= height + TX_LIFETIME_BLOCKS_MAX:
        raise Refused(
            "transaction.lifetime",
            f"expected valid_until_height below {height + TX_LIFETIME_BLOCKS_MAX} "
            f"at height {height}, found {intent.valid_until_height}",
        )

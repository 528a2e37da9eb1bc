"""Transactions: signed intents. The id is the digest of the unsigned bytes."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from vm import digest
from vm.keys import SIGNATURE_BYTES, SigningKey, verify
from vm.refusal import Refused
from vm.shape import Bytes, Code, Digest, Height, Name, PublicKey, Signature, pack, unpack

BODY_BYTES_MAX = 64 * 1024  # a task with 256 columns takes about 20 KiB
TRANSACTION_BYTES_MAX = BODY_BYTES_MAX + 512  # the rest is fixed or named fields
TRANSACTION_ITEMS_MAX = 1_024  # it has 12, its body being one; short ones are not counted
TX_LIFETIME_BLOCKS_MAX = 1_024  # ids of that many last blocks are remembered against replay
NONCE_BYTES = 16  # the id of a restricted transaction is open: nobody tries out 2^128 bodies

_INTENT_START = 2  # behind the header of an array of three, and the version
_SIGNATURE_ITEM_BYTES = 2 + SIGNATURE_BYTES  # its header, and itself


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


@dataclass(frozen=True, slots=True)
class Verified:
    """A transaction whose chain and signature were checked, with its id and bytes as they came.

    So neither is made again on the way from the wire through mempool and block to disk.
    """

    intent: Intent
    id: Digest
    packed: bytes

    @property
    def signature(self) -> Signature:
        """The sender's over the id: it ends the packed bytes."""
        return self.packed[-SIGNATURE_BYTES:]


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


def read(data: bytes, chain: Digest) -> Verified:
    """Decode and check what bytes alone decide; raises `Refused`.

    Codes: `encoding.*`, `shape.*`, `transaction.chain`, `transaction.signature`.
    """
    transaction = unpack(Transaction, data, TRANSACTION_BYTES_MAX, TRANSACTION_ITEMS_MAX)
    intent = transaction.intent
    if intent.chain != chain:
        raise Refused(
            "transaction.chain", f"expected chain {chain.hex()}, found {intent.chain.hex()}"
        )
    # the intent's own bytes: an encoding is canonical, so they need not be made again
    id = digest.digest(digest.TRANSACTION, data[_INTENT_START:-_SIGNATURE_ITEM_BYTES])
    if not verify(intent.public_key, id, transaction.signature):
        raise Refused(
            "transaction.signature",
            f"expected a signature by {intent.public_key.hex()} over {id.hex()}, "
            "found one that does not verify",
        )
    return Verified(intent, id, data)


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

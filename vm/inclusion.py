"""Inclusion proofs: what a stranger's node says, checked with nothing trusted but two values.

Those are the chain's id and its epochs, as `vm.trust` follows them from the genesis document or
from a pin. Every function here raises `Refused` with the step that failed in its code:

- `audit.chain`, `audit.header`, `audit.validators`: the header is of another chain, not the one
  that was certified, or of another epoch than rules its height;
- `audit.before_pin`: the certificate is of a height before the first epoch that is known;
- `audit.certificate.*`: the certificate, as in `vm.certificate`;
- `audit.history`: an earlier header is not in the certified header's history;
- `audit.consistency`: two headers are not of one history;
- `audit.height`, `audit.under`: the block, or the checkpoint above it, is not the one asked for;
- `audit.key`: the proof is of another record or transaction than the one asked for;
- `audit.path.*`: the state path, as in `vm.sparse` and `vm.multiproof`;
- `audit.transaction`, `audit.receipt`: the leaf does not stand in its tree, or the two differ.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeVar

from vm import multiproof, sparse, tree
from vm.block import Header, Receipt
from vm.certificate import CheckpointCertificate, verify_checkpoint
from vm.epoch import ruling
from vm.multiproof import Entry, Key, RecordBytes
from vm.quorum import Epoch
from vm.refusal import Refused
from vm.shape import Bytes, Count, Digest, Many, pack, unpack
from vm.state import Record, state_key
from vm.transaction import TRANSACTION_BYTES_MAX, Verified, read

RECORDS_MAX = 32_768  # of one proof: a lineage of 400 rounds of 8 hospitals
SIBLINGS_MAX = 16 * RECORDS_MAX  # of one proof: what so many records in a tree of 2^31 take
MULTIPROOF_BYTES_MAX = 32 * 1024 * 1024
MULTIPROOF_ITEMS_MAX = 9 * RECORDS_MAX + SIBLINGS_MAX + 4_096  # 9 of an entry; the rest a header's

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Later:
    """A later header, and the RFC 6962 path of an earlier one in its history."""

    VERSION: ClassVar[int] = 1

    header: Header
    path: tree.Path


@dataclass(frozen=True, slots=True)
class CertifiedHeader:
    """A header that a quorum certified: itself, or through a later one whose history holds it.

    Without `later` the certificate is the header's own; with it, the later header's. A node that
    caught up holds no certificate of its own for each height that it missed.
    """

    VERSION: ClassVar[int] = 1

    header: Header
    certificate: CheckpointCertificate
    later: Later | None


@dataclass(frozen=True, slots=True)
class RecordProof:
    """That a state key has this value at a height, or with None that it has none."""

    VERSION: ClassVar[int] = 1

    key: Key
    value: RecordBytes | None
    path: sparse.StatePath
    certified: CertifiedHeader


@dataclass(frozen=True, slots=True)
class TransactionProof:
    """That a block executed a transaction, with its receipt: leaf `index` of two trees."""

    VERSION: ClassVar[int] = 1

    transaction: Annotated[bytes, Bytes(1, TRANSACTION_BYTES_MAX)]
    receipt: Receipt
    index: Count
    size: Count
    transaction_path: tree.Path
    receipt_path: tree.Path
    certified: CertifiedHeader


@dataclass(frozen=True, slots=True)
class MultiProof:
    """What several state keys hold at one height, or that they hold nothing.

    `records` are in order of state path; `siblings` as `vm.multiproof` takes them.
    """

    VERSION: ClassVar[int] = 1

    certified: CertifiedHeader
    records: Annotated[tuple[Entry, ...], Many(RECORDS_MAX, 1)]
    siblings: Annotated[tuple[Digest, ...], Many(SIBLINGS_MAX)]


@dataclass(frozen=True, slots=True)
class BlockProof:
    """The block `certified.header` under a checkpoint that the asker names.

    The checkpoint is `certified.later.header`, or the block's own header with its certificate.
    """

    VERSION: ClassVar[int] = 1

    certified: CertifiedHeader


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """That two certified headers are of one history.

    `inclusion` shows the older header at its height in the newer one's history; `consistency` that
    all that came before it is the beginning of that history (RFC 6962, section 2.1.2).
    """

    VERSION: ClassVar[int] = 1

    older: CertifiedHeader
    newer: CertifiedHeader
    inclusion: tree.Path
    consistency: tree.Path


def verify_header(certified: CertifiedHeader, chain: Digest, epochs: Sequence[Epoch]) -> None:
    """Check that a quorum of the validators that rule its height stands behind the header."""
    header, later = certified.header, certified.later
    signed = header if later is None else later.header
    # 1. both headers are of this chain
    for found in (header.chain, signed.chain):
        if found != chain:
            raise Refused("audit.chain", f"expected chain {chain.hex()}, found {found.hex()}")
    # 2. the header is the one that the certificate names
    certificate = certified.certificate
    if (certificate.height, certificate.header) != (signed.height, signed.digest):
        raise Refused(
            "audit.header",
            f"expected the header {certificate.header.hex()} of height {certificate.height}, "
            f"found {signed.digest.hex()} of height {signed.height}",
        )
    # 3. the epoch that certifies it is the one that was followed to there
    if max(signed.height, 1) < epochs[0].first:  # genesis is under the first epoch
        raise Refused(
            "audit.before_pin",
            f"expected a certificate of height {epochs[0].first} or higher, from which on the "
            f"validators are known, found one of {signed.height}",
        )
    epoch = _expect_ruling(epochs, signed)
    # 4. a quorum signed
    try:
        verify_checkpoint(certificate, chain, epoch.validators)
    except Refused as refused:
        raise Refused(f"audit.{refused.code}", refused.message) from refused
    # 5. an earlier header stands at its height in the later one's history
    if later is not None and not tree.verify_inclusion(
        header.digest, header.height, signed.height, later.path, signed.history
    ):
        raise Refused(
            "audit.history",
            f"expected header {header.height} in the history of {signed.height}, found no path",
        )
    # 6. which epochs both have followed: a set that was retired by then signs no later history
    if max(header.height, 1) >= epochs[0].first:
        _expect_ruling(epochs, header)


def _expect_ruling(epochs: Sequence[Epoch], header: Header) -> Epoch:
    """The epoch that rules a header's height, which must be the one that the header names."""
    epoch = ruling(epochs, header.height)
    if header.validators != epoch.digest:
        raise Refused(
            "audit.validators",
            f"expected epoch {epoch.number} with digest {epoch.digest.hex()} at height "
            f"{header.height}, found {header.validators.hex()}",
        )
    return epoch


def read_multiproof(data: bytes) -> MultiProof:
    """The multiproof in canonical bytes, within its own bounds; raises as `vm.shape.unpack`."""
    return unpack(MultiProof, data, MULTIPROOF_BYTES_MAX, MULTIPROOF_ITEMS_MAX)


def write_multiproof(proof: MultiProof) -> bytes:
    """The canonical bytes; raises `Refused("lineage.too_large")` for one that nobody would read."""
    if len(proof.records) <= RECORDS_MAX and len(proof.siblings) <= SIBLINGS_MAX:
        data = pack(proof)
        if len(data) <= MULTIPROOF_BYTES_MAX:
            return data
    raise Refused(
        "lineage.too_large",
        f"expected at most {RECORDS_MAX} records, {SIBLINGS_MAX} siblings and "
        f"{MULTIPROOF_BYTES_MAX} bytes, found more",
    )


def verify_record(proof: RecordProof, chain: Digest, epochs: Sequence[Epoch]) -> None:
    """Check that the key has this value, or none, at the header's height."""
    verify_header(proof.certified, chain, epochs)
    _verify_path(proof.path, proof.certified.header, proof.key, proof.value)


def read_record(
    proof: RecordProof,
    cls: type[R],
    key: tuple[str | int, ...],
    chain: Digest,
    epochs: Sequence[Epoch],
) -> R | None:
    """The record of class `cls` under `key`, or None if the proof shows that there is none."""
    expect_key(proof.key, state_key(cls.KIND, key))
    verify_record(proof, chain, epochs)
    return None if proof.value is None else unpack(cls, proof.value, sparse.VALUE_BYTES_MAX)


def expect_key(found: bytes, expected: bytes) -> None:
    """Check that a proof is of the key that was asked for: a neighbour's proof is sound too."""
    if found != expected:
        raise Refused("audit.key", f"expected key {expected.hex()}, found {found.hex()[:120]}")


def expect_height(header: Header, height: int) -> None:
    """Check that a proof is of the height that was asked for: another height's is sound too."""
    if header.height != height:
        raise Refused("audit.height", f"expected height {height}, found {header.height}")


def verify_transaction(proof: TransactionProof, chain: Digest, epochs: Sequence[Epoch]) -> Verified:
    """Check that the header's block executed the transaction with this receipt; return it."""
    header, receipt = proof.certified.header, proof.receipt
    # 1. the header is certified
    verify_header(proof.certified, chain, epochs)
    # 2. the bytes are a leaf of its transactions
    if not tree.verify_inclusion(
        proof.transaction, proof.index, proof.size, proof.transaction_path, header.transactions
    ):
        raise Refused(
            "audit.transaction",
            f"expected leaf {proof.index} of {proof.size} transactions of block {header.height}, "
            "found no path",
        )
    # 3. the receipt is the leaf at the same place of its receipts
    if not tree.verify_inclusion(
        pack(receipt), proof.index, proof.size, proof.receipt_path, header.receipts
    ):
        raise Refused(
            "audit.receipt",
            f"expected leaf {proof.index} of {proof.size} receipts of block {header.height}, "
            "found no path",
        )
    # 4. both speak of one transaction
    transaction = read(proof.transaction, chain)
    if (receipt.transaction, receipt.height) != (transaction.id, header.height):
        raise Refused(
            "audit.receipt",
            f"expected the receipt of {transaction.id.hex()} at height {header.height}, "
            f"found one of {receipt.transaction.hex()} at height {receipt.height}",
        )
    return transaction


def verify_multiproof(
    proof: MultiProof, chain: Digest, epochs: Sequence[Epoch]
) -> dict[bytes, bytes | None]:
    """Check every path of a multiproof; return what its state keys hold.

    Whether they tell a complete and consistent story is for `node.audit.lineage` to check.
    """
    verify_header(proof.certified, chain, epochs)
    try:
        multiproof.verify(proof.records, proof.siblings, proof.certified.header.state)
    except Refused as refused:
        raise _path_refusal(refused) from refused
    return {entry.key: entry.value for entry in proof.records}


def verify_records(
    proof: MultiProof, keys: Collection[bytes], chain: Digest, epochs: Sequence[Epoch]
) -> dict[bytes, bytes | None]:
    """Check a multiproof of exactly these keys; return what they hold."""
    found = verify_multiproof(proof, chain, epochs)
    asked = set(keys)
    if found.keys() != asked:
        raise Refused(
            "audit.key",
            f"expected the {len(asked)} keys asked for and no other, found "
            f"{len(found.keys() & asked)} of them and {len(found.keys() - asked)} others",
        )
    return found


def verify_block(
    proof: BlockProof, height: int, under: int, chain: Digest, epochs: Sequence[Epoch]
) -> Header:
    """Check that the block at `height` stands under the certified header of `under`; return it."""
    header, later = proof.certified.header, proof.certified.later
    signed = header if later is None else later.header
    expect_height(header, height)
    if signed.height != under:
        raise Refused("audit.under", f"expected it under header {under}, found {signed.height}")
    verify_header(proof.certified, chain, epochs)
    return header


def verify_consistency(proof: ConsistencyProof, chain: Digest, epochs: Sequence[Epoch]) -> None:
    """Check that the older certified header and all before it are in the newer one's history."""
    # 1. both are certified
    verify_header(proof.older, chain, epochs)
    verify_header(proof.newer, chain, epochs)
    older, newer = proof.older.header, proof.newer.header
    # 2. one comes before the other
    if older.height >= newer.height:
        raise Refused(
            "audit.consistency",
            f"expected the older header below height {newer.height}, found {older.height}",
        )
    # 3. the older stands in the newer one's history, at its height
    if not tree.verify_inclusion(
        older.digest, older.height, newer.height, proof.inclusion, newer.history
    ):
        raise Refused(
            "audit.history",
            f"expected header {older.height} in the history of {newer.height}, found no path",
        )
    # 4. and what came before it is how that history begins
    if not tree.verify_consistency(
        older.height, newer.height, older.history, newer.history, proof.consistency
    ):
        raise Refused(
            "audit.consistency",
            f"expected the history of {older.height} to begin that of {newer.height}, "
            "found no path",
        )


def _verify_path(path: sparse.StatePath, header: Header, key: bytes, value: bytes | None) -> None:
    try:
        sparse.verify(path, header.state, key, value)
    except Refused as refused:
        raise _path_refusal(refused) from refused


def _path_refusal(refused: Refused) -> Refused:
    step = refused.code.removeprefix("state_path.")
    return Refused(f"audit.path.{step}", refused.message)

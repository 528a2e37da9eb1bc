"""Uses that are shown: leaves of a batch, checked against its record and with that against genesis.

Pure, as `vm.inclusion` is: what a stranger brings is checked with the chain's id and the epochs
that were followed from genesis.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from vm import tree
from vm.encoding import decode
from vm.inclusion import RecordProof, expect_key, verify_record
from vm.quorum import Epoch
from vm.refusal import Refused
from vm.shape import Bytes, Count, Digest, Many, unpack
from vm.sparse import VALUE_BYTES_MAX
from vm.state import state_key
from vm.usage import ENTRIES_MAX, Use, UseBatchRecord, hours

USE_BYTES_MAX = 256  # of a packed use: a name of 64 bytes, two digests, numbers and codes
PROOF_BYTES_MAX = 24 * 1024 * 1024  # ENTRIES_MAX leaves at their longest, and the record's proof
PROOF_ITEMS_MAX = ENTRIES_MAX + 8_192  # a leaf is one item; the rest are a record's proof

Leaf = Annotated[bytes, Bytes(1, USE_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class OneUse:
    """Leaf `index` of a batch, from 0, with its RFC 6962 path."""

    TAG: ClassVar[str] = "one"
    VERSION: ClassVar[int] = 1

    index: Count
    leaf: Leaf
    path: tree.Path


@dataclass(frozen=True, slots=True)
class AllUses:
    """Every leaf of a batch, in order: the root follows from them."""

    TAG: ClassVar[str] = "all"
    VERSION: ClassVar[int] = 1

    leaves: Annotated[tuple[Leaf, ...], Many(ENTRIES_MAX, 1)]


@dataclass(frozen=True, slots=True)
class UseProof:
    """That these uses are what a batch on the chain was made of; leaves are packed `Use`s."""

    VERSION: ClassVar[int] = 1

    batch: RecordProof
    opened: OneUse | AllUses


def read_proof(data: bytes) -> UseProof:
    """Read canonical bytes of a proof; raises `Refused("encoding.*" | "shape.*")`."""
    return unpack(UseProof, data, PROOF_BYTES_MAX, PROOF_ITEMS_MAX)


def verify_uses(
    proof: UseProof, chain: Digest, epochs: Sequence[Epoch]
) -> tuple[UseBatchRecord, tuple[Use, ...]]:
    """The batch and the uses that `proof` shows; raises `Refused` with the step that failed.

    Codes are those of `verify_record`, and `audit.use.batch`, `audit.use.path`, `audit.use.root`,
    `audit.use.leaf`, `audit.use.total`.
    """
    # 1. the record is a batch's, and stands under a certified header
    verify_record(proof.batch, chain, epochs)
    batch = _read_batch(proof.batch)
    # 2. the leaves stand under its root
    leaves = _check_leaves(proof.opened, batch)
    # 3. each of them is a use that the batch speaks of
    uses = tuple(_read_use(leaf, batch) for leaf in leaves)
    # 4. where they are the whole batch, as one alone may be, they come to what it says
    if len(uses) == batch.entries:
        _check_total(uses, batch)
    return batch, uses


def _read_batch(proof: RecordProof) -> UseBatchRecord:
    match decode(proof.key):
        case (UseBatchRecord.KIND, *_) if proof.value is not None:
            batch = unpack(UseBatchRecord, proof.value, VALUE_BYTES_MAX)
        case _:
            raise Refused("audit.use.batch", "expected the record of a batch of uses, found none")
    expect_key(proof.key, state_key(UseBatchRecord.KIND, batch.key))
    return batch


def _check_leaves(opened: OneUse | AllUses, batch: UseBatchRecord) -> tuple[bytes, ...]:
    match opened:
        case OneUse(index, leaf, path):
            if not tree.verify_inclusion(leaf, index, batch.entries, path, batch.root):
                raise Refused(
                    "audit.use.path",
                    f"expected use {index} of {batch.entries} under root {batch.root.hex()}, "
                    "found no path",
                )
            return (leaf,)
        case AllUses(leaves):
            if len(leaves) != batch.entries or tree.root(leaves) != batch.root:
                raise Refused(
                    "audit.use.root",
                    f"expected {batch.entries} uses with root {batch.root.hex()}, found "
                    f"{len(leaves)} with {tree.root(leaves).hex()}",
                )
            return leaves


def _read_use(leaf: bytes, batch: UseBatchRecord) -> Use:
    use = unpack(Use, leaf, USE_BYTES_MAX)
    said = (use.model, use.version, use.purpose, use.action)
    if said != (batch.model, batch.version, batch.purpose, batch.action):
        raise Refused(
            "audit.use.leaf",
            f"expected {batch.action.value} of {batch.model} {batch.version} for "
            f"{batch.purpose.value}, found {use.action.value} of {use.model} {use.version} for "
            f"{use.purpose.value}",
        )
    if not batch.first_ms <= use.time_ms <= batch.last_ms or use.count > batch.count:
        raise Refused(
            "audit.use.leaf",
            f"expected a use from {batch.first_ms} ms to {batch.last_ms} ms of at most "
            f"{batch.count}, found one of {use.time_ms} ms of {use.count}",
        )
    return use


def _check_total(uses: Sequence[Use], batch: UseBatchRecord) -> None:
    found = (sum(use.count for use in uses), *hours([use.time_ms for use in uses]))
    if found != (batch.count, batch.first_ms, batch.last_ms):
        raise Refused(
            "audit.use.total",
            f"expected {batch.count} in all from {batch.first_ms} ms to {batch.last_ms} ms, found "
            f"{found[0]} from {found[1]} ms to {found[2]} ms",
        )

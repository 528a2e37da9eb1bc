"""Builds inclusion proofs from a validator's store; `vm.inclusion` says how they are checked."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from node.audit.lineage import trace
from vm import sparse, tree
from vm.block import PAYLOAD_BYTES_MAX, Header, Payload
from vm.epoch import EpochHead
from vm.inclusion import (
    LINEAGE_RECORDS_MAX,
    CertifiedHeader,
    Later,
    LineageProof,
    ProvenRecord,
    RecordProof,
    TransactionProof,
)
from vm.quorum import Epoch
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.state import Record, State, state_key
from vm.succession import Step

if TYPE_CHECKING:
    from node.validator.chain import Chain
    from node.validator.store import BlockRow, Store, View

R = TypeVar("R", bound=Record)


def newest(chain: "Chain") -> "View":
    """The newest state that is executed here and certified; raises `Refused("node.not_ready")`."""
    certificate = chain.store.certified(chain.head.height)
    view = None if certificate is None else chain.view(certificate.height)
    if view is None:
        raise Refused("node.not_ready", "expected a certified block, found none yet; ask again")
    return view


def certified_row(chain: "Chain", height: int) -> "BlockRow | None":
    """What execution made of the block at `height`, if it stands under a certificate."""
    certificate = chain.store.certified(chain.head.height)
    if certificate is None or height > certificate.height:
        return None
    return whole_row(chain, height)


def whole_row(chain: "Chain", height: int) -> "BlockRow | None":
    """What execution made of the block at `height`, unless its transactions are pruned.

    Of the blocks before a snapshot the receipts alone are kept, or were ever fetched; and up to the
    one that this node has synced there may be no path from header to header.
    """
    row = None if height < chain.store.base() else chain.store.row(height)
    if row is not None and row.receipts and chain.store.block(height) is None:
        return None
    return row


def prove_header(chain: "Chain", header: Header) -> CertifiedHeader:
    """Show that a header of ours is certified: by its own certificate, or by the newest one."""
    own = chain.store.certificate(header.height)
    if own is not None:
        return CertifiedHeader(header, own, None)
    view = newest(chain)
    assert header.height < view.height, f"expected a certified height, found {header.height}"
    path = tree.inclusion_path_at(chain.store.history_node, header.height, view.height)
    return CertifiedHeader(header, view.certificate, Later(view.row.header, path))


def prove_steps(chain: "Chain", after: int, limit: int) -> list[Step]:
    """As `stored_steps`, of a chain; raises `Refused("node.not_ready")` before it is certified."""
    return stored_steps(chain.store, State(newest(chain).read), after, limit)


def stored_steps(store: "Store", state: State, after: int, limit: int) -> list[Step]:
    """Steps to the epochs after number `after`, at most `limit` and as far as certified here.

    The store keeps the header and the certificate of each epoch's last height for this, whatever
    else is pruned; a node that synced a state has stored those that it followed.
    """
    last = min(state.require(EpochHead).number, after + limit)
    steps: list[Step] = []
    for number in range(after + 1, last + 1):
        epoch = state.require(Epoch, number)
        header = store.header(epoch.first - 1)
        certificate = store.certificate(epoch.first - 1)
        if header is None or certificate is None:
            break  # it has not ended
        steps.append(Step(header, certificate, epoch))
    return steps


def view_header(view: "View") -> CertifiedHeader:
    """The header of a view, which has a certificate of its own."""
    return CertifiedHeader(view.row.header, view.certificate, None)


def prove_key(chain: "Chain", view: "View", key: bytes) -> RecordProof:
    """Show what a state key holds at the view's height, or that it holds nothing."""
    path = sparse.prove(chain.store.node, view.row.root, key)
    return RecordProof(key, view.read(key), path, view_header(view))


def prove_together(chain: "Chain", view: "View", keys: Iterable[bytes]) -> LineageProof:
    """Show what several state keys hold at the view's height, or that they hold nothing."""
    node, root = chain.store.node, view.row.root
    records = (ProvenRecord(key, view.read(key), sparse.prove(node, root, key)) for key in keys)
    return LineageProof(view_header(view), tuple(records))


def prove_transaction(chain: "Chain", id: bytes) -> TransactionProof | None:
    """Show the transaction's receipt; None if no certified block executed it."""
    place = chain.store.place(id)
    row = None if place is None else certified_row(chain, place.height)
    if place is None or row is None:
        return None
    transactions = executed(chain, row)
    receipts = [pack(receipt) for receipt in row.receipts]
    return TransactionProof(
        transaction=transactions[place.index],
        receipt=row.receipts[place.index],
        index=place.index,
        size=len(transactions),
        transaction_path=tree.inclusion_path(transactions, place.index),
        receipt_path=tree.inclusion_path(receipts, place.index),
        certified=prove_header(chain, row.header),
    )


def executed(chain: "Chain", row: "BlockRow") -> tuple[bytes, ...]:
    """The packed transactions that a block executed, in step with its receipts."""
    block = chain.store.block(row.header.height)
    if block is None or not block.payload:  # genesis, and null requests
        return ()
    payload = unpack(Payload, block.payload, PAYLOAD_BYTES_MAX)
    return tuple(payload.transactions[position] for position in row.positions)


def prove_lineage(chain: "Chain", view: "View", id: str, version: int) -> LineageProof:
    """Show everything that a model version came from.

    Raises `Refused` with `lineage.missing` if there is no such version, or `lineage.too_large`.
    """
    recorder = _Recorder(chain, view)
    trace(recorder, id, version)
    return LineageProof(view_header(view), tuple(recorder.records.values()))


class _Recorder:
    """A source of records that keeps the proof of each one read."""

    def __init__(self, chain: "Chain", view: "View") -> None:
        self._chain = chain
        self._view = view
        self.records: dict[bytes, ProvenRecord] = {}

    def get(self, cls: type[R], *key: str | int) -> R | None:
        name = state_key(cls.KIND, key)
        found = self.records.get(name)
        if found is None:
            if len(self.records) >= LINEAGE_RECORDS_MAX:
                raise Refused(
                    "lineage.too_large",
                    f"expected at most {LINEAGE_RECORDS_MAX} records, found more",
                )
            path = sparse.prove(self._chain.store.node, self._view.row.root, name)
            found = ProvenRecord(name, self._view.read(name), path)
            self.records[name] = found
        return None if found.value is None else unpack(cls, found.value, sparse.VALUE_BYTES_MAX)

"""Builds inclusion proofs from a validator's store; `vm.inclusion` says how they are checked."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from node.audit.lineage import trace
from vm import multiproof, sparse, tree
from vm.block import PAYLOAD_BYTES_MAX, Header, Payload
from vm.certificate import CheckpointCertificate
from vm.epoch import EpochHead
from vm.inclusion import (
    RECORDS_MAX,
    BlockProof,
    CertifiedHeader,
    ConsistencyProof,
    Later,
    MultiProof,
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
    from node.validator.store import BlockRow, Store
    from node.validator.view import View

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


def view_at(chain: "Chain", height: int | None) -> "View":
    """The state at a height, under its own certificate or the newest one; the newest if None.

    Raises `Refused` with `node.not_ready`, `height.future` or `height.pruned`.
    """
    top = newest(chain)
    if height is None or height == top.height:
        return top
    if height > top.height:
        raise Refused(
            "height.future", f"expected a height up to {top.height}, certified here, found {height}"
        )
    row, base = chain.store.row(height), chain.store.base()
    if row is None or height < base or not chain.store.kept().has_state(height, height):
        raise pruned(height)
    return top.at(chain.store.certificate(height) or top.certificate, row)


def pruned(height: int) -> Refused:
    """The refusal of a height whose state or path is not here."""
    return Refused(
        "height.pruned",
        f"expected height {height} within what this node keeps, found it pruned: ask a validator "
        "that keeps all blocks ([store] retain_blocks = 0)",
    )


def prove_header(chain: "Chain", header: Header) -> CertifiedHeader:
    """Show that a header of ours is certified: by its own certificate, or by the newest one."""
    own = chain.store.certificate(header.height)
    return _under(chain.store, header, own or newest(chain).certificate)


def prove_block(chain: "Chain", height: int, under: int) -> BlockProof:
    """Show the block at `height` under the checkpoint at `under`, which has a certificate here.

    Raises `Refused` with `checkpoint.missing`, `block.missing` or `height.pruned`.
    """
    if height > under:
        raise Refused("block.missing", f"expected a height up to {under}, found {height}")
    certificate = _certificate(chain, under)
    header = chain.store.header(height)
    if header is None or (height < chain.store.base() and height < under):
        raise pruned(height)
    return BlockProof(_under(chain.store, header, certificate))


def prove_consistency(chain: "Chain", older: int, newer: int) -> ConsistencyProof:
    """Show that the headers of two heights, `older` below `newer`, are of one history.

    The newer one has a certificate here; the older one stands under that if it has none of its own.
    Raises `Refused` with `heights.order`, `checkpoint.missing` or `height.pruned`.
    """
    if older >= newer:
        raise Refused("heights.order", f"expected from below to, found {older} and {newer}")
    store, certificate = chain.store, _certificate(chain, newer)
    header, top = store.header(older), store.header(newer)
    if header is None or top is None or older < store.base():
        raise pruned(older)
    node = chain.store.history_node
    return ConsistencyProof(
        older=_under(store, header, store.certificate(older) or certificate),
        newer=CertifiedHeader(top, certificate, None),
        inclusion=tree.inclusion_path_at(node, older, newer),
        consistency=tree.consistency_path_at(node, older, newer),
    )


def _certificate(chain: "Chain", height: int) -> CheckpointCertificate:
    certificate = chain.store.certificate(height)
    if certificate is None or height > newest(chain).height:
        raise Refused("checkpoint.missing", f"expected a certificate of {height}, found none")
    return certificate


def _under(store: "Store", header: Header, certificate: CheckpointCertificate) -> CertifiedHeader:
    """A header under a certificate of its own or of a later height."""
    if certificate.height == header.height:
        return CertifiedHeader(header, certificate, None)
    later = store.header(certificate.height)
    assert later is not None, f"expected the header of {certificate.height}, which is certified"
    path = tree.inclusion_path_at(store.history_node, header.height, certificate.height)
    return CertifiedHeader(header, certificate, Later(later, path))


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


def view_header(chain: "Chain", view: "View") -> CertifiedHeader:
    """The header of a view under its certificate."""
    return _under(chain.store, view.row.header, view.certificate)


def prove_key(chain: "Chain", view: "View", key: bytes) -> RecordProof:
    """Show what a state key holds at the view's height, or that it holds nothing."""
    path = sparse.prove(chain.store.node, view.row.root, key)
    return RecordProof(key, view.read(key), path, view_header(chain, view))


def prove_together(chain: "Chain", view: "View", keys: Iterable[bytes]) -> MultiProof:
    """Show what several state keys hold at the view's height, or that they hold nothing."""
    records, siblings = multiproof.prove(chain.store.node, view.row.root, keys)
    return MultiProof(view_header(chain, view), records, siblings)


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


def prove_lineage(chain: "Chain", view: "View", id: str, version: int) -> MultiProof:
    """Show everything that a model version came from.

    Raises `Refused` with `lineage.missing` if there is no such version, or `lineage.too_large`.
    """
    recorder = _Recorder(view)
    trace(recorder, id, version)
    return prove_together(chain, view, recorder.keys)


class _Recorder:
    """A source of records that keeps the key of each one read."""

    def __init__(self, view: "View") -> None:
        self._view = view
        self.keys: set[bytes] = set()

    def get(self, cls: type[R], *key: str | int) -> R | None:
        self.keys.add(state_key(cls.KIND, key))
        if len(self.keys) > RECORDS_MAX:
            raise Refused(
                "lineage.too_large", f"expected at most {RECORDS_MAX} records, found more"
            )
        return self._view.get(cls, *key)

"""Vectors of inclusion proofs: each kind as its bytes, and forgeries with the step that fails."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from node.audit.check import audit_lineage
from node.audit.lineage import trace
from tests.fl.dialogue import MODEL
from tests.vectors.ledger import Ledger, Made, story
from tests.vectors.spelling import code_of
from vm import multiproof, sparse, tree
from vm.inclusion import (
    BlockProof,
    CertifiedHeader,
    ConsistencyProof,
    Later,
    MultiProof,
    RecordProof,
    TransactionProof,
    expect_height,
    expect_key,
    verify_block,
    verify_consistency,
    verify_header,
    verify_multiproof,
    verify_record,
    verify_records,
    verify_transaction,
)
from vm.record import Dataset, Member
from vm.shape import pack, unpack
from vm.state import Record, state_key

P = TypeVar("P")
R = TypeVar("R", bound=Record)

OLDER_HEIGHT, HEIGHT, LATER_HEIGHT = 5, 14, 15
AT_HEIGHT = 3  # at which a member was enrolled that is suspended at the next
READER = state_key(Member.KIND, ("hospital-2.reader",))
ASKED = [  # a pair of neighbours, records that are there and records that are not
    state_key(Dataset.KIND, ("opt-1",)),
    state_key(Dataset.KIND, ("opt-9",)),
    state_key(Member.KIND, ("hospital-1.trainer",)),
    state_key(Member.KIND, ("hospital-2.trainer",)),
    state_key(Member.KIND, ("nobody",)),
]


def proofs() -> dict[str, Any]:
    """Proofs under block 14, by its own certificate or by block 15's."""
    chain = story()
    made = chain.blocks[HEIGHT]
    own, later = _own(chain, made), _under_later(chain, made)
    present = _record(chain, made, own, state_key(Dataset.KIND, ("opt-1",)))
    absent = _record(chain, made, own, state_key(Member.KIND, ("nobody",)))
    transaction = _transaction(made, later)
    lineage = _together(chain, made, own, _lineage_keys(chain, made))
    several = _together(chain, made, own, ASKED)
    at = _record(chain, chain.blocks[AT_HEIGHT], _at(chain, AT_HEIGHT), READER)
    block = BlockProof(_under_later(chain, chain.blocks[OLDER_HEIGHT]))
    older = _own(chain, chain.blocks[OLDER_HEIGHT])
    consistent = _consistent(chain, older, own)
    audit_lineage(chain.genesis.chain, (chain.epoch,), lineage, MODEL, 1)
    return {
        "genesis": pack(chain.genesis).hex(),
        "chain": chain.genesis.chain.hex(),
        "header": _claims("CertifiedHeader", own, verify_header, _headers(chain, own, later)),
        "header_in_history": _claims("CertifiedHeader", later, verify_header, {}),
        "record": _claims("RecordProof", present, verify_record, _records(present, absent)),
        "absence": _claims("RecordProof", absent, verify_record, {}),
        "transaction": _claims(
            "TransactionProof", transaction, verify_transaction, _transactions(transaction, own)
        ),
        "record_at": {
            "height": AT_HEIGHT,
            **_claims("RecordProof", at, _verify_at, _heights(chain, at)),
        },
        "records": {
            "keys": [key.hex() for key in ASKED],
            **_claims("MultiProof", several, _verify_asked, _several(chain, made, several)),
        },
        "block": {
            "height": OLDER_HEIGHT,
            "under": LATER_HEIGHT,
            **_claims("BlockProof", block, _verify_block, _blocks(chain, block)),
        },
        "consistency": _claims(
            "ConsistencyProof", consistent, verify_consistency, _forks(chain, consistent)
        ),
        "lineage": {
            "model": MODEL,
            "version": 1,
            **_claims("MultiProof", lineage, verify_multiproof, {}),
            "changes": _changes(chain, lineage, made),
        },
    }


def _verify_at(proof: RecordProof, *trusted: Any) -> None:
    verify_record(proof, *trusted)
    expect_key(proof.key, READER)
    expect_height(proof.certified.header, AT_HEIGHT)


def _at(chain: Ledger, height: int) -> CertifiedHeader:
    return _under_later(chain, chain.blocks[height])


def _heights(chain: Ledger, good: RecordProof) -> dict[str, RecordProof]:
    before, after = chain.blocks[AT_HEIGHT - 1], chain.blocks[AT_HEIGHT + 1]
    later = _record(chain, after, _at(chain, AT_HEIGHT + 1), READER)
    return {
        "as it is at the next height": later,
        "as it was at the height before": _record(chain, before, _at(chain, AT_HEIGHT - 1), READER),
        "the next height's value under this header": replace(later, certified=good.certified),
        "this height's value under the next header": replace(good, certified=later.certified),
        "the later header's state": _record(
            chain, chain.blocks[LATER_HEIGHT], good.certified, READER
        ),
    }


def _verify_asked(proof: MultiProof, *trusted: Any) -> None:
    verify_records(proof, ASKED, *trusted)


def _verify_block(proof: BlockProof, *trusted: Any) -> None:
    verify_block(proof, OLDER_HEIGHT, LATER_HEIGHT, *trusted)


def _claims(
    shape: str, good: P, verify: Callable[..., object], attacks: dict[str, P]
) -> dict[str, Any]:
    chain = story()
    trusted = (chain.genesis.chain, (chain.epoch,))
    verify(good, *trusted)
    return {
        "shape": shape,
        "accepted": pack(good).hex(),
        "refused": [
            {"why": why, "proof": pack(attack).hex(), "code": code_of(verify, attack, *trusted)}
            for why, attack in attacks.items()
        ],
    }


def _own(chain: Ledger, made: Made) -> CertifiedHeader:
    return CertifiedHeader(made.header, chain.certify(made.header), None)


def _under_later(chain: Ledger, made: Made) -> CertifiedHeader:
    later = chain.blocks[LATER_HEIGHT].header
    leaves = chain.header_digests()[:LATER_HEIGHT]
    path = tree.inclusion_path(leaves, made.header.height)
    return CertifiedHeader(made.header, chain.certify(later), Later(later, path))


def _record(chain: Ledger, made: Made, certified: CertifiedHeader, key: bytes) -> RecordProof:
    read = chain.nodes.__getitem__
    value = sparse.get(read, made.root, key)
    return RecordProof(key, value, sparse.prove(read, made.root, key), certified)


def _transaction(made: Made, certified: CertifiedHeader) -> TransactionProof:
    packed = [item.packed for item in made.transactions]
    return TransactionProof(
        transaction=packed[2],
        receipt=made.receipts[2],
        index=2,
        size=len(packed),
        transaction_path=tree.inclusion_path(packed, 2),
        receipt_path=tree.inclusion_path([pack(item) for item in made.receipts], 2),
        certified=certified,
    )


class _Recorder:
    """A source of records that keeps the key of each one read."""

    def __init__(self, chain: Ledger, made: Made) -> None:
        self._chain = chain
        self._made = made
        self.keys: set[bytes] = set()

    def get(self, cls: type[R], *key: str | int) -> R | None:
        """The record, or None."""
        name = state_key(cls.KIND, key)
        self.keys.add(name)
        value = sparse.get(self._chain.nodes.__getitem__, self._made.root, name)
        return None if value is None else unpack(cls, value)


def _lineage_keys(chain: Ledger, made: Made) -> set[bytes]:
    recorder = _Recorder(chain, made)
    trace(recorder, MODEL, 1)
    return recorder.keys


def _together(
    chain: Ledger, made: Made, certified: CertifiedHeader, keys: Iterable[bytes]
) -> MultiProof:
    return MultiProof(certified, *multiproof.prove(chain.nodes.__getitem__, made.root, keys))


def _consistent(chain: Ledger, older: CertifiedHeader, newer: CertifiedHeader) -> ConsistencyProof:
    height, leaves = older.header.height, chain.header_digests()[: newer.header.height]
    frontier, nodes = tree.EMPTY, dict[tuple[int, int], bytes]()
    for leaf in leaves:
        frontier, made = tree.append(frontier, leaf)
        nodes |= {(level, index): digest for level, index, digest in made}
    return ConsistencyProof(
        older,
        newer,
        tree.inclusion_path(leaves, height),
        tree.consistency_path_at(lambda *place: nodes[place], height, len(leaves)),
    )


def _several(chain: Ledger, made: Made, good: MultiProof) -> dict[str, MultiProof]:
    records, siblings = good.records, good.siblings
    held = next(i for i, entry in enumerate(records) if entry.value is not None)
    leafy = next(i for i, entry in enumerate(records) if entry.leaf is not None)
    other = state_key(Member.KIND, ("hospital-3.trainer",))

    def changed(place: int, **changes: Any) -> MultiProof:
        entry = replace(records[place], **changes)
        return replace(good, records=(*records[:place], entry, *records[place + 1 :]))

    return {
        "fewer keys than were asked for": _together(chain, made, good.certified, ASKED[1:]),
        "a neighbour of a key": _together(chain, made, good.certified, [other, *ASKED[1:]]),
        "a key more": _together(chain, made, good.certified, [other, *ASKED]),
        "out of order": replace(good, records=records[::-1]),
        "a key twice": replace(good, records=(records[0], *records)),
        "another value": changed(held, value=b"\x90"),
        "absent though present": changed(held, value=None),
        "present though absent": changed(leafy, value=b"\x90", leaf=None),
        "a value beside another leaf": changed(leafy, value=b"\x90"),
        "absent by a leaf elsewhere": changed(leafy, leaf=sparse.Leaf(bytes(32), bytes(32))),
        "an end inside another's": changed(held, depth=0),
        "a sibling left out": replace(good, siblings=siblings[:-1]),
        "a sibling more": replace(good, siblings=(*siblings, siblings[0])),
        "siblings turned around": replace(good, siblings=siblings[::-1]),
        "another header": replace(good, certified=_own(chain, chain.blocks[OLDER_HEIGHT])),
    }


def _blocks(chain: Ledger, good: BlockProof) -> dict[str, BlockProof]:
    neighbour = chain.blocks[OLDER_HEIGHT + 1]
    return {
        "a neighbouring block": BlockProof(_under_later(chain, neighbour)),
        "under another checkpoint": BlockProof(_own(chain, chain.blocks[OLDER_HEIGHT])),
        "not in the history": BlockProof(
            replace(good.certified, header=replace(good.certified.header, time_ms=1))
        ),
        "too few votes": BlockProof(
            replace(
                good.certified,
                certificate=chain.certify(chain.blocks[LATER_HEIGHT].header, seats=2),
            )
        ),
    }


def _forks(chain: Ledger, good: ConsistencyProof) -> dict[str, ConsistencyProof]:
    other = replace(good.older.header, history=bytes(32))
    forked = CertifiedHeader(other, chain.certify(other), None)
    return {
        "turned around": replace(good, older=good.newer, newer=good.older),
        "one header twice": replace(good, newer=good.older),
        "an older header of another history": replace(good, older=forked),
        "a sibling of the inclusion left out": replace(good, inclusion=good.inclusion[:-1]),
        "a sibling of the consistency left out": replace(good, consistency=good.consistency[:-1]),
        "consistency turned around": replace(good, consistency=good.consistency[::-1]),
        "too few votes": replace(
            good,
            newer=replace(good.newer, certificate=chain.certify(good.newer.header, seats=2)),
        ),
    }


def _headers(
    chain: Ledger, own: CertifiedHeader, later: CertifiedHeader
) -> dict[str, CertifiedHeader]:
    assert later.later is not None
    other = replace(own.header, time_ms=own.header.time_ms + 1)
    foreign = replace(own.header, chain=bytes(32))
    usurped = replace(own.header, validators=bytes(32))
    return {
        "another header": replace(own, header=other),
        "of another chain": replace(own, header=foreign, certificate=chain.certify(foreign)),
        "of another validator set": replace(
            own, header=usurped, certificate=chain.certify(usurped)
        ),
        "too few votes": replace(own, certificate=chain.certify(own.header, seats=2)),
        "not in the history": replace(later, header=other),
        "the history of itself": replace(own, later=Later(own.header, later.later.path)),
    }


def _records(present: RecordProof, absent: RecordProof) -> dict[str, RecordProof]:
    assert present.value is not None
    return {
        "another value": replace(present, value=present.value + b"\xc0"),
        "absent though present": replace(present, value=None),
        "a neighbour's path": replace(present, path=absent.path),
        "present though absent": replace(absent, value=present.value),
    }


def _transactions(good: TransactionProof, own: CertifiedHeader) -> dict[str, TransactionProof]:
    other = replace(good.receipt, height=good.receipt.height + 1)
    return {
        "another place": replace(good, index=1),
        "another receipt": replace(good, receipt=other),
        "a receipt of another place": replace(good, receipt_path=good.transaction_path),
        "a sibling left out": replace(good, certified=own, transaction_path=()),
    }


def _changes(chain: Ledger, good: MultiProof, made: Made) -> list[dict[str, Any]]:
    """Sound proofs that are no lineage of the version asked for."""
    keys = {entry.key for entry in good.records}
    left_out = state_key(Dataset.KIND, ("opt-1",))
    too_many = state_key(Dataset.KIND, ("opt-9",))
    fewer = _together(chain, made, good.certified, keys - {left_out})
    more = _together(chain, made, good.certified, keys | {too_many})
    return [
        {"why": "a record left out", "proof": pack(fewer).hex(), "code": _code(chain, fewer)},
        {"why": "a record too many", "proof": pack(more).hex(), "code": _code(chain, more)},
        {"why": "of another version", "version": 2, "code": _code(chain, good, version=2)},
    ]


def _code(chain: Ledger, proof: MultiProof, version: int = 1) -> str:
    return code_of(audit_lineage, chain.genesis.chain, (chain.epoch,), proof, MODEL, version)

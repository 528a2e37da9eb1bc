"""Vectors of inclusion proofs: each kind as its bytes, and forgeries with the step that fails."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from node.audit.check import audit_lineage
from node.audit.lineage import trace
from tests.fl.dialogue import MODEL
from tests.vectors.ledger import Ledger, Made, story
from tests.vectors.spelling import code_of
from vm import sparse, tree
from vm.inclusion import (
    CertifiedHeader,
    Later,
    LineageProof,
    ProvenRecord,
    RecordProof,
    TransactionProof,
    verify_header,
    verify_lineage,
    verify_record,
    verify_transaction,
)
from vm.record import Dataset, Member
from vm.shape import pack, unpack
from vm.state import Record, state_key

P = TypeVar("P")
R = TypeVar("R", bound=Record)

HEIGHT, LATER_HEIGHT = 14, 15


def proofs() -> dict[str, Any]:
    """Proofs under block 14, by its own certificate or by block 15's."""
    chain = story()
    made = chain.blocks[HEIGHT]
    own, later = _own(chain, made), _under_later(chain, made)
    present = _record(chain, made, own, state_key(Dataset.KIND, ("opt-1",)))
    absent = _record(chain, made, own, state_key(Member.KIND, ("nobody",)))
    transaction = _transaction(made, later)
    lineage = _lineage(chain, made, own)
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
        "lineage": {
            "model": MODEL,
            "version": 1,
            **_claims("LineageProof", lineage, verify_lineage, {}),
            "changes": _changes(chain, lineage, made),
        },
    }


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
    packed = [pack(item) for item in made.transactions]
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
    """A source of records that keeps the proof of each one read, in order."""

    def __init__(self, chain: Ledger, made: Made) -> None:
        self._chain = chain
        self._made = made
        self.records: dict[bytes, ProvenRecord] = {}

    def get(self, cls: type[R], *key: str | int) -> R | None:
        """The record, or None."""
        name, read = state_key(cls.KIND, key), self._chain.nodes.__getitem__
        value = sparse.get(read, self._made.root, name)
        self.records[name] = ProvenRecord(name, value, sparse.prove(read, self._made.root, name))
        return None if value is None else unpack(cls, value)


def _lineage(chain: Ledger, made: Made, certified: CertifiedHeader) -> LineageProof:
    recorder = _Recorder(chain, made)
    trace(recorder, MODEL, 1)
    return LineageProof(certified, tuple(recorder.records.values()))


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


def _changes(chain: Ledger, good: LineageProof, made: Made) -> list[dict[str, Any]]:
    """What turns the accepted lineage into one whose paths may hold and which yet is refused."""
    other = _record(chain, made, good.certified, state_key(Dataset.KIND, ("opt-9",)))
    excess = ProvenRecord(other.key, other.value, other.path)
    first, last = good.records[0], len(good.records) - 1
    return [
        {
            "why": "a record left out",
            "remove": last,
            "code": _code(chain, replace(good, records=good.records[:-1])),
        },
        {
            "why": "a record too many",
            "append": pack(excess).hex(),
            "code": _code(chain, replace(good, records=(*good.records, excess))),
        },
        {
            "why": "a record twice",
            "append": pack(first).hex(),
            "code": _code(chain, replace(good, records=(*good.records, first))),
        },
        {"why": "of another version", "version": 2, "code": _code(chain, good, version=2)},
    ]


def _code(chain: Ledger, proof: LineageProof, version: int = 1) -> str:
    return code_of(audit_lineage, chain.genesis.chain, (chain.epoch,), proof, MODEL, version)

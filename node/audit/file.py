"""Proof files: one proof as a document of its own, verified offline.

JSON around canonical bytes in base64: the proof, what it is said to prove, and the steps from one
set of validators to the next, from genesis or from a pin. `docs/protocol.md` lays them out.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from node.api.resource import BY_KIND, parse_part
from node.api.views import base64_text, read_base64
from node.audit.check import Audit, audit_lineage, certificate_step, report
from node.audit.document import FILE_FORMAT, Start, Subject, read_document
from node.home.document import dump
from vm.block import Result
from vm.encoding import decode
from vm.inclusion import (
    BlockProof,
    CertifiedHeader,
    ConsistencyProof,
    MultiProof,
    RecordProof,
    TransactionProof,
    read_multiproof,
    verify_block,
    verify_consistency,
    verify_header,
    verify_multiproof,
    verify_record,
    verify_transaction,
)
from vm.opened import UseProof, read_proof, verify_uses
from vm.quorum import Epoch
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, is_name, pack, unpack
from vm.sparse import VALUE_BYTES_MAX
from vm.state import state_key
from vm.succession import Step
from vm.trust import Pin, Trust, advance, from_pin

KINDS = ("record", "records", "transaction", "block", "consistency", "lineage", "use")

Proof: TypeAlias = (
    RecordProof | TransactionProof | BlockProof | ConsistencyProof | MultiProof | UseProof
)


class Version(NamedTuple):
    """Of which model a multiproof is the lineage."""

    model: str
    version: int


class Anchor(NamedTuple):
    """What makes a pin of use: the pinned header, and the epoch that rules its height."""

    certified: CertifiedHeader
    epoch: Epoch

    @property
    def pin(self) -> Pin:
        """The pin that it stands behind."""
        return Pin(self.certified.header.height, self.certified.header.digest)

    def dump(self) -> dict[str, Any]:
        """What a file says of where it starts."""
        return {
            "height": self.pin.height,
            "header": self.pin.header.hex(),
            "certified": base64_text(pack(self.certified)),
            "epoch": base64_text(pack(self.epoch)),
        }


def write_file(
    proof: Proof,
    steps: Sequence[Step] = (),
    *,
    lineage: Version | None = None,
    anchor: Anchor | None = None,
) -> str:
    """A proof as a file of its own; `lineage` says that a multiproof is one.

    `steps` lead from genesis, or from `anchor`'s epoch, to that of its certificate or further; the
    file carries those that it needs.
    """
    height = max(_signed_height(certified) for certified in _certified(proof))
    document = {
        "format": FILE_FORMAT,
        "kind": _kind_of(proof) if lineage is None else "lineage",
        "chain": _certified(proof)[0].header.chain.hex(),
        "from": None if anchor is None else anchor.dump(),
        "steps": [base64_text(pack(step)) for step in steps if step.epoch.first <= height],
        "subject": subject_of(proof) if lineage is None else lineage._asdict(),
        "proof": base64_text(pack(proof)),
    }
    return json.dumps(document, indent=2) + "\n"


class Opened(NamedTuple):
    """A file as it was read: its proof, which is not verified yet, and the trust to verify it with.

    `trust` is the reader's, advanced by those of `steps` that it did not have. `vouched` says
    whether each step and the anchor hold by that trust: what lies before its beginning cannot, nor
    can a pin that is not the reader's and that validators certified who were retired since.
    """

    kind: str
    subject: Subject
    proof: Proof
    trust: Trust
    steps: tuple[Step, ...]
    anchor: Anchor | None
    vouched: bool


def verify_file(trust: Trust, data: str | bytes) -> Audit:
    """Verify a file that `write_file` made, offline; raises `Refused` with the step that failed."""
    return _verify(open_file(trust, data))


def open_file(trust: Trust, data: str | bytes) -> Opened:
    """Read a file and take its steps; raises `Refused` with `file.*` or the step that failed.

    Its certificate is of the newest epoch that the reader knows, or of one that follows: keys of
    those before were retired, and whoever has them since can sign what never was. That is refused
    with `audit.before_pin`, whether the reader knows that epoch from a pin or has followed to it,
    and so is what was certified below the pin; another header in its place is with `pin.header`.
    """
    document = read_document(data)
    begun = trust
    if document.chain != trust.chain.hex():
        raise Refused(
            "audit.chain", f"expected chain {trust.chain.hex()}, found {document.chain[:64]}"
        )
    anchor = None if document.start is None else _read_anchor(document.start)
    begin = 0
    if anchor is not None:
        begin = anchor.epoch.number
        _check_anchor(trust, anchor)
    steps = tuple(unpack(Step, read_base64(text)) for text in document.steps)
    for number, step in enumerate(steps, begin + 1):
        trust = _take(trust, step, number)
    known = begin >= trust.epochs[0].number
    vouched = known or not (steps or anchor)
    if anchor is not None and known and anchor.pin != trust.pin:
        verify_header(anchor.certified, trust.chain, trust.epochs)
        _check_pinned(trust, anchor.certified)
        vouched = _is_recent(begun, anchor.certified)
    proof = _unpack(document.kind, read_base64(document.proof))
    _check_recent(begun, certified_of(proof))
    return Opened(document.kind, document.subject, proof, trust, steps, anchor, vouched)


def _check_recent(trust: Trust, certified: CertifiedHeader) -> None:
    """Raise `Refused` with `audit.before_pin` or `pin.header` if it may be of retired keys."""
    if not _is_recent(trust, certified):
        raise Refused(
            "audit.before_pin",
            f"expected a certificate of height {_least(trust)} or higher, from which on the newest "
            "validators rule who are known, and not below the pin, found one of "
            f"{_signed_height(certified)}: ask for it again under a later checkpoint",
        )
    _check_pinned(trust, certified)


def _is_recent(trust: Trust, certified: CertifiedHeader) -> bool:
    return max(_signed_height(certified), 1) >= _least(trust)  # genesis is under the first epoch


def _least(trust: Trust) -> int:
    """The height from which on certificates count: the pin's, where the newest validators rule."""
    return max(trust.epochs[-1].first, 0 if trust.pin is None else trust.pin.height)


def _check_pinned(trust: Trust, certified: CertifiedHeader) -> None:
    """Raise `Refused("pin.header")` if another header is certified in the pinned one's place."""
    pin, found = trust.pin, certified.certificate
    if pin is not None and found.height == pin.height and found.header != pin.header:
        raise Refused(
            "pin.header", f"expected the pinned header {pin}, found {found.header.hex()} there"
        )


def _check_anchor(trust: Trust, anchor: Anchor) -> None:
    """Raise `Refused` with `pin.*` or `file.from` unless it is of this chain and known epochs.

    Of an epoch before the first that is known nobody can say more than that its header names it.
    """
    from_pin(trust.chain, anchor.pin, anchor.certified, anchor.epoch)
    place = anchor.epoch.number - trust.epochs[0].number
    if place >= len(trust.epochs):
        raise Refused(
            "file.from",
            f"expected a beginning in an epoch up to {trust.epochs[-1].number}, found one in "
            f"{anchor.epoch.number}: verify it with its own pin {anchor.pin}",
        )
    if place >= 0 and anchor.epoch != trust.epochs[place]:
        raise Refused(
            "file.from",
            f"expected epoch {anchor.epoch.number} as it is known, "
            f"{trust.epochs[place].digest.hex()}, found {anchor.epoch.digest.hex()}",
        )


def _take(trust: Trust, step: Step, number: int) -> Trust:
    """Trust after the step to epoch `number`; an epoch that is known has to be the step's.

    Raises `Refused` with `file.steps`, or with `succession.*`.
    """
    place = number - trust.epochs[0].number
    known = trust.epochs[place] if 0 <= place < len(trust.epochs) else None
    if step.epoch.number != number or known not in (None, step.epoch):
        raise Refused(
            "file.steps",
            f"expected a step to epoch {number} as it is known or follows, found one to "
            f"{step.epoch.number} with digest {step.epoch.digest.hex()}",
        )
    if place <= 0:  # who ruled before it is not known
        return trust
    reached = advance(replace(trust, epochs=trust.epochs[:place]), step)
    return trust if known is not None else reached


def trust_in(pin: Pin, data: str | bytes) -> Trust:
    """Trust in a pin, by what a file that starts from that very pin brings of it.

    Raises `Refused` with `file.*`, or `pin.*` if what it brings is not what the pin names.
    """
    start = read_document(data).start
    if start is None:
        raise Refused("file.from", f"expected a file from the pin {pin}, found one from genesis")
    anchor = _read_anchor(start)
    return from_pin(anchor.certified.header.chain, pin, anchor.certified, anchor.epoch)


def _read_anchor(start: Start) -> Anchor:
    """What a file brings of its pin; raises `Refused("file.from")` if it is of another."""
    anchor = Anchor(
        unpack(CertifiedHeader, read_base64(start.certified)),
        unpack(Epoch, read_base64(start.epoch)),
    )
    if (start.height, start.header) != (anchor.pin.height, anchor.pin.header.hex()):
        raise Refused(
            "file.from",
            f"expected {anchor.pin}, which the file brings, found {start.height}:"
            f"{start.header[:64]}",
        )
    return anchor


def _unpack(kind: str, data: bytes) -> Proof:
    match kind:
        case "record":
            return unpack(RecordProof, data)
        case "records" | "lineage":
            return read_multiproof(data)
        case "transaction":
            return unpack(TransactionProof, data)
        case "block":
            return unpack(BlockProof, data)
        case "consistency":
            return unpack(ConsistencyProof, data)
        case "use":
            return read_proof(data)
    raise Refused("file.kind", f"expected {', '.join(KINDS)}, found {kind[:80]}")


def _verify(opened: Opened) -> Audit:
    """Verify the proof, and that it is of what the file says."""
    trust, proof = opened.trust, opened.proof
    if opened.kind == "lineage":
        assert isinstance(proof, MultiProof), "it was unpacked as one"
        version = read_version(opened.subject)
        return audit_lineage(trust.chain, trust.epochs, proof, *version).audit
    subject = _expect(opened.subject, proof)
    match proof:
        case RecordProof():
            return _audit_record(trust, subject, proof)
        case MultiProof():
            return _audit_records(trust, subject, proof)
        case TransactionProof():
            return _audit_transaction(trust, subject, proof)
        case BlockProof():
            return _audit_block(trust, subject, proof)
        case ConsistencyProof():
            return _audit_consistency(trust, subject, proof)
        case UseProof():
            return _audit_uses(trust, proof)


def read_version(subject: Subject) -> Version:
    """Of which model version a lineage's file is; raises `Refused("audit.subject")`."""
    match subject:
        case {"model": str(model), "version": int(version)} if len(subject) == 2:
            whole = type(version) is int and 0 <= version <= HEIGHT_MAX  # Python: true is one too
            if whole and is_name(model):
                return Version(model, version)
    raise Refused("audit.subject", "expected a lineage's model and version, found something else")


def _expect(found: Subject, proof: Proof) -> Subject:
    """The proof's subject, if the file names that one; raises `Refused("audit.subject")`."""
    subject = subject_of(proof)
    expected, said = (json.dumps(item, sort_keys=True) for item in (subject, found))
    if said != expected:  # as text: Python takes true for 1, and 1.0 too
        raise Refused("audit.subject", f"expected {expected[:200]}, found {said[:200]}")
    return subject


def subject_of(proof: Proof) -> Subject:
    """What a proof is of, as its file names it; raises `Refused("audit.key")`."""
    match proof:
        case RecordProof():
            return {"record": _key_parts(proof.key)}
        case MultiProof():
            return {"records": [_key_parts(entry.key) for entry in proof.records]}
        case TransactionProof():
            return {"transaction": proof.receipt.transaction.hex()}
        case BlockProof(certified):
            return {"block": certified.header.height, "under": _signed_height(certified)}
        case ConsistencyProof(older, newer):
            return {"older": older.header.height, "newer": newer.header.height}
        case UseProof(batch):
            return {"batch": _key_parts(batch.key)}


def _key_parts(key: bytes) -> list[str | int]:
    """A record's kind and key, of a kind and with the parts that a path names.

    The absence of any other bytes can be proven, and written out they may read like the key of a
    record that is there. Raises `Refused("audit.key")`.
    """
    found = decode(key)
    kind, *parts = found if isinstance(found, tuple) and found else (None,)
    resource = BY_KIND.get(kind) if isinstance(kind, str) else None
    if resource is None or len(parts) != len(resource.parts):
        raise _no_key(key)
    try:
        read = [parse_part(*item) for item in zip(resource.parts, map(str, parts), strict=True)]
    except Refused:
        raise _no_key(key) from None
    if state_key(resource.record.KIND, tuple(read)) != key:  # as bytes: a text "1" is no number 1
        raise _no_key(key)
    return [resource.record.KIND, *read]


def _no_key(key: bytes) -> Refused:
    return Refused("audit.key", f"expected the key of a record, found {key.hex()[:120]}")


def _kind_of(proof: Proof) -> str:
    match proof:
        case RecordProof():
            return "record"
        case MultiProof():
            return "records"
        case TransactionProof():
            return "transaction"
        case BlockProof():
            return "block"
        case ConsistencyProof():
            return "consistency"
        case UseProof():
            return "use"


def _certified(proof: Proof) -> tuple[CertifiedHeader, ...]:
    if isinstance(proof, ConsistencyProof):
        return (proof.older, proof.newer)
    return (certified_of(proof),)


def certified_of(proof: Proof) -> CertifiedHeader:
    """The header under which a proof stands, of two the newer one."""
    match proof:
        case ConsistencyProof():
            return proof.newer
        case UseProof():
            return proof.batch.certified
        case _:
            return proof.certified


def _signed_height(certified: CertifiedHeader) -> int:
    return certified.certificate.height


def _audit_record(trust: Trust, subject: Subject, proof: RecordProof) -> Audit:
    verify_record(proof, trust.chain, trust.epochs)
    label = " ".join(map(str, subject["record"]))
    step = certificate_step(proof.certified, trust.epochs)
    header = proof.certified.header
    if proof.value is None:
        steps = (step, "1 state path to its root, of an absent record")
        return report(f"absence of {label}", header, steps, None)
    content = _dump_record(subject["record"], proof.value)
    return report(label, header, (step, "1 state path to its root"), content)


def _audit_records(trust: Trust, subject: Subject, proof: MultiProof) -> Audit:
    verify_multiproof(proof, trust.chain, trust.epochs)
    absent = sum(entry.value is None for entry in proof.records)
    steps = (
        certificate_step(proof.certified, trust.epochs),
        f"{len(proof.records)} state paths to one root, {absent} of them of absent records",
    )
    content = [
        {
            "key": parts,
            "present": entry.value is not None,
            "record": None if entry.value is None else _dump_record(parts, entry.value),
        }
        for parts, entry in zip(subject["records"], proof.records, strict=True)
    ]
    return report(f"{len(content)} records", proof.certified.header, steps, content)


def _dump_record(parts: list[str | int], value: bytes) -> Any:
    """A record for people."""
    resource = BY_KIND[str(parts[0])]
    return dump(unpack(resource.record, value, VALUE_BYTES_MAX))


def _audit_transaction(trust: Trust, subject: Subject, proof: TransactionProof) -> Audit:
    intent = verify_transaction(proof, trust.chain, trust.epochs).intent
    receipt, header = proof.receipt, proof.certified.header
    if receipt.result is Result.APPLIED:  # execution found the key to be the sender's
        outcome, signature = "applied", f"{intent.sender}'s signature over it"
    else:
        outcome = f"{receipt.result.value}, {receipt.code}"
        key = intent.public_key.hex()
        signature = f"a signature over it by key {key}, which names {intent.sender} as sender"
    steps = (
        certificate_step(proof.certified, trust.epochs),
        # Which place is not told: the same paths lead to others of other numbers of leaves.
        f"the transaction and its receipt at one place in block {header.height}",
        f"its receipt: {outcome}",
        signature,
    )
    content = {"receipt": dump(receipt)}
    return report(f"transaction {subject['transaction']}", header, steps, content)


def _audit_block(trust: Trust, subject: Subject, proof: BlockProof) -> Audit:
    height, under = subject["block"], subject["under"]
    header = verify_block(proof, height, under, trust.chain, trust.epochs)
    steps = (certificate_step(proof.certified, trust.epochs),)
    return report(f"block {height} under {under}", header, steps, {"header": dump(header)})


def _audit_consistency(trust: Trust, subject: Subject, proof: ConsistencyProof) -> Audit:
    verify_consistency(proof, trust.chain, trust.epochs)
    older, newer = subject["older"], subject["newer"]
    steps = (
        certificate_step(proof.older, trust.epochs),
        certificate_step(proof.newer, trust.epochs),
        f"header {older} at its height in the history of {newer}",
        f"the history of {older} is how that of {newer} begins",
    )
    content = {"older": dump(proof.older.header), "newer": dump(proof.newer.header)}
    return report(f"blocks {older} and {newer} of one history", proof.newer.header, steps, content)


def _audit_uses(trust: Trust, proof: UseProof) -> Audit:
    batch, uses = verify_uses(proof, trust.chain, trust.epochs)
    if len(uses) == batch.entries:
        opened = f"all {batch.entries} uses, {batch.count} in count, to the batch's root"
    else:
        opened = f"1 use of {batch.entries} with its path to the batch's root"
    certified = proof.batch.certified
    return report(
        f"uses of model {batch.model} by {batch.organisation}, batch {batch.number}",
        certified.header,
        (certificate_step(certified, trust.epochs), opened),
        {"batch": dump(batch), "uses": dump(uses)},
    )

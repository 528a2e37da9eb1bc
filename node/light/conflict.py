"""Forks: two certified headers of one height, and who signed both.

A conflict needs no judge: each side is a header that a quorum certified, with the steps from where
both begin. It is written as one file of evidence that anybody verifies offline, against the genesis
document or a pin. Where both headers have a certificate of their own, the validators who signed
both are each proven faulty by two signatures alone: that is the body of `validator.fault`, which
the chain itself judges. Where one header is shown by the history of a later one, those who signed
the later one are named, but what they signed is no slot of the other, and only people can judge it.
"""

import json
from dataclasses import dataclass
from typing import Any

from node.api.views import base64_text, read_base64
from node.audit.check import Audit
from node.audit.file import Anchor
from node.home.document import dump
from node.light.history import History, begin, follow
from vm.epoch import ruling
from vm.evidence import Evidence, SignedContent, judge
from vm.genesis import Genesis
from vm.inclusion import CertifiedHeader
from vm.quorum import VALIDATORS_MAX, Epoch
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.statement import Slot, SlotKind
from vm.succession import STEPS_MAX, Step
from vm.trust import Pin

FORMAT = "concilium.conflict.v1"
OPENING = (b"{", b"[", b",", b":")  # before each value stands one of these
VALUES_MAX = 2 * STEPS_MAX + 64  # of JSON in it: the steps, and what is around them
STEP_BYTES_MAX = 320 * VALIDATORS_MAX  # a seat and its vote take 304, with names of 64 bytes
TEXT_BYTES_MAX = STEP_BYTES_MAX // 3 * 4 + 32  # a step in base64, on a line of its own
FILE_BYTES_MAX = VALUES_MAX * TEXT_BYTES_MAX  # the only proof of a fork is never too large


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two histories from one beginning, whose `newest` are two headers of one height."""

    first: History
    second: History

    @property
    def height(self) -> int:
        """Where they part at the latest."""
        return _newest(self.first).header.height

    @property
    def name(self) -> str:
        """A name for its file: equal conflicts have equal ones."""
        digests = sorted(_newest(side).header.digest.hex()[:16] for side in self.sides)
        return f"{self.height}-{'-'.join(digests)}"

    @property
    def sides(self) -> tuple[History, History]:
        """Both histories."""
        return self.first, self.second

    def is_by(self, held: History | None) -> bool:
        """Whether both sides come of the validators who rule what is held, or of their successors.

        Other forks cost nothing but retired keys; who holds nothing knows of none who rules.
        """
        if held is None or held.newest is None:
            return False
        epoch = held.begun.trust.epochs[-1]
        return all(
            epoch in side.trust.epochs and _newest(side).certificate.height >= epoch.first
            for side in self.sides
        )

    def signers(self) -> tuple[str, ...]:
        """The validators whose key stands under both sides, in order of id.

        A forger's epoch may give a key to another name: then it goes by both, as `A or B`.
        """
        first, second = ({key: id for id, key in _keys(side).items()} for side in self.sides)
        both = [(id, second[key]) for key, id in first.items() if key in second]
        return tuple(one if one == other else f"{one} or {other}" for one, other in both)

    def faults(self) -> tuple[Evidence, ...]:
        """Bodies of `validator.fault`, one for each signer of two headers of this very height.

        The chain looks up the key by the validator's name: whose name has two keys is left out.
        """
        one, two = (_newest(side) for side in self.sides)
        if one.later is not None or two.later is not None:
            return ()
        epoch = ruling(self.first.trust.epochs, self.height)
        signed = {
            side.header.digest: {vote.validator: vote.signature for vote in side.certificate.votes}
            for side in (one, two)
        }
        before, after = signed[one.header.digest], signed[two.header.digest]
        first, second = (_keys(side) for side in self.sides)
        found = []
        for id, key in first.items():
            if second.get(id) != key:
                continue
            evidence = Evidence(
                validator=id,
                epoch=epoch.number,
                slot=Slot(SlotKind.CHECKPOINT, 0, self.height),
                first=SignedContent(one.header.digest, before[id]),
                second=SignedContent(two.header.digest, after[id]),
            )
            judge(self.first.trust.chain, epoch.validators, evidence)
            found.append(evidence)
        return tuple(found)


def find(first: History, second: History) -> Conflict:
    """The conflict of two histories; raises `Refused("conflict.none")` if they are none."""
    one, two = _newest(first).header, _newest(second).header
    if one.height != two.height or one.digest == two.digest:
        raise Refused(
            "conflict.none",
            f"expected two headers of one height, found {one.digest.hex()} of {one.height} and "
            f"{two.digest.hex()} of {two.height}",
        )
    return Conflict(first, second)


def write_conflict(conflict: Conflict) -> bytes:
    """The file of evidence, which `verify_conflict` reads."""
    start = conflict.first.start
    document = {
        "format": FORMAT,
        "chain": conflict.first.trust.chain.hex(),
        "from": None if start is None else start.dump(),
        "sides": [
            {
                "steps": [base64_text(pack(step)) for step in side.reaches(_newest(side))],
                "proof": base64_text(pack(_newest(side))),
            }
            for side in conflict.sides
        ],
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def write_faults(conflict: Conflict) -> list[tuple[str, bytes]]:
    """A name and a body of `validator.fault` for each signer, as `concilium submit` takes it."""
    return [
        (
            f"{conflict.name}-fault-{fault.validator}.json",
            (json.dumps(dump(fault), indent=2) + "\n").encode(),
        )
        for fault in conflict.faults()
    ]


def is_conflict(data: bytes) -> bool:
    """Whether a file says that it is one of these."""
    return FORMAT.encode() in data[:200]


def read_conflict(genesis: Genesis, pin: Pin | None, data: bytes) -> Conflict:
    """The conflict that a file proves to whoever trusts `genesis`, and `pin` if it begins at one.

    Raises `Refused` with `file.*`, `conflict.none`, or the step of a side that does not verify.
    """
    if len(data) > FILE_BYTES_MAX:
        raise Refused("file.too_large", f"expected at most {FILE_BYTES_MAX} bytes, found more")
    if sum(map(data.count, OPENING)) > VALUES_MAX:  # values take twenty times their text in memory
        raise Refused("file.format", f"expected at most {VALUES_MAX} values, found more")
    try:
        document = json.loads(data)
        form, chain = document["format"], document["chain"]
        start, sides = document["from"], document["sides"]
        texts = [(side["proof"], tuple(side["steps"])) for side in sides]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused("file.format", "expected JSON of a conflict, found something else") from None
    if form != FORMAT or len(texts) != 2 or not all(_are_texts(side) for side in texts):
        raise Refused("file.format", f"expected format {FORMAT} with two sides, found another")
    if chain != genesis.chain.hex():
        raise Refused(
            "file.chain", f"expected chain {genesis.chain.hex()}, found {str(chain)[:80]}"
        )
    begun = _begin(genesis, pin, start)
    first, second = (_read_side(begun, proof, steps) for proof, steps in texts)
    return find(first, second)


def audit_conflict(conflict: Conflict) -> Audit:
    """What a conflict shows, for people."""
    signers, faults = conflict.signers(), conflict.faults()
    header = _newest(conflict.first).header
    steps = [
        f"{name} header {_newest(side).header.digest.hex()} of height {conflict.height}, certified "
        + (
            "by a quorum"
            if (later := _newest(side).later) is None
            else f"through the history of height {later.header.height}"
        )
        for name, side in zip(("first", "second"), conflict.sides, strict=True)
    ]
    steps.append(f"signed both: {', '.join(signers) or 'nobody with the same key'}")
    steps.append(
        f"{len(faults)} of them proven faulty to the chain too: concilium submit HOME "
        "validator.fault BODY, with each of the faults as body"
        if faults
        else "no two signatures for one height: the chain cannot judge it, its members must"
    )
    content = {"signers": list(signers), "faults": [dump(fault) for fault in faults]}
    return Audit(
        subject="fork of two certified headers",
        chain=header.chain,
        height=header.height,
        time_ms=header.time_ms,
        steps=tuple(steps),
        content=content,
    )


def _are_texts(side: tuple[Any, tuple[Any, ...]]) -> bool:
    proof, steps = side
    return len(steps) <= STEPS_MAX and all(isinstance(text, str) for text in (proof, *steps))


def _begin(genesis: Genesis, pin: Pin | None, start: Any) -> History:
    if start is None:
        return begin(genesis)
    match start:
        case {"certified": str(certified), "epoch": str(epoch)}:
            anchor = Anchor(
                unpack(CertifiedHeader, read_base64(certified)), unpack(Epoch, read_base64(epoch))
            )
        case _:
            raise Refused("file.format", "expected a pin's header and epoch, found something else")
    if anchor.pin != pin:
        raise Refused(
            "file.from",
            f"expected evidence from the pin that you trust, found it from {anchor.pin}: give "
            "--pin if you trust that one",
        )
    return begin(genesis, anchor)


def _read_side(begun: History, proof: str, steps: tuple[str, ...]) -> History:
    history = follow(begun, (unpack(Step, read_base64(text)) for text in steps))
    return history.see(unpack(CertifiedHeader, read_base64(proof)))


def _newest(side: History) -> CertifiedHeader:
    assert side.newest is not None, "both sides of a conflict have a header"
    return side.newest


def _keys(side: History) -> dict[str, bytes]:
    """The keys that signed a side's certificate, by the validator's id."""
    certificate = _newest(side).certificate
    members = ruling(side.trust.epochs, certificate.height).validators
    seats = {seat.id: seat.key for seat in members.validators}
    return {vote.validator: seats[vote.validator] for vote in certificate.votes}

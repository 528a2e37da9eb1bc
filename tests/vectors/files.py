"""Vectors of proof files: of a chain of several epochs, from genesis and from a pin."""

import json
from dataclasses import replace
from typing import Any

from node.api.views import base64_text
from node.audit.file import Anchor, trust_in, verify_file, write_file
from tests.vectors.ledger import Ledger
from tests.vectors.reign import SIGNERS, certify, reign, step
from tests.vectors.spelling import code_of
from vm import multiproof, sparse, tree
from vm.certificate import CheckpointCertificate, Vote, checkpoint_digest
from vm.epoch import epochs
from vm.inclusion import (
    BlockProof,
    CertifiedHeader,
    ConsistencyProof,
    Later,
    MultiProof,
    RecordProof,
)
from vm.record import Member, MemberKeys
from vm.shape import pack
from vm.state import state_key
from vm.trust import Pin, from_genesis

ROTATED = state_key(MemberKeys.KIND, ("hospital-2.validator",))
NOBODY = state_key(Member.KIND, ("nobody",))
NO_KEY = (Member.KIND, "hospital-2.validator ")  # what a space ends is nobody's id


def files() -> dict[str, Any]:
    """Files that verify, and files of which some step does not."""
    chain = reign()
    found = epochs(chain.state)
    steps = [step(chain, epoch) for epoch in found[1:]]
    pinned = found[1].first
    anchor = Anchor(_certified(chain, pinned), found[1])
    held = Anchor(_certified(chain, pinned + 1), found[1])
    record, several = _record(chain, ROTATED), _several(chain)
    from_pin = write_file(record, steps[1:], anchor=anchor)
    good: list[tuple[str, str, Pin | None]] = [
        ("keys of a member", write_file(record, steps), None),
        ("an absence", write_file(_record(chain, NOBODY), steps), None),
        ("several records", write_file(several, steps), None),
        ("a block under a checkpoint", write_file(_block(chain, 3), steps), None),
        ("two checkpoints", write_file(_consistency(chain, pinned), steps), None),
        ("keys of a member, from a pin", from_pin, anchor.pin),
    ]
    whole, block = good[0][1], good[3][1]
    bad: list[tuple[str, str, Pin | None]] = [
        ("another format", _change(whole, format="concilium.proof.v1"), None),
        ("a member more", _change(whole, more=1), None),
        ("another kind", _change(whole, kind="lineages"), None),
        ("another chain", _change(whole, chain="00" * 32), None),
        ("a step left out", _change(whole, steps=json.loads(whole)["steps"][1:]), None),
        ("a step twice", _change(whole, steps=json.loads(whole)["steps"][:1] * 2), None),
        ("a member twice", whole.replace('"kind"', '"kind": "block", "kind"'), None),
        ("true for a height", _change(block, subject={"block": True, "under": chain.height}), None),
        ("no steps", _change(whole, steps=[]), None),
        ("another record", _change(whole, subject={"record": ["member", "nobody"]}), None),
        ("an absence under no record's key", _of_no_record(chain), None),
        ("another block", _change(block, subject={"block": 2, "under": chain.height}), None),
        ("under a header of a set that was retired", write_file(_retired(chain)), None),
        ("no base64", _change(whole, proof="?"), None),
        ("of a pin, from genesis alone", from_pin, None),
        ("from another pin", from_pin, Pin(pinned, bytes(32))),
        ("from genesis, for a pin", whole, anchor.pin),
        ("before the pin", write_file(_early(chain), anchor=anchor), anchor.pin),
        ("before the pin, by its own validators", _before(chain, held), held.pin),
        ("in the pinned header's place", _rival(chain, held), held.pin),
        ("a pin that is not the one it brings", _repin(from_pin, height=1), anchor.pin),
    ]
    return {
        "genesis": pack(chain.genesis).hex(),
        "accepted": [
            {"what": what, "pin": _text(pin), "file": file, "subject": _verify(file, pin)}
            for what, file, pin in good
        ],
        "refused": [
            {"why": why, "pin": _text(pin), "file": file, "code": code_of(_verify, file, pin)}
            for why, file, pin in bad
        ],
    }


def _verify(file: str, pin: Pin | None) -> str:
    """The subject of the audit."""
    trust = from_genesis(reign().genesis) if pin is None else trust_in(pin, file)
    return verify_file(trust, file).subject


def _text(pin: Pin | None) -> str | None:
    return None if pin is None else str(pin)


def _change(file: str, **changes: Any) -> str:
    return json.dumps(json.loads(file) | changes, indent=2) + "\n"


def _repin(file: str, **changes: Any) -> str:
    start = json.loads(file)["from"]
    return _change(file, **{"from": start | changes})


def _certified(chain: Ledger, height: int) -> CertifiedHeader:
    members = chain.epoch_at(height).validators
    votes = certify(chain, height, members.voters[: members.quorum])
    return CertifiedHeader(chain.blocks[height].header, votes, None)


def _record(chain: Ledger, key: bytes) -> RecordProof:
    read, root = chain.nodes.__getitem__, chain.blocks[-1].root
    path = sparse.prove(read, root, key)
    return RecordProof(key, sparse.get(read, root, key), path, _certified(chain, chain.height))


def _early(chain: Ledger) -> RecordProof:
    read, root = chain.nodes.__getitem__, chain.blocks[1].root
    return RecordProof(NOBODY, None, sparse.prove(read, root, NOBODY), _certified(chain, 1))


def _of_no_record(chain: Ledger) -> str:
    """A file that names a key that no record has, sound in all else."""
    kind, *parts = NO_KEY
    data = base64_text(pack(_record(chain, state_key(kind, tuple(parts)))))
    steps = [step(chain, epoch) for epoch in epochs(chain.state)[1:]]
    file = write_file(_record(chain, NOBODY), steps)
    return _change(file, subject={"record": list(NO_KEY)}, proof=data)


def _before(chain: Ledger, held: Anchor) -> str:
    """A file from a pin, certified one height below."""
    height = held.pin.height - 1
    path = sparse.prove(chain.nodes.__getitem__, chain.blocks[height].root, NOBODY)
    return write_file(RecordProof(NOBODY, None, path, _certified(chain, height)), anchor=held)


def _rival(chain: Ledger, held: Anchor) -> str:
    """A file from a pin, under another header of its height by the same validators."""
    header = replace(held.certified.header, time_ms=1)
    path = sparse.prove(chain.nodes.__getitem__, chain.blocks[header.height].root, NOBODY)
    members = held.epoch.validators
    message = checkpoint_digest(header.chain, header.height, header.digest)
    seats = members.voters[: members.quorum]
    votes = tuple(Vote(seat.id, SIGNERS[seat.key].sign(message)) for seat in seats)
    certificate = CheckpointCertificate(header.height, header.digest, votes)
    rival = CertifiedHeader(header, certificate, None)
    return write_file(RecordProof(NOBODY, None, path, rival), anchor=held)


def _several(chain: Ledger) -> MultiProof:
    keys = [ROTATED, NOBODY, state_key(MemberKeys.KIND, ("hospital-5.validator",))]
    entries, siblings = multiproof.prove(chain.nodes.__getitem__, chain.blocks[-1].root, keys)
    return MultiProof(_certified(chain, chain.height), entries, siblings)


def _block(chain: Ledger, height: int) -> BlockProof:
    top = _certified(chain, chain.height)
    path = tree.inclusion_path(chain.header_digests()[: chain.height], height)
    later = Later(top.header, path)
    return BlockProof(CertifiedHeader(chain.blocks[height].header, top.certificate, later))


def _retired(chain: Ledger) -> BlockProof:
    """The newest header, which is true, in the history of one that genesis' validators forge."""
    first, leaves = epochs(chain.state)[0].digest, chain.header_digests()
    forged = replace(
        chain.blocks[-1].header,
        height=len(leaves),
        history=tree.root(leaves),
        validators=first,
        next_validators=first,
    )
    later = Later(forged, tree.inclusion_path(leaves, chain.height))
    return BlockProof(CertifiedHeader(chain.blocks[-1].header, chain.certify(forged), later))


def _consistency(chain: Ledger, height: int) -> ConsistencyProof:
    frontier, nodes = tree.EMPTY, dict[tuple[int, int], bytes]()
    leaves = chain.header_digests()[: chain.height]
    for leaf in leaves:
        frontier, made = tree.append(frontier, leaf)
        nodes |= {(level, index): digest for level, index, digest in made}
    return ConsistencyProof(
        _certified(chain, height),
        _certified(chain, chain.height),
        tree.inclusion_path(leaves, height),
        tree.consistency_path_at(lambda *place: nodes[place], height, len(leaves)),
    )

"""Vectors of consensus: what each message signs, how it travels, and what a new view proposes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from consensus.certificate import Verifier
from consensus.message import (
    NULL_DIGEST,
    Block,
    BlockReply,
    BlockRequest,
    Body,
    Checkpoint,
    Commit,
    CommitCertificate,
    Envelope,
    NewView,
    PayloadReply,
    PayloadRequest,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    SignedPrePrepare,
    SignedViewChange,
    Status,
    ViewChange,
    commit_digest,
    content_of,
    is_signed,
    payload_digest,
    prepare_digest,
    signing_digest,
    slot_of,
)
from consensus.viewchange import plan, verify_new_view
from tests.harness import key_of
from tests.vectors.ledger import Ledger, story
from tests.vectors.spelling import code_of
from tests.vm.liar import evidence
from vm.certificate import Vote
from vm.evidence import judge
from vm.shape import Digest, Signature, pack

PRIMARY_0, PRIMARY_1 = "hospital-1.validator", "hospital-2.validator"
BACKUP = "hospital-3.validator"
WINDOW = 8
EPOCH = 0


def messages() -> dict[str, Any]:
    """Each message of a chain with four validators, and the way from view 0 to view 1."""
    chain = story()
    payload = chain.blocks[1].payload
    name = payload_digest(payload)
    stable = chain.certify(chain.blocks[1].header)
    committed = _committed(0, 1, name)
    proposal = PrePrepare(0, 1, name)
    new_view = _new_view(chain)
    said: list[tuple[str, Body, bytes | None]] = [
        (PRIMARY_0, proposal, payload),
        (BACKUP, Prepare(0, 1, name), None),
        (BACKUP, Commit(0, 1, name), None),
        (BACKUP, Checkpoint(1, chain.blocks[1].header.digest), None),
        (BACKUP, new_view.view_changes[2].message, None),
        (PRIMARY_1, new_view, None),
        (BACKUP, Status(1, True, 1, stable, (2, 4), (), False), None),
        (BACKUP, PayloadRequest(name), None),
        (PRIMARY_0, PayloadReply(name), payload),
        (BACKUP, BlockRequest(1), None),
        (PRIMARY_0, BlockReply(stable, (Block(payload, committed),)), None),
    ]
    return {
        "chain": chain.genesis.chain.hex(),
        "validators": pack(chain.validators).hex(),
        "null_digest": NULL_DIGEST.hex(),
        "messages": [_message(*item) for item in said],
        "evidence": _evidence(chain, [body for _, body, _ in said]),
        "new_view": {
            "window": WINDOW,
            "base": plan(1, new_view.view_changes, 0).base,
            "view_changes": [pack(change).hex() for change in new_view.view_changes],
            "pre_prepares": [pack(item.message).hex() for item in new_view.pre_prepares],
            "accepted": pack(new_view).hex(),
            "refused": _refused(chain, new_view),
        },
    }


def _message(sender: str, body: Body, payload: bytes | None) -> dict[str, Any]:
    return {
        "tag": body.TAG,
        "sender": sender,
        "body": pack(body).hex(),
        "content": content_of(body).hex() if is_signed(body) else None,
        "signed": _digest(body).hex() if is_signed(body) else None,
        "envelope": pack(_envelope(sender, body, payload)).hex(),
    }


def _evidence(chain: Ledger, said: Sequence[Body]) -> dict[str, Any]:
    """For each kind of slot two contents of one validator, and what only looks like evidence."""
    key, id = key_of(BACKUP), chain.genesis.chain
    slots = [slot for slot in dict.fromkeys(map(slot_of, said)) if slot is not None]
    proofs = [evidence(key, id, BACKUP, EPOCH, slot) for slot in slots]
    good, commit = proofs[:2]
    attacks = {
        "one content twice": replace(good, second=good.first),
        "a statement about another slot": replace(good, second=commit.second),
        "statements about another view": replace(good, slot=replace(good.slot, view=1)),
        "statements of another epoch": replace(good, epoch=1),
        "statements of another validator": replace(good, validator=PRIMARY_0),
        "a member without a seat": replace(good, validator="hospital-1.admin"),
    }
    return {
        "accepted": [pack(item).hex() for item in proofs],
        "refused": [
            {
                "why": why,
                "evidence": pack(item).hex(),
                "code": code_of(judge, id, chain.validators, item),
            }
            for why, item in attacks.items()
        ],
    }


def _envelope(sender: str, body: Body, payload: bytes | None) -> Envelope:
    signature = _sign(sender, body) if is_signed(body) else None
    return Envelope(sender, EPOCH, body, signature, payload)


def _sign(sender: str, body: Body) -> Signature:
    return key_of(sender).sign(_digest(body))


def _digest(body: Body) -> Digest:
    return signing_digest(story().genesis.chain, EPOCH, body)


def _votes(message: Digest, seats: Sequence[int]) -> tuple[Vote, ...]:
    ids = [story().validators.validators[seat].id for seat in seats]
    return tuple(Vote(id, key_of(id).sign(message)) for id in ids)


def _committed(view: int, sequence: int, name: Digest) -> CommitCertificate:
    message = commit_digest(story().genesis.chain, EPOCH, view, sequence, name)
    return CommitCertificate(view, sequence, name, _votes(message, (0, 1, 2)))


def _prepared(sequence: int, name: Digest) -> PreparedCertificate:
    message = prepare_digest(story().genesis.chain, EPOCH, 0, sequence, name)
    return PreparedCertificate(0, sequence, name, _votes(message, (0, 1, 2)))


def _new_view(chain: Ledger) -> NewView:
    """One is still at genesis, two hold the certificate of height 1; 2 and 4 are prepared."""
    names = {n: payload_digest(b"payload %d" % n) for n in (2, 4)}
    stable = chain.certify(chain.blocks[1].header)
    changes = {
        PRIMARY_0: ViewChange(1, None, ()),
        PRIMARY_1: ViewChange(1, stable, (_prepared(2, names[2]),)),
        BACKUP: ViewChange(1, stable, tuple(_prepared(n, names[n]) for n in (2, 4))),
    }
    signed = tuple(SignedViewChange(id, body, _sign(id, body)) for id, body in changes.items())
    return _lead(signed, plan(1, signed, 0).proposals)


def _lead(changes: tuple[SignedViewChange, ...], proposals: tuple[PrePrepare, ...]) -> NewView:
    signed = tuple(SignedPrePrepare(item, _sign(PRIMARY_1, item)) for item in proposals)
    return NewView(1, changes, signed)


def _refused(chain: Ledger, good: NewView) -> list[dict[str, str]]:
    """New views that a faulty primary could send."""
    changes = good.view_changes
    proposals = plan(1, changes, 0).proposals
    verifier = Verifier(chain.genesis.chain, chain.epoch)
    attacks = {
        "two view changes of three": _lead(changes[:2], plan(1, changes[:2], 0).proposals),
        "one view change twice": _lead((changes[0], changes[1], changes[1]), proposals),
        "a prepared number left out": _lead(changes, proposals[:2]),
        "a null request in place of a prepared payload": _lead(
            changes, (PrePrepare(1, 2, NULL_DIGEST), *proposals[1:])
        ),
        "proposals of view 0": _lead(
            changes, tuple(PrePrepare(0, item.sequence, item.digest) for item in proposals)
        ),
    }
    return [
        {
            "why": why,
            "new_view": pack(attack).hex(),
            "code": code_of(verify_new_view, attack, verifier, WINDOW),
        }
        for why, attack in attacks.items()
    ]

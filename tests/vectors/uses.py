"""Vectors of uses: leaves, the batch that they make, and proofs of them at the story's end."""

from dataclasses import replace
from typing import Any

from tests.fl.dialogue import MODEL
from tests.harness import Chain
from tests.vectors.ledger import story
from tests.vectors.spelling import code_of, hexes
from tests.vm.uses import BATCH, LEAVES, NOTE, NOTE_SALT, OWNER
from vm import sparse, tree
from vm.execute import BlockContext, Context
from vm.inclusion import CertifiedHeader, RecordProof
from vm.opened import AllUses, OneUse, UseProof, verify_uses
from vm.record import Member
from vm.shape import pack
from vm.state import state_key
from vm.usage import ModelUsage, UseBatchRecord, note_digest


def proofs() -> dict[str, Any]:
    """What is told of uses, and each way in which a proof of them can be false."""
    chain = story()
    record = _record(UseBatchRecord.KIND, MODEL, OWNER, 1)
    one = UseProof(record, OneUse(1, LEAVES[1], tree.inclusion_path(LEAVES, 1)))
    every = UseProof(record, AllUses(LEAVES))
    trusted = (chain.genesis.chain, (chain.epoch,))
    for good in (one, every):
        verify_uses(good, *trusted)
    noted = {"text": NOTE, "salt": NOTE_SALT.hex(), "digest": note_digest(NOTE_SALT, NOTE).hex()}
    return {
        "genesis": pack(chain.genesis).hex(),
        "chain": chain.genesis.chain.hex(),
        "note": noted,
        "blinds": _blinds(chain),
        "leaves": hexes(LEAVES),
        "root": BATCH.root.hex(),
        "body": pack(BATCH).hex(),
        "accepted": hexes(pack(proof) for proof in (one, every)),
        "refused": [
            {"why": why, "proof": pack(item).hex(), "code": code_of(verify_uses, item, *trusted)}
            for why, item in _attacks(one, every).items()
        ],
    }


def _blinds(chain: Chain) -> list[dict[str, str]]:
    """What hides the first batch, the totals with it, and those with the next."""
    sender = chain.get(Member, f"{OWNER}.steward")
    block = BlockContext(chain.genesis.chain, 1, 0, bytes(32), chain.validators)
    found, before = [], bytes(32)
    for place in range(2):
        context = Context(block, sender, bytes(32), bytes(range(place, place + 64)))
        for record, key, old in (
            (UseBatchRecord, (MODEL, OWNER, place + 1), b""),
            (ModelUsage, (MODEL,), before),
        ):
            blind = context.blind(record, *key, before=old)
            found.append(
                {
                    "signature": context.signature.hex(),
                    "key": state_key(record.KIND, key).hex(),
                    "before": old.hex(),
                    "blind": blind.hex(),
                }
            )
        before = blind
    return found


def _attacks(one: UseProof, every: UseProof) -> dict[str, UseProof]:
    shown, batch = one.opened, one.batch
    assert isinstance(shown, OneUse)
    assert batch.value is not None
    export, summed, purpose, single = (
        _record(UseBatchRecord.KIND, MODEL, OWNER, number) for number in (2, 3, 4, 5)
    )
    return {
        "a leaf with one bit turned": replace(one, opened=replace(shown, leaf=_turn(shown.leaf))),
        "the leaf at another place": replace(one, opened=replace(shown, index=0)),
        "a place beyond the batch": replace(one, opened=replace(shown, index=3)),
        "a path that is cut": replace(one, opened=replace(shown, path=shown.path[1:])),
        "one of all leaves left out": replace(every, opened=AllUses(LEAVES[:2])),
        "all leaves in another order": replace(every, opened=AllUses(LEAVES[::-1])),
        "a batch that says another purpose": replace(one, batch=purpose),
        "a batch that says another action": replace(every, batch=export),
        "a batch that says another count": replace(every, batch=summed),
        "a batch of one use that says another count": UseProof(single, OneUse(0, LEAVES[0], ())),
        "a batch that is not there": replace(one, batch=_record("use_batch", MODEL, OWNER, 9)),
        "the totals for a batch": replace(one, batch=_record(ModelUsage.KIND, MODEL)),
        "a record with one bit turned": replace(
            one, batch=replace(batch, value=_turn(batch.value))
        ),
        "another batch's record under this key": replace(
            one, batch=replace(batch, value=summed.value)
        ),
    }


def _turn(data: bytes) -> bytes:
    return data[:-1] + bytes((data[-1] ^ 1,))


def _record(*key: str | int) -> RecordProof:
    """A record's proof under the story's last block."""
    chain = story()
    made, name = chain.blocks[-1], state_key(str(key[0]), key[1:])
    read = chain.nodes.__getitem__
    path, value = sparse.prove(read, made.root, name), sparse.get(read, made.root, name)
    certified = CertifiedHeader(made.header, chain.certify(made.header), None)
    return RecordProof(name, value, path, certified)

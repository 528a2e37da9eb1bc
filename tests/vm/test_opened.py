"""Uses that are shown: each leaf of any batch is proven, and nothing that is not one of them."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vectors.ledger import Ledger
from tests.vm.uses import FIRST, FIRST_MS, LAST_MS, OWNER
from vm import sparse, tree
from vm.inclusion import CertifiedHeader, RecordProof
from vm.opened import USE_BYTES_MAX, AllUses, OneUse, UseProof, read_proof, verify_uses
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, pack
from vm.state import state_key
from vm.usage import COUNT_MAX, HOUR_MS, Action, Purpose, Use, UseBatchRecord

SIZES = (1, 2, 3, 7, 8)


def leaves_of(size: int) -> tuple[bytes, ...]:
    """The leaves of a batch of this size."""
    return tuple(
        pack(replace(FIRST, salt=place.to_bytes(16, "big"), count=place + 1))
        for place in range(size)
    )


def record_of(size: int) -> UseBatchRecord:
    """What the chain has of the batch of this size, whose number is its size."""
    leaves = leaves_of(size)
    return UseBatchRecord(
        model=FIRST.model,
        organisation=OWNER,
        number=size,
        member=f"{OWNER}.steward",
        version=FIRST.version,
        purpose=FIRST.purpose,
        action=FIRST.action,
        count=size * (size + 1) // 2,
        entries=size,
        root=tree.root(leaves),
        first_ms=FIRST_MS,
        last_ms=LAST_MS,
        transaction=bytes(32),
        height=1,
        time_ms=FIRST.time_ms,
        blind=bytes(32),
    )


# What a member may have said of the batch of three uses, under numbers of their own.
LIES: dict[int, dict[str, Any]] = {
    11: {"entries": 2},
    12: {"first_ms": FIRST.time_ms + 1, "last_ms": FIRST.time_ms + 1},
    13: {"last_ms": LAST_MS + 1},
    14: {"first_ms": FIRST_MS - 1},
    15: {"count": 2},
    16: {"count": 7},
    17: {"version": FIRST.version + 1},
    18: {"action": Action.EXPORT},
}
# And of a batch of one use, which is all of it however it is opened.
LIES_OF_ONE: dict[int, dict[str, Any]] = {
    21: {"count": COUNT_MAX},
    22: {"first_ms": FIRST_MS - HOUR_MS},
}
MISPLACED = 19  # where a node's state would hold the record of another key


@cache
def ledger() -> Ledger:
    """A chain whose block 1 holds a batch of each size, and lies of two of them."""
    chain = Ledger()
    records = {size: record_of(size) for size in SIZES}
    lies = {
        number: replace(record_of(size), number=number, **lie)
        for size, told in ((3, LIES), (1, LIES_OF_ONE))
        for number, lie in told.items()
    }
    for number, record in (records | lies | {MISPLACED: record_of(3)}).items():
        chain.stored[state_key(record.KIND, (FIRST.model, OWNER, number))] = pack(record)
    chain.writes = dict(chain.stored)
    chain.height += 1
    chain._append(b"", ())
    return chain


def batch_proof(size: int) -> RecordProof:
    """The proof of the batch of this size, or of the one with this number."""
    chain, name = ledger(), state_key(UseBatchRecord.KIND, (FIRST.model, OWNER, size))
    made, read = chain.blocks[-1], chain.nodes.__getitem__
    certified = CertifiedHeader(made.header, chain.certify(made.header), None)
    value = sparse.get(read, made.root, name)
    return RecordProof(name, value, sparse.prove(read, made.root, name), certified)


def verify(proof: UseProof) -> tuple[UseBatchRecord, tuple[Use, ...]]:
    """As an auditor does who holds the genesis, from bytes."""
    chain = ledger()
    return verify_uses(read_proof(pack(proof)), chain.genesis.chain, (chain.epoch,))


def one(size: int, index: int) -> OneUse:
    """A leaf with its path."""
    leaves = leaves_of(size)
    return OneUse(index, leaves[index], tree.inclusion_path(leaves, index))


@pytest.mark.parametrize("size", SIZES)
def test_each_use_of_a_batch_is_shown_by_itself_or_with_all_others(size: int) -> None:
    """Whatever the tree's size; of one leaf the path is empty."""
    proof = batch_proof(size)

    alone = [verify(UseProof(proof, one(size, index)))[1][0] for index in range(size)]
    batch, together = verify(UseProof(proof, AllUses(leaves_of(size))))

    assert tuple(alone) == together
    assert [use.count for use in together] == [place + 1 for place in range(size)]
    assert batch == record_of(size)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SIZES), st.data())
def test_no_other_use_passes_for_one_of_them(size: int, data: Any) -> None:
    """Neither a changed leaf, nor a true one at another place, or by another path or batch."""
    index = data.draw(st.integers(0, size - 1))
    shown = one(size, index)
    place = data.draw(st.integers(0, len(shown.leaf) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    turned = bytearray(shown.leaf)
    turned[place] ^= bit
    lies = [replace(shown, leaf=bytes(turned)), replace(shown, index=index + 1)]
    lies += [replace(shown, path=shown.path[1:])] if shown.path else []
    lies += [replace(shown, path=(*shown.path, bytes(32)))]

    for lie in lies:
        with pytest.raises(Refused, match=r"audit\.use\.path"):
            verify(UseProof(batch_proof(size), lie))
    others = [other for other in SIZES if other != size]
    with pytest.raises(Refused, match=r"audit\.use\.path"):
        verify(UseProof(batch_proof(data.draw(st.sampled_from(others))), shown))


@pytest.mark.parametrize(
    ("number", "alone", "together"),
    [
        (11, "audit.use.path", "audit.use.root"),
        (12, "audit.use.leaf", "audit.use.leaf"),
        (13, "", "audit.use.total"),
        (14, "", "audit.use.total"),
        (15, "audit.use.leaf", "audit.use.leaf"),
        (16, "", "audit.use.total"),
        (17, "audit.use.leaf", "audit.use.leaf"),
        (18, "audit.use.leaf", "audit.use.leaf"),
        (MISPLACED, "audit.key", "audit.key"),
    ],
)
def test_what_a_batch_says_is_held_to_its_uses(number: int, alone: str, together: str) -> None:
    """A single use shows some lies, all of them together any."""
    proof = batch_proof(number)

    codes = [code_of(UseProof(proof, shown)) for shown in (one(3, 2), AllUses(leaves_of(3)))]

    assert codes == [alone, together]


@pytest.mark.parametrize("number", LIES_OF_ONE)
@pytest.mark.parametrize("shown", [one(1, 0), AllUses(leaves_of(1))])
def test_the_one_use_of_a_batch_comes_to_its_totals(number: int, shown: OneUse | AllUses) -> None:
    """The attack: one use of count 1 was told as all of a batch that says a million."""
    assert code_of(UseProof(batch_proof(number), shown)) == "audit.use.total"


def code_of(proof: UseProof) -> str:
    """The code with which a proof is refused, "" if it holds."""
    try:
        verify(proof)
    except Refused as refused:
        return refused.code
    return ""


def test_the_longest_use_fits_its_bound() -> None:
    """A leaf that could be kept but never shown would be worth nothing."""
    longest = Use(
        salt=bytes(16),
        time_ms=HEIGHT_MAX,
        model="m" * 64,
        version=HEIGHT_MAX,
        purpose=max(Purpose, key=len),
        action=max(Action, key=len),
        count=COUNT_MAX,
        note=bytes(32),
    )

    assert len(pack(longest)) <= USE_BYTES_MAX

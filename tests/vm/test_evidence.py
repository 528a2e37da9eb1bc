"""Evidence: what proves a fault to anybody, and the many things that look like it and do not."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import genesis_of, key_of
from tests.vm.liar import ONE, TWO, evidence, signed_content
from vm.digest import digest
from vm.evidence import Evidence, SignedContent, judge
from vm.genesis import check_genesis
from vm.quorum import ValidatorSet
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.statement import Slot, SlotKind, statement_digest
from vm.transaction import BODY_BYTES_MAX

GENESIS = genesis_of(4)
CHAIN = GENESIS.chain
SEATS = check_genesis(GENESIS).validators
LIAR = "hospital-2.validator"
KEY = key_of(LIAR)
GOOD = evidence(KEY, CHAIN, LIAR)
OTHER_CHAIN = digest("test.chain.v1", b"another")


def refusal(item: Evidence) -> str:
    """The code with which the court sends an accuser away."""
    with pytest.raises(Refused) as caught:
        judge(CHAIN, SEATS, item)
    return caught.value.code


@pytest.mark.parametrize("kind", SlotKind)
def test_two_contents_for_one_slot_convict_who_signed_them(kind: SlotKind) -> None:
    """In either order; the seat that comes back is that of the epoch."""
    proof = evidence(KEY, CHAIN, LIAR, slot=Slot(kind, 3, 7))

    for item in (proof, replace(proof, first=proof.second, second=proof.first)):
        assert judge(CHAIN, SEATS, item) == SEATS.get(LIAR)


def test_one_content_twice_is_no_contradiction() -> None:
    """A retransmission, or a primary's proposal beside its vote for the same payload."""
    assert refusal(replace(GOOD, second=GOOD.first)) == "evidence.equal"


chains = st.sampled_from([CHAIN, OTHER_CHAIN])
epochs = st.integers(0, 2)
slots = st.builds(Slot, st.sampled_from(SlotKind), st.integers(0, 2), st.integers(0, 2))


@given(chains, epochs, slots, epochs, slots)
def test_what_was_said_of_something_else_convicts_nobody(
    chain: bytes, epoch: int, slot: Slot, named_epoch: int, named: Slot
) -> None:
    """The attack: of two statements one was made for another chain, epoch, view, number or kind.

    A checkpoint is about its height alone, whatever epoch and view the accuser names.
    """
    good = signed_content(KEY, CHAIN, ONE, named_epoch, named)
    moved = signed_content(KEY, chain, TWO, epoch, slot)
    accusation = Evidence(LIAR, named_epoch, named, good, moved)
    same_height = slot.kind is named.kind is SlotKind.CHECKPOINT and slot.sequence == named.sequence
    guilty = chain == CHAIN and (same_height or (epoch, slot) == (named_epoch, named))

    for item in (accusation, replace(accusation, first=moved, second=good)):
        if guilty:
            assert judge(CHAIN, SEATS, item) == SEATS.get(LIAR)
        else:
            assert refusal(item) == "evidence.signature"


@pytest.mark.parametrize(
    "forged",
    [
        SignedContent(TWO, bytes(64)),
        SignedContent(TWO, GOOD.first.signature),
        signed_content(key_of("hospital-3.validator"), CHAIN, TWO),
        signed_content(key_of("hospital-2.admin"), CHAIN, TWO),
    ],
    ids=["of nothing", "of the other statement", "by another seat", "by its own admin"],
)
def test_a_signature_that_is_not_the_seat_s_convicts_nobody(forged: SignedContent) -> None:
    """An accuser who could make proof would suspend whomever it likes."""
    assert refusal(replace(GOOD, second=forged)) == "evidence.signature"
    assert refusal(replace(GOOD, first=forged, second=GOOD.first)) == "evidence.signature"


def test_a_statement_of_one_is_not_one_of_another() -> None:
    """The attack: true signatures of a liar, under the name of an honest seat."""
    assert refusal(replace(GOOD, validator="hospital-3.validator")) == "evidence.signature"


@pytest.mark.parametrize("name", ["hospital-9.validator", "hospital-2.admin"])
def test_who_has_no_seat_in_the_epoch_has_said_nothing(name: str) -> None:
    """Whatever it signed was for no slot."""
    assert refusal(evidence(key_of(name), CHAIN, name)) == "evidence.seat"


def test_a_suspended_seat_is_convicted_too() -> None:
    """It has no vote, and no more leave to say two things than before."""
    seats = (replace(seat, suspended=seat.id == LIAR) for seat in SEATS.validators)

    assert judge(CHAIN, ValidatorSet(tuple(seats)), GOOD).suspended


def test_what_is_not_signed_has_no_place_in_evidence() -> None:
    """Statuses, requests and replies may contradict each other as they like."""
    data = pack(GOOD)
    assert unpack(Evidence, data) == GOOD

    for kind in (b"\xa6status", b"\xabpre-prepare"):
        with pytest.raises(Refused, match=r"shape\.choice"):
            unpack(Evidence, data.replace(b"\xa7prepare", kind))


def test_evidence_is_small_whatever_it_is_about() -> None:
    """Contents are digests, so the longest is that of the longest name and the largest numbers."""
    high = 2**53
    longest = Slot(SlotKind.VIEW_CHANGE, high, high)

    item = replace(GOOD, validator="v" * 64, epoch=high, slot=longest)

    assert len(pack(item)) < 350 < BODY_BYTES_MAX


def test_no_two_statements_share_a_digest() -> None:
    """But those of a checkpoint in several epochs and views."""
    parts = product([CHAIN, OTHER_CHAIN], (0, 1), SlotKind, (0, 1), (0, 1), (ONE, TWO))

    told: dict[bytes, set[object]] = {}
    for chain, epoch, kind, view, sequence, content in parts:
        found = statement_digest(chain, epoch, Slot(kind, view, sequence), content)
        about = (chain, kind, sequence, content)
        whole = about if kind is SlotKind.CHECKPOINT else (*about, epoch, view)
        told.setdefault(found, set()).add(whole)

    assert all(len(wholes) == 1 for wholes in told.values())
    assert len(told) == 2 * 2 * 2 + 2 * 2 * 4 * 2 * 2 * 2

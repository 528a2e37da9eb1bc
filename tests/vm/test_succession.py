"""Following validator sets from genesis: what leads on, and what a server may try instead."""

from dataclasses import replace

import pytest

from tests.harness import genesis_of
from tests.vm.succession import CHAIN, EPOCHS, FIFTH, FOUR, GENESIS, STEPS, certify, header
from vm.block import Header
from vm.quorum import Epoch, Validator, ValidatorSet
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.succession import Step, follow, follow_step

Seats = tuple[Validator, ...]


def test_steps_lead_from_genesis_to_the_newest_epoch() -> None:
    """Also over an epoch that lasts one block, past a suspended seat, to another protocol."""
    assert follow(GENESIS, STEPS) == EPOCHS
    assert follow(GENESIS, ()) == EPOCHS[:1]
    assert follow_step(CHAIN, EPOCHS[1], STEPS[1]) == EPOCHS[2]


def test_a_step_survives_its_encoding() -> None:
    """What a client decodes is what the node had."""
    assert unpack(Step, pack(STEPS[1])) == STEPS[1]


def led(last: Header, after: Epoch, seats: Seats = FOUR) -> Step:
    """A step as a liar builds it, with every signature that he can get."""
    return Step(last, certify(last, seats), after)


TO_ONE = header(19, EPOCHS[0], EPOCHS[1])
USURPED = replace(EPOCHS[1], validators=ValidatorSet((*FOUR[1:], FIFTH)))
NUMBERED = replace(EPOCHS[1], number=2)
LATER = replace(EPOCHS[1], first=21)
ATTACKS: dict[str, tuple[Step, str]] = {
    "another set than the header names": (replace(STEPS[0], epoch=USURPED), "next"),
    "a set of its own, named by a header of its own": (
        replace(STEPS[0], header=header(19, EPOCHS[0], USURPED), epoch=USURPED),
        "header",
    ),
    "the same with a certificate by the seats that it would have": (
        led(header(19, EPOCHS[0], USURPED), USURPED, USURPED.validators.validators),
        "certificate.unknown_validator",
    ),
    "a certificate by the new set": (
        led(TO_ONE, EPOCHS[1], EPOCHS[1].validators.validators),
        "certificate.unknown_validator",
    ),
    "a certificate by less than a quorum of the old set": (
        led(TO_ONE, EPOCHS[1], FOUR[:2]),
        "certificate.no_quorum",
    ),
    "no certificate": (led(TO_ONE, EPOCHS[1], ()), "certificate.no_quorum"),
    "one seat of the old set many times": (
        led(TO_ONE, EPOCHS[1], FOUR[:1] * 3),
        "certificate.duplicate_signer",
    ),
    "a step over an epoch": (STEPS[1], "epoch"),
    "a header inside the epoch, which names no other": (
        led(header(10, EPOCHS[0], EPOCHS[0]), EPOCHS[0]),
        "number",
    ),
    "an epoch with another number, signed by a whole set": (
        led(header(19, EPOCHS[0], NUMBERED), NUMBERED),
        "number",
    ),
    "an epoch that begins later than it follows": (
        led(header(19, EPOCHS[0], LATER), LATER),
        "number",
    ),
    "another protocol than the header names": (
        replace(STEPS[0], epoch=replace(EPOCHS[1], protocol="concilium.9")),
        "next",
    ),
    "a header of another chain": (
        led(replace(TO_ONE, chain=bytes(32)), EPOCHS[1]),
        "chain",
    ),
    "another height's certificate": (
        replace(STEPS[0], certificate=replace(STEPS[0].certificate, height=18)),
        "header",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_false_step_is_refused_and_named(attack: str) -> None:
    """The code says what is wrong with it, the sentence which epoch it would have led to."""
    step, code = ATTACKS[attack]

    with pytest.raises(Refused) as refused:
        follow(GENESIS, (step, *STEPS[1:]))

    assert refused.value.code == f"succession.{code}"
    assert "step to epoch 1:" in refused.value.message


def test_a_false_step_further_on_is_named_too() -> None:
    """What came before it holds, so a reader learns where the lie begins."""
    suspended = led(header(59, EPOCHS[2], EPOCHS[3]), EPOCHS[3], (*FOUR, FIFTH))

    with pytest.raises(Refused) as refused:
        follow(GENESIS, (*STEPS[:2], suspended))

    assert refused.value.code == "succession.certificate.suspended"
    assert "step to epoch 3:" in refused.value.message


def test_steps_left_out_or_given_twice_lead_nowhere() -> None:
    """Each is checked against the epoch before it, so order and number are fixed."""
    for steps in (STEPS[1:], (STEPS[0], STEPS[2]), (STEPS[0], STEPS[0]), STEPS[::-1]):
        with pytest.raises(Refused) as refused:
            follow(GENESIS, steps)
        assert refused.value.code == "succession.epoch"


def test_steps_of_another_genesis_are_refused() -> None:
    """They are sound on their own chain."""
    with pytest.raises(Refused) as refused:
        follow(genesis_of(7), STEPS)

    assert refused.value.code == "succession.chain"


@pytest.mark.parametrize("place", range(0, len(pack(STEPS[0])), 41))
def test_no_altered_byte_passes(place: int) -> None:
    """Whatever byte of a step is turned, it is not read, or it is refused."""
    data = bytearray(pack(STEPS[0]))
    data[place] ^= 1

    with pytest.raises(Refused):
        follow(GENESIS, (unpack(Step, bytes(data)),))

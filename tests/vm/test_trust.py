"""Trust from genesis and from pins, and what each may be told afterwards."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.vm.succession import CHAIN, EPOCHS, FOUR, GENESIS, STEPS, certify, header
from vm.block import Header
from vm.inclusion import CertifiedHeader, verify_header
from vm.quorum import Epoch
from vm.refusal import Refused
from vm.trust import Pin, Trust, advance, from_genesis, from_pin, parse_pin

SECOND, THIRD = EPOCHS[1], EPOCHS[2]
PINNED = header(20, SECOND, THIRD)  # the one height that epoch 1 rules
PIN = Pin(20, PINNED.digest)


def certified(found: Header, epoch: Epoch) -> CertifiedHeader:
    """A header with a certificate of its own."""
    return CertifiedHeader(found, certify(found, epoch.validators.voters), None)


def pinned() -> Trust:
    """Trust that starts from the pin."""
    return from_pin(CHAIN, PIN, certified(PINNED, SECOND), SECOND)


def refusal(check: Callable[[], object]) -> str:
    """The code with which `check` refuses."""
    with pytest.raises(Refused) as caught:
        check()
    return caught.value.code


def test_trust_from_genesis_follows_every_step() -> None:
    """The epochs are those that `vm.succession` follows."""
    trust = from_genesis(GENESIS)

    for step in STEPS:
        trust = advance(trust, step)

    assert trust == Trust(CHAIN, EPOCHS, None)


def test_trust_from_a_pin_follows_the_steps_after_it() -> None:
    """What came before the pin is neither known nor needed."""
    trust = pinned()

    for step in STEPS[1:]:
        trust = advance(trust, step)

    assert trust == Trust(CHAIN, EPOCHS[1:], PIN)


def test_a_step_before_the_pin_is_refused() -> None:
    """The attack: retired keys sign another future of the set that they belonged to."""
    assert refusal(lambda: advance(pinned(), STEPS[0])) == "succession.epoch"


def test_a_certificate_before_the_pins_epoch_is_refused() -> None:
    """Who ruled then is not known, so nothing of then is taken from a certificate of its own."""
    trust, early = pinned(), header(7, EPOCHS[0], EPOCHS[0])
    found = certified(early, EPOCHS[0])

    verify_header(found, CHAIN, EPOCHS)

    assert refusal(lambda: verify_header(found, CHAIN, trust.epochs)) == "audit.before_pin"


def test_genesis_is_before_a_pin_too() -> None:
    """Height 0 counts as the first that epoch 0 rules, and no other epoch rules it."""
    first = replace(header(0, EPOCHS[0], EPOCHS[0]), time_ms=0)
    found = CertifiedHeader(first, certify(first, FOUR), None)

    verify_header(found, CHAIN, EPOCHS)

    assert refusal(lambda: verify_header(found, CHAIN, pinned().epochs)) == "audit.before_pin"


@pytest.mark.parametrize(
    ("pin", "chain", "epoch", "code"),
    [
        (replace(PIN, height=21), CHAIN, SECOND, "header"),
        (replace(PIN, header=bytes(32)), CHAIN, SECOND, "header"),
        (PIN, bytes(32), SECOND, "chain"),
        (PIN, CHAIN, THIRD, "epoch"),
        (PIN, CHAIN, replace(SECOND, first=19), "epoch"),
    ],
)
def test_what_the_pin_does_not_name_is_refused(
    pin: Pin, chain: bytes, epoch: Epoch, code: str
) -> None:
    """Neither another header nor another epoch comes in with a pin."""
    found = certified(PINNED, SECOND)
    assert refusal(lambda: from_pin(chain, pin, found, epoch)) == f"pin.{code}"


def test_a_pin_is_written_as_it_is_read() -> None:
    """HEIGHT:HEX64, nothing else."""
    assert parse_pin(str(PIN)) == PIN
    digits = PIN.header.hex()
    for text in ("", digits, f"20:{digits[1:]}", f"020:{digits}", f"-1:{digits}", f"20:{digits} "):
        assert refusal(lambda text=text: parse_pin(text)) == "pin.invalid"  # type: ignore[misc]
    assert refusal(lambda: parse_pin(f"{2**53 + 1}:{digits}")) == "pin.invalid"
    assert refusal(lambda: parse_pin(f"20:{digits.upper()}")) == "pin.invalid"

"""A chain's epochs without its blocks: headers at their ends, and who signs them."""

from collections.abc import Sequence
from dataclasses import replace

from tests.harness import genesis_of, key_of
from vm.block import Header
from vm.certificate import CheckpointCertificate, Vote, checkpoint_digest
from vm.genesis import check_genesis
from vm.keys import SigningKey
from vm.quorum import Epoch, Validator, ValidatorSet
from vm.succession import Step

GENESIS = genesis_of(4)
CHAIN = GENESIS.chain
FIRST = check_genesis(GENESIS)
FIFTH_KEY = key_of("hospital-5.validator")
FIFTH = Validator("hospital-5.validator", "hospital-5", FIFTH_KEY.public)
FOUR = FIRST.validators.validators
EPOCHS = (
    FIRST,
    Epoch(1, 20, "concilium.1", ValidatorSet((*FOUR, FIFTH))),
    Epoch(2, 21, "concilium.1", ValidatorSet((*FOUR, replace(FIFTH, suspended=True)))),
    Epoch(3, 60, "concilium.2", ValidatorSet((*FOUR[1:], FIFTH))),
)


def header(height: int, before: Epoch, after: Epoch) -> Header:
    """A header of `before`, which names `after`."""
    nothing = bytes(32)
    return Header(
        chain=CHAIN,
        height=height,
        time_ms=height,
        transactions=nothing,
        receipts=nothing,
        state=nothing,
        history=nothing,
        validators=before.digest,
        next_validators=after.digest,
    )


def certify(found: Header, seats: Sequence[Validator]) -> CheckpointCertificate:
    """A certificate by these seats, whoever they are."""
    message = checkpoint_digest(found.chain, found.height, found.digest)
    votes = (Vote(seat.id, signer(seat).sign(message)) for seat in seats)
    return CheckpointCertificate(found.height, found.digest, tuple(votes))


def signer(seat: Validator) -> SigningKey:
    """The key of a seat, from its id."""
    return key_of(seat.id)


def step(number: int) -> Step:
    """The honest step to the epoch with this number."""
    before, after = EPOCHS[number - 1], EPOCHS[number]
    last = header(after.first - 1, before, after)
    return Step(last, certify(last, before.validators.voters), after)


STEPS = tuple(step(number) for number in (1, 2, 3))

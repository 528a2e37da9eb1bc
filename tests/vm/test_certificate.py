"""A checkpoint certificate: what a quorum signed, and every way to pretend that it did."""

from dataclasses import replace

import pytest

from vm.certificate import CheckpointCertificate, Vote, checkpoint_digest, verify_checkpoint
from vm.digest import digest
from vm.encoding import encode
from vm.keys import SigningKey
from vm.quorum import VALIDATORS_MAX, Validator, ValidatorSet
from vm.refusal import Refused
from vm.shape import pack, unpack

CHAIN = bytes(range(32))
HEADER = b"\x11" * 32
HEIGHT = 7

signing_keys = {f"v{i}": SigningKey(bytes((i,)) * 32) for i in range(5)}
outsider = SigningKey(b"\xff" * 32)
members = ValidatorSet(
    tuple(Validator(id, f"hospital-{id}", key.public) for id, key in signing_keys.items())
)


def vote(id: str, key: SigningKey | None = None, message: bytes | None = None) -> Vote:
    """A vote in the name of `id`, honest unless another key or message is given."""
    message = message or checkpoint_digest(CHAIN, HEIGHT, HEADER)
    return Vote(id, (key or signing_keys[id]).sign(message))


def certified(*votes: Vote) -> CheckpointCertificate:
    """A certificate of these votes."""
    return CheckpointCertificate(HEIGHT, HEADER, votes)


def code_of(certificate: CheckpointCertificate, chain: bytes = CHAIN) -> str:
    """The code with which a certificate is refused, or "" if it is accepted."""
    try:
        verify_checkpoint(certificate, chain, members)
    except Refused as refused:
        return refused.code
    return ""


def test_what_is_signed_is_domain_chain_height_and_header() -> None:
    """The signed digest covers all three, under a tag of its own."""
    expected = digest("concilium.checkpoint.v1", encode((CHAIN, HEIGHT, HEADER)))

    assert checkpoint_digest(CHAIN, HEIGHT, HEADER) == expected


@pytest.mark.parametrize("signers", ["v0 v1 v2 v3", "v1 v2 v3 v4", "v0 v1 v2 v3 v4"])
def test_any_quorum_certifies(signers: str) -> None:
    """Of five validators any four will do, and all five too."""
    certificate = certified(*(vote(id) for id in signers.split()))

    assert code_of(certificate) == ""
    assert code_of(unpack(CheckpointCertificate, pack(certificate))) == ""


ATTACKS: dict[str, tuple[CheckpointCertificate, str]] = {
    "no votes": (certified(), "certificate.no_quorum"),
    "one vote short: 2f + 1 would fork at n = 5": (
        certified(vote("v0"), vote("v1"), vote("v2")),
        "certificate.no_quorum",
    ),
    "one signer twice": (
        certified(vote("v0"), vote("v1"), vote("v1"), vote("v2")),
        "certificate.duplicate_signer",
    ),
    "one signer twice, far apart": (
        certified(vote("v0"), vote("v1"), vote("v2"), vote("v0")),
        "certificate.duplicate_signer",
    ),
    "a second order of the same votes": (
        certified(vote("v1"), vote("v0"), vote("v2"), vote("v3")),
        "certificate.duplicate_signer",
    ),
    "nobody's name": (
        certified(vote("v0"), vote("v1"), vote("v2"), vote("v9", outsider)),
        "certificate.unknown_validator",
    ),
    "a foreign key under a validator's name": (
        certified(vote("v0"), vote("v1"), vote("v2"), vote("v3", outsider)),
        "certificate.bad_signature",
    ),
    "another validator's signature": (
        certified(vote("v0"), vote("v1"), vote("v2"), Vote("v3", vote("v2").signature)),
        "certificate.bad_signature",
    ),
    "signed for another chain": (
        certified(
            *(vote(f"v{i}", None, checkpoint_digest(bytes(32), HEIGHT, HEADER)) for i in range(4))
        ),
        "certificate.bad_signature",
    ),
    "signed for another height": (
        certified(
            *(vote(f"v{i}", None, checkpoint_digest(CHAIN, HEIGHT + 1, HEADER)) for i in range(4))
        ),
        "certificate.bad_signature",
    ),
    "signed for another header": (
        certified(
            *(vote(f"v{i}", None, checkpoint_digest(CHAIN, HEIGHT, CHAIN)) for i in range(4))
        ),
        "certificate.bad_signature",
    ),
    "the header signed bare, without its domain": (
        certified(*(vote(f"v{i}", None, HEADER) for i in range(4))),
        "certificate.bad_signature",
    ),
    "a quorum and one bad vote besides": (
        certified(vote("v0"), vote("v1"), vote("v2"), vote("v3"), vote("v4", outsider)),
        "certificate.bad_signature",
    ),
}


def test_a_suspended_seat_has_no_vote_even_beside_a_quorum() -> None:
    """The attack: an equivocator that was suspended goes on signing what it likes."""
    seats = (replace(seat, suspended=seat.id == "v2") for seat in members.validators)
    four_of_five = ValidatorSet(tuple(seats))
    without, along = (
        certified(*map(vote, ids)) for ids in (("v0", "v1", "v3", "v4"), signing_keys)
    )

    verify_checkpoint(without, CHAIN, four_of_five)
    with pytest.raises(Refused) as refused:
        verify_checkpoint(along, CHAIN, four_of_five)

    assert refused.value.code == "certificate.suspended"


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_less_than_a_quorum_certifies(attack: str) -> None:
    """Each attack is refused with the code of the step that it fails."""
    certificate, code = ATTACKS[attack]

    assert code_of(certificate) == code


def test_a_certificate_holds_on_its_own_chain_height_and_header_only() -> None:
    """A good certificate, replayed for another chain, height or header, is refused."""
    good = certified(*(vote(f"v{i}") for i in range(4)))

    assert code_of(good) == ""
    assert code_of(good, bytes(32)) == "certificate.bad_signature"
    assert code_of(replace(good, height=HEIGHT - 1)) == "certificate.bad_signature"
    assert code_of(replace(good, header=CHAIN)) == "certificate.bad_signature"


def test_the_largest_certificate_is_read_and_one_vote_more_is_refused() -> None:
    """VALIDATORS_MAX votes fit; more are refused unread."""
    votes = tuple(Vote(f"v{i:03}", bytes(64)) for i in range(VALIDATORS_MAX + 1))
    full = certified(*votes[:-1])

    oversized = encode((1, HEIGHT, HEADER, tuple((1, v.validator, v.signature) for v in votes)))

    assert unpack(CheckpointCertificate, pack(full)) == full
    with pytest.raises(Refused) as refused:
        unpack(CheckpointCertificate, oversized)
    assert refused.value.code == "shape.length"

"""How many votes certify, and what a set of validators must be for that to prove anything."""

from dataclasses import replace
from itertools import combinations

import pytest

from vm.keys import SigningKey
from vm.quorum import (
    VALIDATORS_MAX,
    VALIDATORS_MIN,
    Epoch,
    Validator,
    ValidatorSet,
    faults,
    quorum,
)
from vm.refusal import Refused
from vm.shape import pack, unpack


def seats(count: int) -> tuple[Validator, ...]:
    """`count` validators in order of id."""
    return tuple(
        Validator(f"v{i:03}", f"hospital-{i}", SigningKey(bytes((i,)) * 32).public)
        for i in range(count)
    )


@pytest.mark.parametrize("n", range(VALIDATORS_MIN, 17))
def test_any_two_quorums_share_an_honest_validator(n: int) -> None:
    """However the f faulty ones are chosen, two quorums meet in a seat that is not faulty."""
    q, f = quorum(n), faults(n)
    first = set(range(q))  # any other one is this one under other names

    assert min(len(first & set(other)) for other in combinations(range(n), q)) > f


@pytest.mark.parametrize("n", range(VALIDATORS_MIN, VALIDATORS_MAX + 1))
def test_a_quorum_is_left_with_f_down_and_no_smaller_number_would_do(n: int) -> None:
    """Those who are left suffice; with one vote fewer two quorums could meet in faulty seats."""
    q, f = quorum(n), faults(n)

    assert 3 * f < n <= 3 * f + 3
    assert q <= n - f
    assert 2 * q - n > f
    assert 2 * (q - 1) - n <= f


@pytest.mark.parametrize(("n", "f", "q"), [(4, 1, 3), (5, 1, 4), (6, 1, 4), (7, 2, 5), (10, 3, 7)])
def test_the_usual_sizes(n: int, f: int, q: int) -> None:
    """At n = 5 and 6 the quorum is 4: 2f + 1 = 3 would fork."""
    members = ValidatorSet(seats(n))

    assert (members.n, members.f, members.quorum) == (n, f, q)


def test_the_primary_goes_round() -> None:
    """View v is led by seat v mod n, so n views in a row are led by all."""
    members = ValidatorSet(seats(5))

    led = [members.primary(view).id for view in range(7)]

    assert led == ["v000", "v001", "v002", "v003", "v004", "v000", "v001"]


def suspending(n: int, *places: int) -> ValidatorSet:
    """A set of `n` seats in which those at `places` are suspended."""
    found = enumerate(seats(n))
    return ValidatorSet(tuple(replace(seat, suspended=i in places) for i, seat in found))


def test_a_suspended_seat_counts_in_n_but_neither_votes_nor_leads() -> None:
    """Were n to shrink with it, the same faulty seats could make a smaller quorum."""
    whole, members = suspending(7), suspending(7, 1, 4)

    assert (members.n, members.f, members.quorum) == (whole.n, whole.f, whole.quorum) == (7, 2, 5)
    assert [seat.id for seat in members.voters] == ["v000", "v002", "v003", "v005", "v006"]
    assert [members.votes(id) for id in ("v000", "v001", "v007")] == [True, False, False]
    assert [members.primary(view).id for view in (0, 1, 4, 5, 7)] == [
        *("v000", "v002", "v006", "v000", "v003")
    ]
    assert unpack(ValidatorSet, pack(members)) == members


@pytest.mark.parametrize("n", range(VALIDATORS_MIN, 17))
def test_a_set_in_which_fewer_than_a_quorum_may_vote_is_refused(n: int) -> None:
    """It could never decide anything again; f suspended seats leave a quorum for every n."""
    most = n - quorum(n)

    with pytest.raises(Refused) as refused:
        suspending(n, *range(most + 1))

    assert refused.value.code == "validators.suspended"
    assert len(suspending(n, *range(most)).voters) == quorum(n)
    assert most >= faults(n)


def test_a_seat_is_found_by_its_id_alone() -> None:
    """`get` knows the seats and nobody else."""
    members = ValidatorSet(seats(4))

    assert members.get("v002") is members.validators[2]
    assert members.get("v004") is None
    assert members.get("") is None


def test_the_digest_of_an_epoch_fixes_all_of_it() -> None:
    """Were it the seats' alone, a server could invent an epoch wherever seats stay the same."""
    four, five = ValidatorSet(seats(4)), ValidatorSet(seats(5))
    moved = ValidatorSet((*seats(3), Validator("v003", "elsewhere", seats(4)[3].key)))
    rekeyed = ValidatorSet((*seats(3), Validator("v003", "hospital-3", bytes(32))))
    epoch = Epoch(1, 10, "concilium.1", four)

    others = [replace(epoch, validators=found) for found in (five, moved, rekeyed)]
    others += [replace(epoch, number=2), replace(epoch, first=11), replace(epoch, protocol="x")]

    assert epoch.digest == replace(epoch, validators=ValidatorSet(seats(4))).digest
    assert len({epoch.digest, *(other.digest for other in others)}) == 7
    assert unpack(ValidatorSet, pack(four)) == four


@pytest.mark.parametrize("n", [0, 1, 3, VALIDATORS_MAX + 1])
def test_a_set_that_is_too_small_or_too_large_is_refused(n: int) -> None:
    """The quorum of an empty set would be no votes at all."""
    with pytest.raises(Refused) as refused:
        ValidatorSet(seats(n))

    assert refused.value.code == "validators.size"
    assert ValidatorSet(seats(VALIDATORS_MAX)).n == VALIDATORS_MAX


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 1, 2, 2), (0, 0, 1, 2)])
def test_seats_out_of_order_or_twice_are_refused(order: tuple[int, ...]) -> None:
    """One set has one encoding, and nobody sits twice."""
    four = seats(4)

    with pytest.raises(Refused) as refused:
        ValidatorSet(tuple(four[i] for i in order))

    assert refused.value.code == "validators.order"


def test_two_seats_with_one_key_are_refused() -> None:
    """The attack: a hospital enrols its key under two names and votes twice."""
    *three, last = seats(4)

    with pytest.raises(Refused) as refused:
        ValidatorSet((*three, Validator(last.id, last.organisation, three[0].key)))

    assert refused.value.code == "validators.keys"


def test_two_seats_of_one_organisation_are_refused() -> None:
    """The attack: a hospital enrols two validators and brings half a quorum by itself."""
    *three, last = seats(4)

    with pytest.raises(Refused) as refused:
        ValidatorSet((*three, replace(last, organisation=three[0].organisation)))

    assert refused.value.code == "validators.organisations"


def test_an_epoch_is_read_as_it_was_written() -> None:
    """Its key is its number, and its suspended seats are written too."""
    epoch = Epoch(3, 120, "concilium.1", suspending(7, 2))

    assert unpack(Epoch, pack(epoch)) == epoch
    assert epoch.key == (3,)


def test_an_empty_set_is_not_even_read() -> None:
    """From the wire, too, a set has at least VALIDATORS_MIN seats."""
    with pytest.raises(Refused) as refused:
        unpack(ValidatorSet, b"\x92\x01\x90")

    assert refused.value.code == "shape.length"

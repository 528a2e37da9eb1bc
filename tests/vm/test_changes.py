"""What governance changes, and what no majority may do."""

from dataclasses import replace
from typing import Any

import pytest

from tests.harness import Chain, key_of, organisation
from tests.vm.council import (
    admin,
    admission,
    approve,
    council,
    decide,
    names,
    propose,
    rotation,
    scheduled,
    seating,
    unseating,
    upgrade,
    validator,
)
from tests.vm.registrar import enrol, stand
from vm.epoch import epochs, newest
from vm.proposal import (
    Change,
    Endpoint,
    RotateKey,
    UnseatValidator,
)
from vm.quorum import VALIDATORS_MAX
from vm.record import KeyOwner, Member, Organisation, Role, Standing
from vm.refusal import Refused
from vm.shape import from_value, to_value


def grown(organisations: int = 4) -> Chain:
    """A chain on which one organisation more than genesis had holds a seat."""
    chain, number = council(organisations), organisations + 1
    voices = tuple(range(1, organisations + 1))
    decide(chain, "admit", admission(number), voices[: 2 * organisations // 3 + 1])
    decide(chain, "seat", seating(number), voices[: 2 * organisations // 3 + 1])
    return chain


# Organisations and seats


def test_an_organisation_is_admitted_with_its_admin() -> None:
    """The admin enrols the organisation's other members."""
    chain = council()

    decide(chain, "admit", admission(5))

    assert chain.get(Organisation, "hospital-5").title == "Hospital-5"
    found = chain.get(Member, admin(5))
    assert (found.organisation, found.role) == ("hospital-5", Role.ADMIN)
    assert chain.get(KeyOwner, key_of(admin(5)).public.hex()).member == admin(5)
    chain.applied([enrol("hospital-5.steward", Role.STEWARD, admin=admin(5))])
    assert chain.get(Member, "hospital-5.steward").organisation == "hospital-5"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"id": "hospital-1"}, "organisation.exists"),
        ({"admin": admin(1)}, "member.exists"),
        ({"admin_key": key_of(admin(1)).public}, "member.key"),
    ],
)
def test_an_admitted_organisation_takes_nobody_s_place(changes: Any, code: str) -> None:
    """Neither an organisation's id, nor a member's, nor a key is given twice."""
    chain = council()
    chain.applied([propose(1, "p", replace(admission(5), **changes)), approve(2, "p")])

    assert chain.refused(approve(3, "p")) == code
    assert chain.state.get(Organisation, "hospital-5") is None


def test_a_new_seat_rules_from_window_plus_1_above_the_last_approval() -> None:
    """Member, keys and address are there at once, so that it can connect before it votes."""
    chain = grown()

    found = newest(chain.state)
    assert (found.number, found.first) == (1, chain.height + chain.genesis.window + 1)
    assert names(found.validators) == [organisation(n) for n in (1, 2, 3, 4, 5)]
    assert chain.get(Member, validator(5)).transport == seating(5).transport
    assert chain.get(Endpoint, validator(5)) == Endpoint(validator(5), "hospital-5.example:7100")
    assert chain.epoch_at(found.first - 1) == chain.epoch


def test_two_proposals_for_one_organisation_s_seat_give_it_one() -> None:
    """The attack: a hospital has two validators seated by two proposals that race."""
    chain = council()
    decide(chain, "admit", admission(5))
    rival = seating(5, "hospital-5.rival")
    chain.applied([propose(1, "a", seating(5)), propose(2, "b", rival)])
    chain.applied([approve(2, "a"), approve(1, "b")])

    chain.applied([approve(3, "a"), approve(3, "b")])  # of five then, of which four are enough

    assert chain.refused(approve(4, "b")) == "proposal.seated"
    assert names(scheduled(chain)).count("hospital-5") == 1
    assert chain.state.get(Member, "hospital-5.rival") is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"organisation": "nowhere"}, "state.missing"),
        ({"organisation": "hospital-1"}, "proposal.seated"),
        ({"id": validator(1)}, "member.exists"),
        ({"public_key": key_of(validator(1)).public}, "member.key"),
        ({"public_key": key_of("hospital-2.trainer").public}, "member.key"),
        ({"transport": key_of(admin(2)).public}, "member.key"),
    ],
)
def test_a_new_seat_takes_nobody_s_place(changes: Any, code: str) -> None:
    """The attack: a second vote with a key, a name or an organisation that is in use."""
    chain = council()
    decide(chain, "admit", admission(5))
    chain.applied([propose(1, "p", replace(seating(5), **changes)), approve(2, "p")])

    assert chain.refused(approve(3, "p")) == code
    assert scheduled(chain) == chain.validators


def test_a_seat_for_which_the_window_is_impossible_is_refused() -> None:
    """A new view of full windows would not fit an envelope: no primary could be voted out."""
    chain = council(window_max=lambda n: 8 if n <= 4 else 7)
    decide(chain, "admit", admission(5))
    chain.applied([propose(1, "p", seating(5)), approve(2, "p")])

    assert chain.refused(approve(3, "p")) == "proposal.window"
    assert scheduled(chain) == chain.validators


def test_a_seat_for_which_the_window_is_just_possible_is_taken() -> None:
    """The bound is the last that fits."""
    chain = council(window_max=lambda n: 8)
    decide(chain, "admit", admission(5))

    decide(chain, "seat", seating(5))

    assert scheduled(chain).n == 5


def test_no_more_seats_than_there_may_be() -> None:
    """Quadratic messages make more than VALIDATORS_MAX unwise."""
    chain = council(VALIDATORS_MAX)
    voices = tuple(range(1, 2 * VALIDATORS_MAX // 3 + 2))
    decide(chain, "admit", admission(65), voices)
    chain.applied([propose(1, "p", seating(65))])
    chain.applied([approve(n, "p") for n in voices[1:-1]])

    assert chain.refused(approve(voices[-1], "p")) == "proposal.size"


def test_no_fewer_seats_than_four() -> None:
    """With three, one faulty validator could fork the chain."""
    chain = council()
    chain.applied([propose(1, "p", unseating(4)), approve(2, "p")])

    assert chain.refused(approve(3, "p")) == "proposal.size"


def test_a_seat_that_nobody_holds_cannot_be_taken() -> None:
    """Neither twice, nor of a member that has none."""
    chain = grown()
    decide(chain, "out", unseating(5), (1, 2, 3, 4))
    changes = (unseating(5), UnseatValidator("hospital-1.trainer"))
    chain.applied([propose(1, f"p{i}", change) for i, change in enumerate(changes)])
    chain.applied([approve(2, f"p{i}") for i in range(2)])

    assert [chain.refused(approve(3, f"p{i}")) for i in range(2)] == ["proposal.seat"] * 2


def test_grows_to_seven_and_shrinks_back() -> None:
    """Each change is made to the one before it, and firsts rise; the last epoch has four seats."""
    chain = council()
    for number in (5, 6, 7):
        voices = tuple(range(1, number))
        decide(chain, f"admit-{number}", admission(number), voices[: 2 * (number - 1) // 3 + 1])
        decide(chain, f"seat-{number}", seating(number), voices[: 2 * (number - 1) // 3 + 1])
    for number in (1, 2, 3):
        voices = tuple(range(number, 8))
        decide(chain, f"out-{number}", unseating(number), voices[: 2 * len(voices) // 3 + 1])

    found = epochs(chain.state)
    assert [epoch.validators.n for epoch in found] == [4, 5, 6, 7, 6, 5, 4]
    assert names(found[-1].validators) == [organisation(n) for n in (4, 5, 6, 7)]
    firsts = [epoch.first for epoch in found]
    assert firsts == sorted(set(firsts))


def test_several_changes_in_one_block_make_one_epoch() -> None:
    """Two organisations replaced by two others at once: never is there a set in between."""
    chain = council(6)
    changes: dict[str, Change] = {"a": admission(7), "out": unseating(1), "in": seating(7)}
    chain.applied([propose(2, id, change) for id, change in changes.items()])
    chain.applied([approve(n, id) for n in (3, 4, 5) for id in changes])

    chain.applied([approve(6, id) for id in changes])

    assert [epoch.validators.n for epoch in epochs(chain.state)] == [6, 6]
    assert names(scheduled(chain)) == [organisation(n) for n in (2, 3, 4, 5, 6, 7)]


# Keys


def test_a_rotated_key_rules_the_seat_and_the_member() -> None:
    """The member signs transactions with it at once; the seat votes with it from its epoch on."""
    chain, new = council(), key_of("new key of 1").public

    decide(chain, "p", rotation(1))

    assert chain.get(Member, validator(1)).public_key == new
    assert scheduled(chain).validators[0].key == new
    assert chain.epoch_at(chain.height + 1).validators.validators[0].key != new
    assert chain.get(KeyOwner, new.hex()).member == validator(1)


def test_a_transport_key_and_an_address_change_without_a_new_epoch() -> None:
    """They have no part in voting: connections follow them from the next block on."""
    chain = council()
    change = RotateKey(validator(1), None, b"t" * 32, "[::1]:7200")

    decide(chain, "p", change)

    member = chain.get(Member, validator(1))
    assert (member.transport, member.public_key) == (b"t" * 32, key_of(validator(1)).public)
    assert chain.get(Endpoint, validator(1)).address == "[::1]:7200"
    assert len(epochs(chain.state)) == 1


@pytest.mark.parametrize("key", [validator(1), validator(2), "hospital-3.trainer"])
def test_a_key_is_rotated_to_one_that_nobody_ever_had(key: str) -> None:
    """The attacks: the same key again, another seat's, another member's."""
    chain = council()
    chain.applied([propose(1, "p", rotation(1, key)), approve(2, "p")])

    assert chain.refused(approve(3, "p")) == "member.key"
    assert scheduled(chain) == chain.validators


def test_a_transport_key_of_another_is_refused() -> None:
    """The attack: a validator that others take for a hospital's when it connects."""
    chain = council()
    stolen = key_of(validator(2)).public
    change = RotateKey(validator(1), None, stolen, None)
    chain.applied([propose(1, "p", change), approve(2, "p")])

    assert chain.refused(approve(3, "p")) == "member.key"


def test_a_retired_key_never_comes_back() -> None:
    """The attack: who stole the old key has it put in place again, for its owner or for another."""
    chain = council()
    decide(chain, "p", rotation(1))
    old = validator(1)
    chain.applied([propose(1, "q", rotation(1, old)), propose(2, "r", rotation(2, old))])
    chain.applied([approve(4, "q"), approve(4, "r")])

    assert [chain.refused(approve(3, id)) for id in ("q", "r")] == ["member.key"] * 2


def test_one_new_key_in_two_open_proposals_goes_to_the_first() -> None:
    """Keys are claimed when a change is applied, so two seats never get one key."""
    chain = council()
    chain.applied([propose(1, "p", rotation(1, "x")), propose(2, "q", rotation(2, "x"))])
    chain.applied([approve(3, "p"), approve(3, "q")])

    assert chain.block([approve(4, "p"), approve(4, "q")]) == ["applied", "member.key"]


def test_an_organisation_rotates_the_keys_of_its_own_validator_alone() -> None:
    """The attack: a rival proposes a key of its own for another's seat, as a routine matter."""
    chain = council()

    assert chain.refused(propose(2, "p", rotation(1))) == "proposal.organisation"
    nobody = RotateKey("nobody", bytes(32), None, None)
    assert chain.refused(propose(2, "p", nobody)) == "state.missing"


def test_a_rotation_that_changes_nothing_is_refused() -> None:
    """Nobody should be asked to approve it."""
    empty = RotateKey(validator(1), None, None, None)

    assert council().refused(propose(1, "p", empty)) == "proposal.empty"


def test_only_a_seat_s_keys_are_rotated_here() -> None:
    """A member without a seat is its own admin's affair."""
    chain = council()
    steward = RotateKey("hospital-1.steward", b"k" * 32, None, None)
    chain.applied([propose(1, "p", steward), approve(2, "p")])

    assert chain.refused(approve(3, "p")) == "proposal.seat"


# After the seat


def test_an_unseated_validator_is_revoked_by_its_admin_once_no_epoch_seats_it() -> None:
    """While its seat still rules, one admin must not take a vote away."""
    chain = council(5)
    decide(chain, "out", unseating(5), (1, 2, 3, 4))
    revoke = stand(validator(5), Standing.REVOKED, admin=admin(5))

    assert chain.refused(revoke) == "member.seated"
    first = newest(chain.state).first
    while chain.height < first - 1:
        chain.applied()
    assert chain.refused(stand(validator(5), Standing.REVOKED)) == "member.organisation"
    chain.applied([revoke])

    assert chain.get(Member, validator(5)).standing is Standing.REVOKED


def test_a_validator_that_waits_for_its_seat_is_not_its_admin_s_to_suspend() -> None:
    """It is scheduled: the set that comes counts on it."""
    chain = grown()

    attack = stand(validator(5), Standing.SUSPENDED, admin=admin(5))

    assert chain.refused(attack) == "member.seated"


def test_an_organisation_that_lost_its_seat_can_be_seated_again_with_new_keys() -> None:
    """Under another name: records of what the old validator did stay its own."""
    chain = council(5)
    decide(chain, "out", unseating(5), (1, 2, 3, 4))

    decide(chain, "again", seating(5, "hospital-5.second"))

    assert names(scheduled(chain)) == [organisation(n) for n in (1, 2, 3, 4, 5)]
    assert scheduled(chain).get("hospital-5.second") is not None


# Protocol


def test_an_upgrade_to_the_version_that_rules_is_refused() -> None:
    """It would be an epoch for nothing."""
    chain = council()
    chain.applied([propose(1, "p", upgrade(1)), approve(2, "p")])

    assert chain.refused(approve(3, "p")) == "proposal.protocol"


ADDRESSES = ("a:1", "10.0.0.1:65535", "[::1]:7100", "node-1.example:80")
NO_ADDRESSES = ("", "host", "host:", "host:0", "host:65536", ":7100", "ho st:1", "[::1]", "host:07")


@pytest.mark.parametrize("address", [*ADDRESSES, *NO_ADDRESSES, "a:b:1", "http://a:1"])
def test_an_address_that_is_none_is_not_even_read(address: str) -> None:
    """Every other validator would try to connect there."""
    value = to_value(Endpoint("v", "a:1"))
    assert isinstance(value, tuple)

    try:
        read = from_value(Endpoint, (*value[:-1], address)).address == address
    except Refused as refused:
        read = refused.code != "shape.text"

    assert read == (address in ADDRESSES)

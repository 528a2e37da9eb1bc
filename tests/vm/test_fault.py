"""Faults that were proven: recorded once for a key, and suspended where genesis says so."""

from dataclasses import replace

import pytest

from tests.harness import Chain, key_of, organisation
from tests.vm.council import (
    admin,
    approve,
    council,
    decide,
    fault,
    propose,
    rotation,
    scheduled,
    unseating,
    validator,
)
from tests.vm.registrar import enrol
from vm.epoch import epochs, newest
from vm.evidence import Evidence
from vm.proposal import Fault
from vm.record import Chain as ChainRecord
from vm.record import Member, Role, Sanction, Standing


def fault_of(chain: Chain, key: str) -> Fault:
    """The recorded fault of this member's first key."""
    return chain.get(Fault, key_of(key).public.hex())


def test_a_proven_fault_is_recorded_and_suspends_the_seat() -> None:
    """The seat keeps its place in n; it has no vote from the new epoch on, its member none now."""
    chain = council()

    chain.applied([fault(chain, validator(2))])

    found = fault_of(chain, validator(2))
    assert (found.validator, found.organisation, found.reporter) == (
        validator(2),
        organisation(2),
        admin(1),
    )
    assert (found.height, found.suspended_height) == (1, 1)
    assert found.transaction == chain.receipts[0].transaction
    after = newest(chain.state)
    assert after.first == 1 + chain.genesis.window + 1
    assert (after.validators.n, len(after.validators.voters)) == (4, 3)
    assert chain.get(Member, validator(2)).standing is Standing.SUSPENDED


def test_a_suspended_validator_may_send_nothing() -> None:
    """Its standing is judged before anything else that it says."""
    chain = council()
    chain.applied([fault(chain, validator(2))])

    assert chain.refused(fault(chain, validator(3), sender=validator(2))) == "access.standing"


@pytest.mark.parametrize("role", [Role.VALIDATOR, Role.ADMIN, Role.AUDITOR, Role.STEWARD])
def test_validators_admins_and_auditors_report(role: Role) -> None:
    """The signatures prove the fault whoever brings them."""
    chain = council()
    chain.applied([enrol("hospital-1.auditor", public_key=key_of("hospital-1.auditor").public)])

    (code,) = chain.block([fault(chain, validator(2), sender=f"hospital-1.{role.value}")])

    assert code == ("access.role" if role is Role.STEWARD else "applied")


def test_what_proves_nothing_accuses_nobody() -> None:
    """Neither a stranger, nor a seat of an epoch that is not there, nor who said one thing."""
    chain = council()
    _, kind, proof = fault(chain, validator(2))
    assert isinstance(proof, Evidence)
    one_thing = replace(proof, second=proof.first)

    assert chain.refused(fault(chain, validator(9))) == "evidence.seat"
    assert chain.refused(fault(chain, validator(2), 1)) == "evidence.epoch"
    assert chain.refused((admin(1), kind, one_thing)) == "evidence.equal"
    assert len(epochs(chain.state)) == 1
    assert chain.state.get(Fault, key_of(validator(2)).public.hex()) is None


def test_a_fault_is_recorded_once_for_a_key() -> None:
    """The attack: one proof sent again and again, by one after the other."""
    chain = council()
    chain.applied([fault(chain, validator(2))])

    assert chain.refused(fault(chain, validator(2), sender=admin(3))) == "fault.known"
    assert fault_of(chain, validator(2)).reporter == admin(1)


def test_a_fault_is_only_recorded_where_genesis_says_so() -> None:
    """A consortium may prefer to talk first."""
    chain = council()
    state = chain.state
    state.put(replace(state.require(ChainRecord), equivocation=Sanction.RECORD))
    chain.stored |= state.writes

    chain.applied([fault(chain, validator(2))])

    assert fault_of(chain, validator(2)).suspended_height is None
    assert len(epochs(chain.state)) == 1
    assert chain.get(Member, validator(2)).standing is Standing.ENROLLED
    assert chain.refused(fault(chain, validator(2))) == "fault.known"


def test_a_fault_that_would_leave_less_than_a_quorum_is_only_recorded() -> None:
    """Two of four suspended would stop the chain; as soon as one is replaced the other may go."""
    chain = council()
    chain.applied([fault(chain, validator(2))])
    chain.applied([fault(chain, validator(3))])

    assert fault_of(chain, validator(3)).suspended_height is None
    assert chain.refused(fault(chain, validator(3))) == "fault.known"

    decide(chain, "p", rotation(2), (2, 1, 4))
    chain.applied([fault(chain, validator(3))])

    assert fault_of(chain, validator(3)).suspended_height == chain.height
    assert [seat.id for seat in scheduled(chain).voters] == [validator(n) for n in (1, 2, 4)]


def test_a_rotated_key_answers_for_itself_alone() -> None:
    """What the retired key signed, before or after, is recorded and suspends nobody."""
    chain = council()
    decide(chain, "p", rotation(2), (2, 1, 4))
    before = epochs(chain.state)

    chain.applied([fault(chain, validator(2))])

    assert fault_of(chain, validator(2)).suspended_height is None
    assert epochs(chain.state) == before
    assert chain.get(Member, validator(2)).standing is Standing.ENROLLED
    chain.applied([fault(chain, validator(2), 1)])
    assert scheduled(chain).get(validator(2)) not in scheduled(chain).voters


def test_a_rotated_key_reinstates_a_suspended_seat() -> None:
    """The organisation has found out what happened, and more than two thirds believe it."""
    chain = council()
    chain.applied([fault(chain, validator(2))])

    decide(chain, "p", rotation(2), (2, 1, 4))

    assert len(scheduled(chain).voters) == 4
    assert chain.get(Member, validator(2)).standing is Standing.ENROLLED
    assert fault_of(chain, validator(2)).suspended_height == 1


def test_an_address_alone_reinstates_nobody() -> None:
    """The attack: a suspended seat comes back with its old key by a routine proposal."""
    chain = council()
    chain.applied([fault(chain, validator(2))])
    moved = replace(rotation(2), public_key=None, address="a:1", transport=b"t" * 32)

    decide(chain, "p", moved, (2, 1, 4))

    assert len(scheduled(chain).voters) == 3
    assert chain.get(Member, validator(2)).standing is Standing.SUSPENDED


def test_an_unseated_validator_s_fault_is_recorded() -> None:
    """It is long gone, and still nobody can say that it was honest."""
    chain = council(5)
    decide(chain, "out", unseating(5), (1, 2, 3, 4))

    chain.applied([fault(chain, validator(5))])

    assert fault_of(chain, validator(5)).suspended_height is None


def test_a_seat_that_is_needed_cannot_leave_while_another_is_suspended() -> None:
    """Two of six suspended leave a quorum of four and no more."""
    chain = council(7)
    for number in (1, 2):
        chain.applied([fault(chain, validator(number), sender=admin(7))])

    decide(chain, "out", unseating(7), (3, 4, 5, 6, 7))  # 4 of 6 left to vote: as many as needed
    chain.applied([propose(3, "more", unseating(6))])
    chain.applied([approve(n, "more") for n in (4, 5, 6)])

    assert chain.refused(approve(1, "more")) == "proposal.quorum"

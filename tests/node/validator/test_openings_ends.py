"""When openings must go: at the judgement, at a withdrawal, and after a restart."""

from functools import partial

from node.validator.openings import Openings
from tests.fl.dialogue import (
    withdrawal,
)
from tests.harness import organisation
from tests.node.validator.office import OFFER, Office, code_of


def test_openings_are_deleted_when_the_round_is_judged(office: Office) -> None:
    """From that moment nobody reads them either."""
    office.want(2, "2")
    office.announce("2")
    office.held.add(OFFER.address)
    assert office.openings.due() == []

    office.end_round()

    assert office.readers(OFFER.address) == set()
    assert office.writers(OFFER.address, OFFER.bytes) == set()
    assert office.openings.due() == [OFFER.address]
    assert office.openings.due() == []


def test_a_withdrawal_closes_what_was_opened(office: Office) -> None:
    """The site's word ends for rows that lie here already, and for verifiers that have asked."""
    office.want(2, "2")
    office.announce("2")
    office.held.add(OFFER.address)

    office.chain.applied([withdrawal(1)])
    office.openings.follow()

    assert office.readers(OFFER.address) == set()
    assert office.writers(OFFER.address, OFFER.bytes) == set()
    assert office.openings.due() == [OFFER.address]
    for call in (partial(office.want, 3, "2"), office.wanted, partial(office.announce, "2")):
        assert code_of(call) == "opening.withdrawn"
    office.restarted(leftover=(OFFER.address,))
    assert office.openings.due() == [OFFER.address]


def test_a_restart_in_the_middle_costs_nothing_that_has_come(office: Office) -> None:
    """Verifiers ask again, the trainer announces again, and the bytes are there."""
    office.want(2, "2")
    office.announce("2")
    office.held.add(OFFER.address)

    office.restarted(leftover=(OFFER.address,))
    assert office.openings.due() == []
    assert office.readers(OFFER.address) == set()
    assert office.want(2, "2") is None
    assert office.wanted() == ("2",)
    office.announce("2")

    assert office.want(2, "2") == OFFER
    assert office.wanted() == ()
    assert office.readers(OFFER.address) == {f"{organisation(2)}.verifier"}


def test_what_a_restart_left_is_deleted_when_that_round_is_judged(office: Office) -> None:
    """Also what nobody has announced again."""
    office.restarted(leftover=(OFFER.address,))

    office.end_round()

    assert office.openings.due() == [OFFER.address]


def test_what_a_restart_left_is_deleted_when_the_site_withdraws(office: Office) -> None:
    """Its rows go with its word, whoever has announced them before."""
    office.restarted(leftover=(OFFER.address,))
    assert office.openings.due() == []

    office.chain.applied([withdrawal(1)])

    assert office.openings.due() == [OFFER.address]


def test_what_is_left_of_rounds_that_have_ended_goes_at_once(office: Office) -> None:
    """A validator that was down when the round ended keeps no rows."""
    office.end_round()

    office.restarted(leftover=(OFFER.address,))

    assert office.openings.due() == [OFFER.address]


def test_a_newcomer_that_catches_up_starts_again(office: Office) -> None:
    """At a height where a round is judged and its own organisation is not enrolled yet."""
    openings = Openings(
        lambda: office.chain.state, "newcomer.validator", lambda address: False, (OFFER.address,)
    )

    assert openings.due() == [OFFER.address]

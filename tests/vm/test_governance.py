"""Governance: who decides, how many are enough, and what no majority may do."""

from dataclasses import replace

import pytest

from tests.harness import key_of, organisation
from tests.vm.council import (
    LAST,
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
from tests.vm.registrar import enrol
from vm.epoch import epochs, newest
from vm.proposal import (
    PROPOSAL_BLOCKS_MAX,
    PROPOSALS_OPEN_MAX,
    PROPOSALS_OPEN_OF_ORGANISATION_MAX,
    Approval,
    OpenProposal,
    OpenProposals,
    Proposal,
    ProposalPhase,
)
from vm.record import Role
from vm.state import Record, State

# Who decides


@pytest.mark.parametrize(("n", "needed"), [(4, 3), (5, 4), (6, 5), (7, 5), (9, 7), (10, 7)])
def test_more_than_two_thirds_of_the_organisations_decide(n: int, needed: int) -> None:
    """Exactly two thirds are not enough, and the one after them applies the change."""
    chain = council(n)
    chain.applied([propose(1, "p", upgrade())])

    for number in range(2, needed):
        chain.applied([approve(number, "p")])
    assert chain.get(Proposal, "p").phase is ProposalPhase.OPEN
    assert len(epochs(chain.state)) == 1
    chain.applied([approve(needed, "p")])

    assert chain.get(Proposal, "p").phase is ProposalPhase.APPLIED
    assert newest(chain.state).protocol == "concilium.2"


def test_the_record_tells_who_approved_what_and_when() -> None:
    """It is never deleted: a year later an auditor sees on whose word the set changed."""
    chain = council()

    decide(chain, "p", upgrade(), (2, 4, 1))

    approvals = [Approval(organisation(n), admin(n), h) for n, h in ((2, 1), (4, 2), (1, 3))]
    assert chain.get(Proposal, "p") == Proposal(
        id="p",
        organisation=organisation(2),
        change=upgrade(),
        proposed_height=1,
        expires_height=LAST,
        approvals=tuple(approvals),
        phase=ProposalPhase.APPLIED,
        closed_height=3,
    )
    assert chain.get(OpenProposals).proposals == ()


def test_an_organisation_that_approves_again_counts_once() -> None:
    """The attack: one organisation says yes until there are enough, with a second admin too."""
    chain = council()
    second = enrol("hospital-1.second", Role.ADMIN, public_key=key_of("hospital-1.second").public)
    chain.applied([propose(1, "p", upgrade()), second])

    again = [approve(1, "p"), ("hospital-1.second", *approve(1, "p")[1:])]

    assert [chain.refused(item) for item in again] == ["proposal.approved"] * 2
    chain.applied([approve(2, "p")])
    assert chain.refused(approve(2, "p")) == "proposal.approved"
    assert len(chain.get(Proposal, "p").approvals) == 2


def test_an_organisation_without_a_seat_governs_nothing() -> None:
    """Admitted, it may enrol members; it neither proposes nor approves before it holds a seat."""
    chain = council()
    decide(chain, "admit", admission(5))
    chain.applied([propose(1, "p", upgrade())])

    assert chain.refused(propose(5, "q", upgrade())) == "governance.organisation"
    assert chain.refused(approve(5, "p")) == "governance.organisation"

    decide(chain, "seat", seating(5))
    chain.applied([approve(5, "p")])


def test_an_organisation_that_lost_its_seat_governs_nothing_from_that_block_on() -> None:
    """Its validator still votes for a window; that is no reason to let it decide who comes next."""
    chain = council(5)
    chain.applied([propose(1, "p", upgrade())])
    decide(chain, "out", unseating(5), (1, 2, 3, 4))

    assert chain.epoch_at(chain.height + 1).validators.votes(validator(5))
    assert chain.refused(approve(5, "p")) == "governance.organisation"
    assert chain.refused(propose(5, "q", upgrade())) == "governance.organisation"


def test_approvals_of_organisations_that_do_not_govern_any_more_do_not_count() -> None:
    """The attack: an organisation on its way out lends its yes to what comes after it."""
    chain = council(5)
    chain.applied([propose(5, "p", upgrade()), approve(1, "p")])
    chain.applied([propose(1, "out", unseating(5))])
    chain.applied([approve(n, "out") for n in (2, 3, 4)])

    chain.applied([approve(2, "p")])  # with the one that left it would be three of four

    found = chain.get(Proposal, "p")
    assert found.phase is ProposalPhase.OPEN
    assert [item.organisation for item in found.approvals] == ["hospital-1", "hospital-2"]
    chain.applied([approve(3, "p")])
    assert chain.get(Proposal, "p").phase is ProposalPhase.APPLIED


def test_the_threshold_is_of_those_that_govern_when_it_is_counted() -> None:
    """Three of four were enough when it was proposed; with a fifth organisation, four are."""
    chain = council()
    decide(chain, "admit", admission(5))
    chain.applied([propose(1, "p", upgrade()), approve(2, "p")])
    decide(chain, "seat", seating(5))

    chain.applied([approve(3, "p")])
    assert chain.get(Proposal, "p").phase is ProposalPhase.OPEN
    chain.applied([approve(5, "p")])

    assert chain.get(Proposal, "p").phase is ProposalPhase.APPLIED


def test_approvals_that_became_enough_when_the_set_shrank_are_applied_by_any_of_them() -> None:
    """Else it would wait for ever: everyone who is left has approved already."""
    chain = council(5)
    chain.applied([propose(1, "p", upgrade()), approve(2, "p"), approve(3, "p")])
    decide(chain, "out", unseating(5), (1, 2, 3, 4))

    chain.applied([approve(1, "p")])

    found = chain.get(Proposal, "p")
    assert (found.phase, len(found.approvals)) == (ProposalPhase.APPLIED, 3)


def test_a_suspended_seat_s_organisation_still_governs() -> None:
    """It answers for its validator by rotating its key, and its seat counts in n."""
    chain = council(5)
    state = chain.state
    first, *rest = chain.epoch.validators.validators
    suspended = replace(chain.epoch.validators, validators=(replace(first, suspended=True), *rest))
    state.put(replace(chain.epoch, validators=suspended))
    chain.stored |= state.writes

    decide(chain, "p", rotation(1), (1, 2, 3, 4))

    assert not scheduled(chain).validators[0].suspended


# Proposals


def test_a_proposal_s_id_is_used_once() -> None:
    """The attack: what others are about to approve is replaced by something else."""
    chain = council()
    chain.applied([propose(1, "p", upgrade())])

    assert chain.refused(propose(2, "p", unseating(1))) == "proposal.exists"
    chain.applied([approve(2, "p"), approve(3, "p")])
    assert chain.refused(propose(2, "p", unseating(1))) == "proposal.exists"


def test_an_applied_proposal_is_closed() -> None:
    """A fourth approval does not apply it again."""
    chain = council()
    decide(chain, "p", upgrade())

    assert chain.refused(approve(4, "p")) == "proposal.closed"
    assert len(epochs(chain.state)) == 2


def test_nobody_approves_what_was_never_proposed() -> None:
    """The id is looked up."""
    assert council().refused(approve(1, "p")) == "state.missing"


def test_a_proposal_expires_after_its_last_height() -> None:
    """At its last height it can be approved; from the next block on it is closed, by itself."""
    chain = council()
    chain.applied([propose(1, "p", upgrade(), 3), propose(1, "q", upgrade(), 3)])
    chain.applied()
    chain.applied([approve(2, "p")])
    chain.applied()

    found = chain.get(Proposal, "p")
    assert (found.phase, found.closed_height) == (ProposalPhase.EXPIRED, 4)
    assert chain.refused(approve(3, "p")) == "proposal.closed"
    assert chain.get(OpenProposals).proposals == ()


def test_many_that_expire_at_once_are_taken_from_the_list_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One write of the list, however many: those that are open still stay in it."""
    chain = council()
    chain.applied([propose(1, name, upgrade(), 3) for name in ("p", "q", "r")])
    chain.applied([propose(1, "s", upgrade(), 4)])
    chain.applied()
    put, lists = State.put, list[OpenProposals]()

    def noted(state: State, record: Record) -> None:
        if isinstance(record, OpenProposals):
            lists.append(record)
        put(state, record)

    monkeypatch.setattr(State, "put", noted)
    chain.applied()

    assert lists == [OpenProposals((OpenProposal("s", "hospital-1", 4),))]
    assert {chain.get(Proposal, name).closed_height for name in ("p", "q", "r")} == {4}


@pytest.mark.parametrize("expires_height", [0, 1, 1 + PROPOSAL_BLOCKS_MAX + 1])
def test_a_proposal_is_open_for_a_while_and_not_without_end(expires_height: int) -> None:
    """Neither for no block at all nor for so long that nobody remembers it."""
    assert council().refused(propose(1, "p", upgrade(), expires_height)) == "proposal.expires"
    council().applied([propose(1, "p", upgrade(), 1 + PROPOSAL_BLOCKS_MAX)])


def test_an_organisation_has_few_proposals_open_and_room_again_when_one_closes() -> None:
    """The attack: one organisation fills the list so that others cannot propose."""
    chain = council()
    most = PROPOSALS_OPEN_OF_ORGANISATION_MAX
    chain.applied([propose(1, f"p{i}", upgrade(), 5) for i in range(most)])

    assert chain.refused(propose(1, "more", upgrade())) == "proposal.too_many_of_organisation"
    chain.applied([propose(2, "other", upgrade())])
    chain.applied([approve(2, "p0"), approve(3, "p0")])
    chain.applied([propose(1, "more", upgrade(3))])
    chain.applied()

    assert [item.id for item in chain.get(OpenProposals).proposals] == ["other", "more"]


def test_the_list_of_open_proposals_is_bounded() -> None:
    """Organisations that left may have filled it; the whole list fits a record."""
    chain = council()
    state = chain.state
    left = (OpenProposal(f"p{i}", f"left-{i}", LAST) for i in range(PROPOSALS_OPEN_MAX))
    state.put(OpenProposals(tuple(left)))
    chain.stored |= state.writes

    assert chain.refused(propose(1, "more", upgrade())) == "proposal.too_many"


def test_a_refused_change_leaves_the_proposal_open_for_a_better_day() -> None:
    """The last approval fails with the change's code; once the cause is gone, it comes again."""
    chain = council()
    chain.applied([propose(1, "out", unseating(4)), approve(2, "out")])

    assert chain.refused(approve(3, "out")) == "proposal.size"
    assert len(chain.get(Proposal, "out").approvals) == 2
    decide(chain, "admit", admission(5))
    decide(chain, "seat", seating(5))
    chain.applied([approve(3, "out"), approve(5, "out")])

    assert names(scheduled(chain)) == [organisation(n) for n in (1, 2, 3, 5)]

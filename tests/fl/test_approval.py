"""Approvals of tasks by their sites, and that nobody is part of what it has not signed."""

from dataclasses import replace

import pytest

from fl.approval import terms_digest
from fl.body import ApproveTask
from fl.reputation import reputation_of
from tests.fl.dialogue import (
    SUBMIT_MS,
    TASK,
    TERMS,
    aggregate,
    approval,
    approvals,
    closing,
    commit,
    commits,
    decline,
    opened,
    opening,
    proof,
    registered,
    settled,
    site,
    speak,
    submitted,
    withdrawal,
)
from tests.harness import Chain, Item, organisation
from vm.learning import Round, RoundPhase, SiteApproval, Task, UpdateStatus


def phase(chain: Chain) -> RoundPhase:
    """Of the first round."""
    return chain.get(Round, TASK, 1).phase


def without(number: int) -> Chain:
    """A chain on which every site but one has approved the task."""
    chain = registered()
    others = [approval(n) for n in (1, 2, 3, 4) if n != number]
    chain.applied([opening(), *others])
    return chain


def test_an_approval_names_the_terms_and_stands() -> None:
    """By the digest of exactly what the task fixes, signed by the site's trainer."""
    chain = registered()
    chain.applied([opening()])

    chain.applied([approval(2)])

    found = chain.get(SiteApproval, TASK, "hospital-2")
    assert (found.terms, found.stands) == (terms_digest(TERMS), True)
    assert found.approved_height == found.changed_height == chain.height


def test_other_terms_are_not_approved() -> None:
    """Whoever has read other words than those on the chain has approved nothing."""
    chain = registered()
    chain.applied([opening()])
    body = ApproveTask(TASK, terms_digest(replace(TERMS, pool=TERMS.pool + 1)))

    assert chain.refused(("hospital-2.trainer", "task.approve", body)) == "approval.terms"
    assert chain.state.get(SiteApproval, TASK, "hospital-2") is None


@pytest.mark.parametrize("role", ["steward", "verifier", "validator", "admin"])
def test_only_a_trainer_approves(role: str) -> None:
    """The access table keeps other members of the same hospital out."""
    chain = registered()
    chain.applied([opening()])
    _, kind, body = approval(2)

    assert chain.refused((f"hospital-2.{role}", kind, body)) == "access.role"


def test_a_trainer_approves_for_its_own_site_alone_and_once() -> None:
    """A fifth hospital is no part of the task, and what stands is not given again."""
    chain = registered(5)
    chain.applied([opening(), approval(1)])

    assert chain.refused(approval(5)) == "approval.site"
    assert chain.refused(approval(1)) == "approval.duplicate"


def test_without_an_approval_neither_updates_nor_commitments_are_taken() -> None:
    """Of the site itself, whoever sends them."""
    chain = without(4)

    assert chain.refused(proof(4)) == "task.not_approved"
    assert chain.refused(commit(4)) == "task.not_approved"


def test_a_site_that_was_named_and_never_asked_has_nothing_counted_against_it() -> None:
    """A steward may name whom it likes: the round ends without it, and its reputation is as before.

    Neither absence nor silence is a fact about somebody who is no part of the task.
    """
    chain = without(4)
    chain.applied([*(proof(n) for n in (1, 2, 3)), *(commit(n) for n in (1, 2, 3))])
    assert phase(chain) is RoundPhase.SUBMIT  # in round 1 it may still say so

    chain.applied(time_ms=chain.time_ms + SUBMIT_MS)
    speak(chain, judges=(1, 2, 3))

    outcome = chain.get(Round, TASK, 1).outcomes[3]
    assert (outcome.status, outcome.code) == (UpdateStatus.UNAPPROVED, "update.not_approved")
    found = reputation_of(chain.state, "hospital-4")
    assert (found.absent, found.silent) == (0, 0)


def test_a_site_that_approved_and_says_nothing_is_absent_and_silent() -> None:
    """It gave its word, so it is waited for and counted."""
    chain = opened()
    chain.applied([*(proof(n) for n in (1, 2, 3)), *(commit(n) for n in (1, 2, 3))])
    chain.applied(time_ms=chain.time_ms + SUBMIT_MS)
    speak(chain, judges=(1, 2, 3))

    assert chain.get(Round, TASK, 1).outcomes[3].status is UpdateStatus.ABSENT
    found = reputation_of(chain.state, "hospital-4")
    assert (found.absent, found.silent) == (1, 1)


def test_from_the_second_round_on_nobody_waits_for_a_site_that_has_not_approved() -> None:
    """The first round gave it time to say so."""
    chain = without(4)
    chain.applied([*(proof(n) for n in (1, 2, 3)), *(commit(n) for n in (1, 2, 3))])
    chain.applied(time_ms=chain.time_ms + SUBMIT_MS)
    speak(chain, judges=(1, 2, 3))
    chain.applied([aggregate(chain, n) for n in (1, 2, 3)])
    assert chain.get(Task, TASK).round == 2

    chain.applied(
        [
            *(proof(n, 2, base_version=1) for n in (1, 2, 3)),
            *(commit(n, 2) for n in (1, 2, 3)),
        ]
    )

    assert chain.get(Round, TASK, 2).phase is RoundPhase.VERDICT


def test_a_site_may_come_later() -> None:
    """Its update counts from the round on in which it approves."""
    chain = without(4)
    chain.applied([*(proof(n) for n in (1, 2, 3)), *(commit(n) for n in (1, 2, 3))])

    chain.applied([approval(4), proof(4), commit(4)])

    assert phase(chain) is RoundPhase.VERDICT
    assert chain.get(Round, TASK, 1).updates == 4


def test_a_site_that_withdraws_is_not_waited_for_any_more() -> None:
    """The round goes on in the block that holds its word."""
    chain = opened()
    chain.applied([*(proof(n) for n in (1, 2, 3)), *(commit(n) for n in (1, 2, 3))])
    assert phase(chain) is RoundPhase.SUBMIT

    chain.applied([withdrawal(4)])

    assert phase(chain) is RoundPhase.VERDICT
    assert not chain.get(SiteApproval, TASK, "hospital-4").stands


def test_what_was_sent_before_a_withdrawal_stays_in_the_round() -> None:
    """An update that is there is judged; the site takes no part in what follows."""
    chain = opened()
    chain.applied([*(proof(n) for n in (1, 2, 3, 4)), *(commit(n) for n in (1, 2, 3))])

    chain.applied([withdrawal(4)])

    assert phase(chain) is RoundPhase.VERDICT
    assert chain.get(Round, TASK, 1).updates == 4
    assert chain.refused(commit(4, 1)) == "round.phase"


def test_who_held_the_round_up_cannot_withdraw_from_having_done_so() -> None:
    """Else anybody could stall every round at no cost: approve, say nothing, withdraw, approve."""
    chain = opened()
    chain.applied([*(proof(n) for n in (1, 2, 3)), *(commit(n) for n in (1, 2, 3))])
    chain.applied(time_ms=chain.time_ms + SUBMIT_MS)

    chain.applied([withdrawal(4)])
    speak(chain, judges=(1, 2, 3))

    found = reputation_of(chain.state, "hospital-4")
    assert (found.absent, found.silent) == (1, 1)


def test_a_withdrawal_while_updates_come_counts_for_the_round_that_waited() -> None:
    """The others were held up by it; from the next round on it is no part."""
    chain = opened()
    chain.applied([*(proof(n) for n in (1, 2, 3)), *(commit(n) for n in (1, 2, 3))])

    chain.applied([withdrawal(4)])
    speak(chain, judges=(1, 2, 3))
    chain.applied([aggregate(chain, n) for n in (1, 2, 3)])
    proofs = [proof(n, 2, base_version=1) for n in (1, 2, 3)]
    chain.applied([*proofs, *(commit(n, 2) for n in (1, 2, 3))])
    speak(chain, judges=(1, 2, 3), round_number=2)

    assert chain.get(Round, TASK, 1).parts == tuple(organisation(n) for n in (1, 2, 3, 4))
    assert chain.get(Round, TASK, 2).parts == tuple(organisation(n) for n in (1, 2, 3))
    assert reputation_of(chain.state, "hospital-4").absent == 1


@pytest.mark.parametrize("number", [1, 2])
def test_who_approves_when_submissions_are_over_was_not_there(number: int) -> None:
    """Also in the very block that ended them: it may have seen them still open."""
    chain = without(4)
    chain.applied([*(proof(n) for n in (1, 2, 3)), *(commit(n) for n in (1, 2, 3))])
    chain.applied(time_ms=chain.time_ms + SUBMIT_MS)
    if number == 1:
        chain.applied([approval(4)])
    speak(chain, judges=(1, 2, 3))
    if number == 2:
        chain.applied([aggregate(chain, n) for n in (1, 2, 3)])
        proofs = [proof(n, 2, base_version=1) for n in (1, 2, 3)]
        chain.applied([*proofs, *(commit(n, 2) for n in (1, 2, 3)), approval(4)])
        speak(chain, judges=(1, 2, 3), round_number=2)

    assert chain.get(Round, TASK, number).outcomes[3].status is UpdateStatus.UNAPPROVED
    found = reputation_of(chain.state, "hospital-4")
    assert (found.absent, found.silent) == (0, 0)


@pytest.mark.parametrize(("late_ms", "absent"), [(0, 1), (1, 0)])
def test_who_approves_too_late_to_train_in_round_1_is_not_blamed(late_ms: int, absent: int) -> None:
    """Half of the time for submissions is left to who comes within the first half."""
    chain = without(4)
    opened_ms = chain.get(Round, TASK, 1).opened_ms
    chain.applied([*(proof(n) for n in (1, 2, 3)), *(commit(n) for n in (1, 2, 3))])

    chain.applied([approval(4)], time_ms=opened_ms + SUBMIT_MS // 2 + late_ms)
    chain.applied(time_ms=opened_ms + SUBMIT_MS)
    speak(chain, judges=(1, 2, 3))

    assert phase(chain) is RoundPhase.AGGREGATE
    assert len(chain.get(Round, TASK, 1).parts) == 3 + absent
    found = reputation_of(chain.state, "hospital-4")
    assert (found.absent, found.silent) == (absent, absent)


def second(numbers: tuple[int, ...]) -> list[Item]:
    """These sites send and commit in round 2."""
    proofs = [proof(n, 2, base_version=1) for n in numbers]
    return [*proofs, *(commit(n, 2) for n in numbers)]


def test_who_comes_within_a_later_round_is_not_waited_for_in_it() -> None:
    """It may have too little time left to train; what it does in it all the same is taken."""
    chain = without(4)
    chain.applied([*(proof(n) for n in (1, 2, 3)), *(commit(n) for n in (1, 2, 3))])
    chain.applied(time_ms=chain.time_ms + SUBMIT_MS)
    speak(chain, judges=(1, 2, 3))
    chain.applied([aggregate(chain, n) for n in (1, 2, 3)])
    chain.applied([approval(4), commit(4, 2)])

    chain.applied(second((1, 2, 3)))
    speak(chain, round_number=2)

    rnd = chain.get(Round, TASK, 2)
    assert (rnd.phase, rnd.parts) == (
        RoundPhase.AGGREGATE,
        tuple(organisation(n) for n in (1, 2, 3)),
    )
    assert rnd.outcomes[3].status is UpdateStatus.UNAPPROVED
    found = reputation_of(chain.state, "hospital-4")
    assert (found.absent, found.silent, found.verdicts) == (0, 0, 3)


def test_who_commits_and_withdraws_as_a_round_opens_is_blamed_for_its_silence() -> None:
    """In the block of the aggregate that opens it; the others wait for its seal."""
    chain = settled(submitted(opened()))
    chain.applied([aggregate(chain, n) for n in (1, 2)])

    chain.applied([aggregate(chain, 3), commit(4, 2), withdrawal(4)])
    chain.applied(second((1, 2, 3)))
    speak(chain, judges=(1, 2, 3), round_number=2)

    assert reputation_of(chain.state, "hospital-4").silent == 1


def test_who_withdraws_and_approves_again_within_a_round_is_waited_for_all_the_same() -> None:
    """Whom a round waits for is written as it opens: nobody slips out of it by a toggle."""
    chain = settled(submitted(opened()))
    chain.applied([aggregate(chain, n) for n in (1, 2, 3)])
    chain.applied([withdrawal(4), approval(4)])

    chain.applied(second((1, 2, 3)))

    rnd = chain.get(Round, TASK, 2)
    assert (rnd.phase, len(rnd.parts)) == (RoundPhase.SUBMIT, 4)
    chain.applied(time_ms=rnd.deadline_ms)
    speak(chain, judges=(1, 2, 3), round_number=2)
    assert reputation_of(chain.state, "hospital-4").absent == 1


def test_who_sends_an_update_owes_its_verdicts_whenever_it_approved() -> None:
    """Else a site could come late to every round, be paid for its update and judge nobody's."""
    chain = without(4)
    chain.applied([*(proof(n) for n in (1, 2, 3)), *(commit(n) for n in (1, 2, 3))])
    chain.applied(time_ms=chain.time_ms + SUBMIT_MS)
    speak(chain, judges=(1, 2, 3))
    chain.applied([aggregate(chain, n) for n in (1, 2, 3)])

    chain.applied([approval(4), proof(4, 2, base_version=1), *second((1, 2, 3))])
    speak(chain, judges=(1, 2, 3), round_number=2)

    assert reputation_of(chain.state, "hospital-4").silent == 1


def test_while_no_majority_can_be_the_round_waits_for_its_deadline() -> None:
    """Three of six verifiers pass nothing; three rounds at once would leave nobody time to come."""
    numbers = (1, 2, 3)
    sites = tuple(site(n) for n in (1, 2, 3, 4, 5, 6))
    chain = registered(6)
    chain.applied([opening(sites=sites), *(approval(n, sites=sites) for n in numbers)])
    chain.applied([*(proof(n) for n in numbers), *(commit(n) for n in numbers)])
    chain.applied(time_ms=chain.time_ms + SUBMIT_MS)
    speak(chain, judges=numbers)
    assert chain.get(Task, TASK).round == 2

    chain.applied([*(proof(n, 2) for n in numbers), *(commit(n, 2) for n in numbers)])

    assert chain.get(Round, TASK, 2).phase is RoundPhase.SUBMIT


@pytest.mark.parametrize("role", ["trainer", "steward", "admin"])
def test_a_site_withdraws_by_whoever_of_it_is_left(role: str) -> None:
    """A trainer that was revoked can say nothing, and its site would be waited for for ever."""
    chain = opened()
    _, kind, body = withdrawal(4)

    chain.applied([(f"hospital-4.{role}", kind, body)])

    assert not chain.get(SiteApproval, TASK, "hospital-4").stands
    assert chain.refused(("hospital-4.verifier", kind, body)) == "access.role"


def test_nobody_withdraws_for_another_site() -> None:
    """Its own alone, whoever opened the task."""
    chain = registered(5)
    chain.applied([opening(), *approvals()])
    _, kind, body = withdrawal(4)

    assert chain.refused(("hospital-5.admin", kind, body)) == "approval.site"


def test_a_withdrawn_approval_is_given_again_with_its_first_height() -> None:
    """Whoever looks later sees since when the site was part, and what changed last."""
    chain = opened()
    first = chain.height
    chain.applied([withdrawal(4)])
    assert chain.refused(withdrawal(4)) == "task.not_approved"

    chain.applied([approval(4)])

    found = chain.get(SiteApproval, TASK, "hospital-4")
    assert (found.stands, found.approved_height, found.changed_height) == (
        True,
        first,
        chain.height,
    )


def test_too_few_approvals_let_the_round_wait_for_its_deadline() -> None:
    """Else three rounds in a row would fail within as many blocks, and the task with them."""
    chain = registered()
    chain.applied([opening(), approval(1), approval(2)])

    chain.applied([proof(1), proof(2), commit(1), commit(2)])

    assert (phase(chain), chain.get(Task, TASK).round) == (RoundPhase.SUBMIT, 1)


def test_a_decline_of_a_site_that_has_not_approved_ends_the_waiting_for_it() -> None:
    """A word is a word."""
    chain = without(4)
    chain.applied([*(proof(n) for n in (1, 2, 3)), *(commit(n) for n in (1, 2, 3))])

    chain.applied([decline(4)])

    assert phase(chain) is RoundPhase.VERDICT


def test_nothing_is_approved_of_a_task_that_is_over() -> None:
    """Neither given nor taken back."""
    chain = opened()
    chain.applied([withdrawal(4), closing()])
    chain.applied(time_ms=chain.time_ms + SUBMIT_MS)

    codes = [chain.refused(item) for item in (approval(4), withdrawal(1))]

    assert codes == ["task.phase", "task.phase"]


def test_approvals_of_all_let_a_round_end_as_soon_as_all_have_spoken() -> None:
    """The common case: nobody waits for a deadline."""
    chain = registered()
    chain.applied([opening(), *approvals()])

    chain.applied([*(proof(n) for n in (1, 2, 3, 4)), *commits()])
    settled(chain)

    assert phase(chain) is RoundPhase.AGGREGATE
    names = [item.organisation for item in chain.get(Round, TASK, 1).outcomes]
    assert names == [organisation(n) for n in (1, 2, 3, 4)]

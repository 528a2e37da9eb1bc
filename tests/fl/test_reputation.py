"""Reputations: every count follows from what a round or an audit has settled."""

from dataclasses import replace

from fl.reputation import reputation_of
from tests.fl.dialogue import (
    ABSTAINING,
    NUMBERS,
    TASK,
    aggregate,
    attestation,
    commits,
    decline,
    failing,
    judgements,
    opened,
    proof,
    sealing,
    settled,
    speak,
    submitted,
    visit,
    with_auditors,
)
from tests.fl.terms import by
from tests.harness import Chain, organisation
from vm.conduct import AuditOutcome, Reputation
from vm.learning import Round, RoundPhase
from vm.shape import HEIGHT_MAX, pack
from vm.state import state_key
from vm.terms import Rule

NOTHING = Reputation(organisation(1), *(0,) * 12)


def of(chain: Chain, number: int) -> Reputation:
    """An organisation's counts."""
    return reputation_of(chain.state, organisation(number))


def test_a_round_without_trouble_counts_updates_verdicts_and_credits() -> None:
    """Once each; the task's pool of 1,000 is shared over its two rounds."""
    chain = settled(submitted(opened()))
    assert of(chain, 1) == replace(NOTHING, accepted=1, verdicts=3)

    chain.applied([aggregate(chain, number) for number in (1, 2, 3)])

    assert [of(chain, number).credits for number in NUMBERS] == [125] * 4


def test_credits_beyond_the_bound_stop_nobody() -> None:
    """Attack: pools are any steward's to name, so accomplices fill the counter, task by task.

    A count that does not fit its record would stop every validator at the same block.
    """
    chain = settled(submitted(opened()))
    full = replace(of(chain, 1), credits=HEIGHT_MAX - 1)
    chain.stored[state_key(full.KIND, full.key)] = pack(full)

    chain.applied([aggregate(chain, number) for number in (1, 2, 3)])

    assert of(chain, 1).credits == HEIGHT_MAX
    assert of(chain, 2).credits == 125


def test_who_is_alone_against_all_others_is_counted() -> None:
    """The verifier that fails what two others pass, or passes what two others fail."""
    chain = submitted(opened())

    speak(chain, {(1, 2): failing(), (1, 3): failing(), (2, 3): failing()})

    assert of(chain, 1) == replace(NOTHING, accepted=1, verdicts=3, odd=1)
    assert (of(chain, 4).odd, of(chain, 3).rejected) == (1, 1)
    assert (of(chain, 2).odd, of(chain, 3).odd) == (0, 0)


def test_nobody_is_odd_where_nothing_was_decided() -> None:
    """A split or an abstention says nothing of anybody."""
    chain = submitted(opened())

    speak(chain, {(1, 2): failing(), (3, 2): ABSTAINING})

    assert [of(chain, number).odd for number in NUMBERS] == [0] * 4
    assert of(chain, 2).undecided == 1


def test_silence_and_what_was_withheld_are_counted_apart() -> None:
    """One verifier never sealed, another sealed and kept its verdicts to itself."""
    chain = submitted(opened())
    chain.applied([sealing(number, judgements(chain, number)) for number in (1, 2, 4)])
    chain.applied(time_ms=chain.get(Round, TASK, 1).deadline_ms)
    for _ in (1, 2):  # nobody reveals
        if chain.get(Round, TASK, 1).phase is RoundPhase.REVEAL:
            chain.applied(time_ms=chain.get(Round, TASK, 1).deadline_ms)

    assert (of(chain, 3).silent, of(chain, 3).unrevealed) == (1, 0)
    assert (of(chain, 4).silent, of(chain, 4).unrevealed) == (1, 1)
    assert of(chain, 4).verdicts == 0


def test_absence_and_decline_are_counted_apart() -> None:
    """Who says in time that it sends nothing keeps nobody waiting."""
    chain = opened()
    chain.applied([proof(1), proof(2), decline(3), *commits()])

    chain.applied(time_ms=chain.get(Round, TASK, 1).deadline_ms)

    assert (of(chain, 3).declined, of(chain, 3).absent) == (1, 0)
    assert (of(chain, 4).declined, of(chain, 4).absent) == (0, 1)
    assert (of(chain, 1).undecided, of(chain, 1).silent) == (1, 0)  # nobody was to judge


def test_who_has_only_its_own_update_to_judge_is_not_silent() -> None:
    """There is nothing that it could have said."""
    chain = opened(aggregation=by(Rule.WEIGHTED_MEAN, 0, 1))
    chain.applied([proof(1), decline(2), decline(3), decline(4), *commits()])

    speak(chain, judges=(2, 3))

    assert (of(chain, 1).silent, of(chain, 4).silent) == (0, 1)
    assert of(chain, 1).accepted == 1


def test_audits_of_ones_own_traces_are_counted() -> None:
    """Passed and failed; one that was not to be had says nothing."""
    chain = with_auditors(settled(submitted(opened())))
    chain.applied([aggregate(chain, number) for number in (1, 2, 3)])

    chain.applied(
        [
            visit(1, 3),
            visit(2, 3),
            attestation(1, 3, AuditOutcome.PASSED),
            attestation(2, 3, AuditOutcome.FAILED),
            attestation(1, 4, AuditOutcome.UNAVAILABLE),
        ]
    )

    assert (of(chain, 3).audits_passed, of(chain, 3).audits_failed) == (1, 1)
    assert (of(chain, 4).audits_passed, of(chain, 4).audits_failed) == (0, 0)

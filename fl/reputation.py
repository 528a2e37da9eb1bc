"""What is counted of an organisation once it is settled: never a claim, never a verdict alone."""

from collections.abc import Sequence
from dataclasses import replace

from fl.settle import is_odd
from vm.conduct import AuditOutcome, Reputation
from vm.learning import (
    Commitment,
    Outcome,
    Update,
    UpdateStatus,
    Verdict,
)
from vm.shape import HEIGHT_MAX
from vm.state import State


def reputation_of(state: State, organisation: str) -> Reputation:
    """The counts so far; zeros of one of whom nothing was settled yet."""
    return state.get(Reputation, organisation) or Reputation(organisation, *(0,) * 12)


def count_outcomes(state: State, outcomes: Sequence[Outcome]) -> None:
    """What became of each site's update in a round that has settled."""
    for outcome in outcomes:
        found = reputation_of(state, outcome.organisation)
        match outcome.status:
            case UpdateStatus.ACCEPTED:
                found = replace(found, accepted=found.accepted + 1)
            case UpdateStatus.REJECTED:
                found = replace(found, rejected=found.rejected + 1)
            case UpdateStatus.UNDECIDED:
                found = replace(found, undecided=found.undecided + 1)
            case UpdateStatus.ABSENT:
                found = replace(found, absent=found.absent + 1)
            case UpdateStatus.DECLINED:
                found = replace(found, declined=found.declined + 1)
            case UpdateStatus.UNAPPROVED:
                continue  # what others have named it for is not its doing
            case UpdateStatus.SUBMITTED:
                raise AssertionError("an outcome is settled")
        state.put(found)


def count_verdicts(
    state: State, organisation: str, cases: Sequence[tuple[Update, Sequence[Verdict]]]
) -> None:
    """What an organisation's verifier has said of settled updates: `cases`, each with all verdicts.

    Alone against all others (odd) may be wrong or the only one who is right; always alone is not.
    """
    given, odd = 0, 0
    for update, verdicts in cases:
        for verdict in verdicts:
            if verdict.verifier_organisation == organisation:
                given += 1
                odd += is_odd(verdict, verdicts, update.status)
    found = reputation_of(state, organisation)
    state.put(replace(found, verdicts=found.verdicts + given, odd=found.odd + odd))


def count_silence(state: State, organisation: str, commitment: Commitment | None) -> None:
    """A round in which the organisation's verifier had updates to judge and revealed nothing."""
    found = reputation_of(state, organisation)
    sealed = commitment is not None and commitment.seal is not None
    state.put(replace(found, silent=found.silent + 1, unrevealed=found.unrevealed + sealed))


def count_credits(state: State, outcomes: Sequence[Outcome]) -> None:
    """What a closed round has paid; the count stays at its bound, since pools are anybody's."""
    for outcome in outcomes:
        if outcome.credits:
            found = reputation_of(state, outcome.organisation)
            total = min(found.credits + outcome.credits, HEIGHT_MAX)
            state.put(replace(found, credits=total))


def count_audit(state: State, organisation: str, outcome: AuditOutcome) -> None:
    """An audit of the organisation's trace; one that had nothing to look at counts neither way."""
    found = reputation_of(state, organisation)
    passed = found.audits_passed + (outcome is AuditOutcome.PASSED)
    failed = found.audits_failed + (outcome is AuditOutcome.FAILED)
    state.put(replace(found, audits_passed=passed, audits_failed=failed))

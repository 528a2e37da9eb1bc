"""How verdicts settle the updates of a round; pure functions of records."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from vm import digest
from vm.encoding import encode
from vm.learning import (
    Decision,
    Decline,
    Outcome,
    Update,
    UpdateStatus,
    Verdict,
)
from vm.shape import Digest
from vm.terms import Evidence, Rule, Site, Terms

WEIGHT_MEDIANS_MAX = 2  # times the lower median of the task's weights: rows are self-declared
SCORE_STEP_BP = 100  # finer scores would be an oracle on the verifier's rows


def eligible_verifiers(terms: Terms) -> int:
    """How many verifiers may judge one update: one per site, except the update's own.

    Fixed by the task: who is silent, suspended or revoked still counts, so that silence can leave
    an update undecided but cannot turn a minority into a majority.
    """
    return len(terms.sites) - 1


def settle(update: Update, verdicts: Sequence[Verdict], eligible: int) -> Outcome:
    """The update's fate under the verdicts on it: more than half of the eligible decide."""
    return replace(_decide(update, verdicts, eligible), near=_near(verdicts, eligible))


def _decide(update: Update, verdicts: Sequence[Verdict], eligible: int) -> Outcome:
    passed = sum(verdict.decision is Decision.PASS for verdict in verdicts)
    failed = [verdict for verdict in verdicts if verdict.decision is Decision.FAIL]
    if 2 * passed > eligible:
        reason = f"{passed} of {eligible} verifiers passed it"
        outcome = _outcome(update, UpdateStatus.ACCEPTED, "update.accepted", reason)
        return replace(outcome, contribution_bp=contribution(verdicts))
    if 2 * len(failed) > eligible:
        cause = _main_cause(failed)
        return _outcome(update, UpdateStatus.REJECTED, cause.code, cause.reason)
    silent = eligible - len(verdicts)
    abstained = len(verdicts) - passed - len(failed)
    reason = (
        f"of {eligible} verifiers {passed} passed it, {len(failed)} failed it, "
        f"{abstained} abstained and {silent} were silent"
    )
    return _outcome(update, UpdateStatus.UNDECIDED, "update.undecided", reason)


def _near(verdicts: Sequence[Verdict], eligible: int) -> str | None:
    """Whose update this one nearly repeats, by more than half of the eligible."""
    counts = Counter(verdict.near for verdict in verdicts if verdict.near is not None)
    return next((name for name, count in counts.items() if 2 * count > eligible), None)


def absent(site: Site) -> Outcome:
    """The outcome of a site that submitted nothing in time."""
    reason = "no update came before the deadline"
    status = UpdateStatus.ABSENT
    return Outcome(site.organisation, site.trainer, status, "update.absent", reason, None, 0, None)


def unapproved(site: Site) -> Outcome:
    """The outcome of a site that had not approved the task in time to be part of the round."""
    reason = "the site had not approved the task in time"
    status, code = UpdateStatus.UNAPPROVED, "update.not_approved"
    return Outcome(site.organisation, site.trainer, status, code, reason, None, 0, None)


def declined(site: Site, decline: Decline) -> Outcome:
    """The outcome of a site that said in time that it sends no update; code and words are its."""
    status = UpdateStatus.DECLINED
    return Outcome(
        site.organisation, site.trainer, status, decline.code, decline.reason, None, 0, None
    )


def unjudged(update: Update) -> Outcome:
    """The outcome of an update in a round that failed before anybody judged it."""
    reason = "the round failed before verdicts"
    return _outcome(update, UpdateStatus.UNDECIDED, "update.unjudged", reason)


def _main_cause(failed: Sequence[Verdict]) -> Verdict:
    """The verdict that speaks for the others.

    Its code is the most frequent one, the smallest among equals; its verifier is the smallest id.
    """
    counts = Counter(verdict.code for verdict in failed)
    code = min(counts, key=lambda code: (-counts[code], code))
    return min((v for v in failed if v.code == code), key=lambda verdict: verdict.verifier)


def _outcome(update: Update, status: UpdateStatus, code: str, reason: str) -> Outcome:
    return Outcome(update.organisation, update.trainer, status, code, reason, None, 0, None)


def lower_median(values: Sequence[int]) -> int | None:
    """The middle value, the lower one of two; None of none."""
    return sorted(values)[(len(values) - 1) // 2] if values else None


def passing_score(verdicts: Sequence[Verdict]) -> int | None:
    """The lower median of the scores that passing verdicts give, in basis points."""
    return lower_median(
        [
            verdict.score_bp
            for verdict in verdicts
            if verdict.decision is Decision.PASS and verdict.score_bp is not None
        ]
    )


def contribution(verdicts: Sequence[Verdict]) -> int | None:
    """The lower median of what passing verdicts say that an update contributes, in basis points.

    No single verifier's word makes or breaks it while most of them are honest.
    """
    return lower_median(
        [
            verdict.contribution_bp
            for verdict in verdicts
            if verdict.decision is Decision.PASS and verdict.contribution_bp is not None
        ]
    )


def named_segments(verdicts: Sequence[Verdict]) -> tuple[int, ...]:
    """The segments that failing verdicts name, ascending."""
    named = {
        verdict.segment
        for verdict in verdicts
        if verdict.decision is Decision.FAIL and verdict.segment is not None
    }
    return tuple(sorted(named))


def reruns_due(update: Update, verdicts: Sequence[Verdict]) -> int:
    """How many verifiers are to re-run what others failed: those that saw no fail of their own.

    Only an update of class replayed has segments that others can run.
    """
    if update.evidence is not Evidence.REPLAYED or not named_segments(verdicts):
        return 0
    return sum(verdict.decision is not Decision.FAIL for verdict in verdicts)


def is_odd(verdict: Verdict, verdicts: Sequence[Verdict], status: UpdateStatus) -> bool:
    """Whether `verdict` stands alone against all others on an update that was decided."""
    others = {other.decision for other in verdicts if other is not verdict}
    match status, verdict.decision:
        case UpdateStatus.ACCEPTED, Decision.FAIL:
            return Decision.FAIL not in others
        case UpdateStatus.REJECTED, Decision.PASS:
            return Decision.PASS not in others
        case _:
            return False


def pay(terms: Terms, closed: int, outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """Outcomes with the credits of a task's closed round number `closed`, from 1.

    Round k of R shares out floor(k pool / R) - floor((k - 1) pool / R), so that all rounds come to
    the pool. Accepted updates have it in proportion to what they contribute, if that is above 0,
    and in equal parts if none does. Largest remainders take what rounding leaves, ties by id.
    """
    amount = closed * terms.pool // terms.rounds - (closed - 1) * terms.pool // terms.rounds
    accepted = [item for item in outcomes if item.status is UpdateStatus.ACCEPTED]
    parts = [max(0, item.contribution_bp or 0) for item in accepted]
    if not any(parts):
        parts = [1] * len(accepted)
    shares = {
        item.organisation: divmod(amount * part, sum(parts))
        for item, part in zip(accepted, parts, strict=True)
    }
    left = amount - sum(whole for whole, _ in shares.values())
    lucky = sorted(shares, key=lambda name: (-shares[name][1], name))[:left]
    return tuple(
        replace(item, credits=shares[item.organisation][0] + (item.organisation in lucky))
        if item.organisation in shares
        else item
        for item in outcomes
    )


def aggregation_weight(terms: Terms, site: Site) -> int:
    """The weight of a site's update; rows are what the site says, so their weight is bounded."""
    match terms.aggregation.rule:
        case Rule.WEIGHTED_MEAN:
            median = lower_median([other.weight for other in terms.sites])
            assert median is not None, "a task has sites"
            return min(site.weight, WEIGHT_MEDIANS_MAX * median)
        case _:  # rules that stand Byzantine sites hear what none of them can claim
            return 1


def accepted_digest(task: str, number: int, accepted: Sequence[tuple[Update, int]]) -> Digest:
    """Commits to the accepted updates with their weights, in order of organisation."""
    items = tuple((update.organisation, update.blob, weight) for update, weight in accepted)
    assert list(items) == sorted(items), "accepted updates stand in order of organisation"
    return digest.digest(digest.ACCEPTED, encode((task, number, items)))

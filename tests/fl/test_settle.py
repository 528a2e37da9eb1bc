"""How verdicts settle an update: majorities of the eligible, and reasons that speak for them."""

from dataclasses import replace
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.settle import (
    accepted_digest,
    aggregation_weight,
    contribution,
    is_odd,
    lower_median,
    named_segments,
    passing_score,
    pay,
    reruns_due,
    settle,
)
from tests.fl.dialogue import TERMS, address
from tests.fl.terms import by
from vm.learning import Decision, Outcome, Update, UpdateStatus, Verdict
from vm.terms import POOL_MAX, ROUNDS_MAX, Evidence, Rule, Terms

UPDATE = Update(
    task="preterm",
    round=1,
    organisation="hospital-1",
    trainer="hospital-1.trainer",
    dataset="opt-1",
    base_version=0,
    blob=address("update"),
    blob_bytes=100,
    norm=1,
    trace=bytes(32),
    segments=1,
    data=bytes(32),
    evidence=Evidence.COMMITTED,
    loop=None,
    transaction=bytes(32),
    height=1,
    status=UpdateStatus.SUBMITTED,
    audits_passed=0,
    audits_failed=0,
    audits_unavailable=0,
)


def judge(number: int, decision: Decision, code: str = "code", reason: str = "") -> Verdict:
    """The verdict of verifier `number`."""
    return Verdict(
        task="preterm",
        round=1,
        organisation="hospital-1",
        verifier=f"v{number}",
        verifier_organisation=f"o{number}",
        decision=decision,
        code=code,
        reason=reason,
        segment=None,
        score_bp=None,
        contribution_bp=None,
        near=None,
        rerun=False,
        transaction=bytes(32),
        height=1,
        blind=bytes(32),
    )


@pytest.mark.parametrize(
    ("eligible", "passed", "failed", "status"),
    [
        (1, 1, 0, "accepted"),
        (1, 0, 1, "rejected"),
        (1, 0, 0, "undecided"),
        (2, 1, 0, "undecided"),  # one of two is not more than half
        (2, 2, 0, "accepted"),
        (3, 2, 1, "accepted"),
        (3, 1, 2, "rejected"),
        (3, 1, 1, "undecided"),
        (4, 2, 2, "undecided"),
        (4, 1, 3, "rejected"),
        (4, 3, 0, "accepted"),
    ],
)
def test_more_than_half_of_the_eligible_decide(
    eligible: int, passed: int, failed: int, status: str
) -> None:
    """Silence and abstention count against both sides."""
    verdicts = [judge(n, Decision.PASS) for n in range(passed)]
    verdicts += [judge(passed + n, Decision.FAIL) for n in range(failed)]

    assert settle(UPDATE, verdicts, eligible).status.value == status


def test_abstaining_never_accepts_or_rejects() -> None:
    """Two passes and three abstentions of five decide nothing."""
    verdicts = [judge(n, Decision.PASS) for n in (0, 1)]
    verdicts += [judge(n, Decision.ABSTAIN) for n in (2, 3, 4)]

    found = settle(UPDATE, verdicts, 5)

    assert (found.status, found.code) == (UpdateStatus.UNDECIDED, "update.undecided")
    assert found.reason == "of 5 verifiers 2 passed it, 0 failed it, 3 abstained and 0 were silent"


def test_most_frequent_code_gives_the_reason() -> None:
    """The reason is that of the smallest verifier among those with the most frequent code."""
    verdicts = [
        judge(1, Decision.FAIL, "norm.bound", "one says this"),
        judge(2, Decision.FAIL, "score.worse", "two says that"),
        judge(3, Decision.FAIL, "score.worse", "three says the like"),
    ]

    for order in permutations(verdicts):
        found = settle(UPDATE, order, 3)
        assert (found.code, found.reason) == ("score.worse", "two says that")


def test_equally_frequent_codes_go_by_the_smallest() -> None:
    """Of two codes with one verdict each the one first in order of bytes is taken."""
    verdicts = [
        judge(1, Decision.FAIL, "score.worse", "worse"),
        judge(2, Decision.FAIL, "norm.bound", "long"),
    ]

    for order in permutations(verdicts):
        assert settle(UPDATE, order, 3).code == "norm.bound"


@given(st.lists(st.integers(0, 1_000_000), min_size=1))
def test_lower_median_splits_the_values(values: list[int]) -> None:
    """It is one of the values, at least half are not above it, and fewer than half below."""
    middle = lower_median(values)

    assert middle in values
    assert 2 * sum(value <= middle for value in values) >= len(values)
    assert 2 * sum(value < middle for value in values) < len(values)


def test_passing_score_ignores_failing_and_silent_scores() -> None:
    """Only passing verdicts that give a score count; of none there is none."""
    verdicts = [
        replace(judge(1, Decision.PASS), score_bp=700),
        replace(judge(2, Decision.FAIL), score_bp=100),
        judge(3, Decision.PASS),
        replace(judge(4, Decision.PASS), score_bp=900),
    ]

    assert passing_score(verdicts) == 700
    assert passing_score(verdicts[1:3]) is None


def test_accepted_digest_binds_round_blob_and_weight() -> None:
    """Whatever a validator could aggregate differently has another digest."""
    other = replace(UPDATE, organisation="hospital-2", blob=address("second"))
    plain = accepted_digest("preterm", 1, [(UPDATE, 200), (other, 150)])

    changed = [
        accepted_digest("preterm-2", 1, [(UPDATE, 200), (other, 150)]),
        accepted_digest("preterm", 2, [(UPDATE, 200), (other, 150)]),
        accepted_digest("preterm", 1, [(UPDATE, 200)]),
        accepted_digest("preterm", 1, [(UPDATE, 201), (other, 150)]),
        accepted_digest("preterm", 1, [(replace(UPDATE, blob=other.blob), 200), (other, 150)]),
    ]

    assert len({plain, *changed}) == 6


def test_weights_follow_the_rule() -> None:
    """The weighted mean takes the site's weight; the trimmed mean knows none."""
    trimmed = replace(TERMS, aggregation=by(Rule.TRIMMED_MEAN, 0, 3))
    assert aggregation_weight(TERMS, TERMS.sites[0]) == 200
    assert aggregation_weight(trimmed, TERMS.sites[0]) == 1


def test_declared_rows_buy_no_more_than_twice_the_median() -> None:
    """Who registers a million rows that nobody can count does not decide the mean alone."""
    greedy = replace(TERMS.sites[0], weight=1_000_000)
    task = replace(TERMS, sites=(greedy, *TERMS.sites[1:]))  # the others have 150, 100 and 50

    weights = [aggregation_weight(task, site) for site in task.sites]

    assert weights == [200, 150, 100, 50]
    assert 2 * weights[0] < sum(weights)


def outcome(name: str, contribution_bp: int | None, status: str = "accepted") -> Outcome:
    """What became of an organisation's update."""
    return Outcome(name, f"{name}.t", UpdateStatus(status), "code", "", contribution_bp, 0, None)


def paid(terms: Terms, closed: int, outcomes: list[Outcome]) -> dict[str, int]:
    """Credits by organisation."""
    return {item.organisation: item.credits for item in pay(terms, closed, outcomes)}


@given(
    st.integers(0, POOL_MAX),
    st.lists(
        st.tuples(st.none() | st.integers(-1_000_000, 1_000_000), st.booleans()),
        min_size=1,
        max_size=64,
    ),
    st.integers(1, ROUNDS_MAX),
)
def test_what_a_round_pays_is_paid_out_to_the_last_credit(
    pool: int, sites: list[tuple[int | None, bool]], rounds: int
) -> None:
    """Whatever the contributions: no credit is lost, made up, or paid to who was not accepted."""
    terms = replace(TERMS, pool=pool, rounds=rounds)
    items = [
        outcome(f"o{number:02}", bp, "accepted" if accepted else "rejected")
        for number, (bp, accepted) in enumerate([(0, True), *sites])
    ]

    found = pay(terms, rounds, items)

    amount = pool - (rounds - 1) * pool // rounds
    assert sum(item.credits for item in found) == amount
    assert all(item.credits == 0 for item in found if item.status is UpdateStatus.REJECTED)
    assert all(item.credits >= 0 for item in found)
    ordered = sorted(found, key=lambda item: max(0, item.contribution_bp or 0))
    accepted = [item.credits for item in ordered if item.status is UpdateStatus.ACCEPTED]
    assert all(more >= less - 1 for less, more in pairwise(accepted))


@given(st.integers(0, POOL_MAX), st.integers(1, 200))
def test_all_rounds_together_pay_the_pool(pool: int, rounds: int) -> None:
    """Rounding between rounds loses nothing either."""
    terms = replace(TERMS, pool=pool, rounds=rounds)

    total = sum(paid(terms, number, [outcome("a", 5)])["a"] for number in range(1, rounds + 1))

    assert total == pool


def test_credits_go_by_contribution_and_largest_remainder() -> None:
    """10 credits over 300, 200 and 200: shares 4.28, 2.86, 2.86; ties by id; harm pays nothing."""
    terms = replace(TERMS, pool=10, rounds=1)
    items = [outcome("c", 200), outcome("a", 200), outcome("b", 300), outcome("d", -900)]

    assert paid(terms, 1, items) == {"a": 3, "b": 4, "c": 3, "d": 0}
    one_less = replace(terms, pool=9)  # 2.57, 3.86 and 2.57: one credit more for b, then for a
    assert paid(one_less, 1, items) == {"a": 3, "b": 4, "c": 2, "d": 0}


def test_without_any_contribution_all_accepted_are_paid_alike() -> None:
    """None is known, or none is above 0."""
    terms = replace(TERMS, pool=8, rounds=1)

    for bp in (None, 0, -100):
        items = [outcome("a", bp), outcome("b", None), outcome("c", 900, "undecided")]
        assert paid(terms, 1, items) == {"a": 4, "b": 4, "c": 0}


def test_a_contribution_is_the_lower_median_of_those_who_passed() -> None:
    """One verifier's word counts for no more than its place among the others'."""
    verdicts = [
        replace(judge(1, Decision.PASS), contribution_bp=-100),
        replace(judge(2, Decision.PASS), contribution_bp=300),
        replace(judge(3, Decision.PASS), contribution_bp=1_000_000),
        judge(4, Decision.PASS),
        judge(5, Decision.FAIL),
    ]

    assert settle(UPDATE, verdicts, 5).contribution_bp == 300
    assert settle(UPDATE, verdicts, 8).contribution_bp is None  # undecided
    assert contribution(verdicts[3:]) is None


def test_reruns_are_due_of_who_saw_no_fail_in_a_replayed_update() -> None:
    """Passes and abstentions, once a segment is named; of class committed nobody can."""
    named = replace(judge(1, Decision.FAIL), segment=3)
    others = [judge(2, Decision.PASS), judge(3, Decision.ABSTAIN), judge(4, Decision.FAIL)]
    replayed = replace(UPDATE, evidence=Evidence.REPLAYED)

    assert reruns_due(replayed, [named, *others]) == 2
    assert reruns_due(replayed, others) == 0
    assert reruns_due(UPDATE, [named, *others]) == 0
    assert named_segments([named, replace(named, segment=1), *others]) == (1, 3)


@pytest.mark.parametrize(
    ("own", "others", "status", "odd"),
    [
        ("fail", ("pass", "pass"), "accepted", True),
        ("fail", ("pass", "pass", "fail"), "accepted", False),
        ("pass", ("fail", "fail"), "rejected", True),
        ("pass", ("fail", "fail", "pass"), "rejected", False),
        ("pass", ("pass", "pass"), "accepted", False),
        ("abstain", ("pass", "pass"), "accepted", False),
        ("fail", ("pass", "abstain"), "undecided", False),
    ],
)
def test_odd_is_who_stands_alone_on_what_was_decided(
    own: str, others: tuple[str, ...], status: str, odd: bool
) -> None:
    """Two of one mind are not odd, and without a decision nobody is."""
    mine = judge(0, Decision(own))
    verdicts = [mine, *(judge(n, Decision(said)) for n, said in enumerate(others, start=1))]

    assert is_odd(mine, verdicts, UpdateStatus(status)) is odd

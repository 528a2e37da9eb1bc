"""Allowances: evenly refilled, each by itself, and bounded in number."""

import pytest

from node.readers.pace import Pace, TooMany


def taken(pace: Pace, who: str, now_s: float, times: int) -> int:
    """How many of so many requests in one moment are let pass."""
    return sum(pace.take(who, now_s) == 0 for _ in range(times))


def test_a_burst_is_let_pass_and_then_one_by_one() -> None:
    """Ten at once, and after that two a second, however they come."""
    pace = Pace(per_s=2, at_once=10)

    burst = taken(pace, "ada", 100.0, 20)
    later = [taken(pace, "ada", 100.0 + step / 4, 1) for step in range(1, 9)]

    assert burst == 10
    assert sum(later) == 4


def test_whoever_waits_as_told_is_let_pass() -> None:
    """The answer is neither too early nor a moment longer than needed."""
    pace = Pace(per_s=4, at_once=1)
    pace.take("ada", 5.0)

    wait_s = pace.take("ada", 5.0)

    assert wait_s == pytest.approx(0.25)
    assert pace.wait_s("ada", 5.0) == wait_s
    assert pace.take("ada", 5.0 + wait_s) == 0


def test_asking_on_while_refused_costs_nothing_more() -> None:
    """A client that does not wait is not kept out for ever."""
    pace = Pace(per_s=1, at_once=1)
    pace.take("ada", 0.0)

    for _ in range(1_000):
        pace.take("ada", 0.5)

    assert pace.take("ada", 1.0) == 0


def test_one_does_not_use_up_the_other_s_allowance() -> None:
    """Readers are counted each by itself."""
    pace = Pace(per_s=1, at_once=3)
    taken(pace, "ada", 0.0, 9)

    assert taken(pace, "bob", 0.0, 9) == 3


def test_of_too_many_the_one_silent_longest_begins_anew() -> None:
    """Memory is bounded: a flood of strangers makes us forget, and never grow."""
    pace = Pace(per_s=1, at_once=1, asking_max=3)
    for who in ("ada", "bob", "cyd", "dan"):
        pace.take(who, 0.0)

    assert [pace.wait_s(who, 0.0) for who in ("ada", "bob", "cyd", "dan")] == [0, 1, 1, 1]


def test_the_wait_is_told_in_whole_seconds() -> None:
    """Retry-After knows nothing smaller; rounded down, a client would come too early."""
    refused = TooMany(0.2, "expected less"), TooMany(2.1, "expected less")

    assert [item.wait_s for item in refused] == [1, 3]
    assert refused[1].message.endswith("in 3 s")


def test_what_is_charged_makes_nobody_wait_longer_than_that_allows() -> None:
    """A read of an hour would keep its reader out for days; what waits already goes on waiting."""
    pace = Pace(per_s=1, at_once=10)

    pace.charge("ada", 10_000, 0.0, most_s=60)
    pace.charge("bob", 12.5, 0.0, most_s=60)
    pace.charge("cyd", 100, 0.0)
    pace.charge("cyd", 1, 0.0, most_s=60)

    assert (pace.debt_s("ada", 0.0), pace.wait_s("ada", 0.0)) == (60, 61)
    assert (pace.debt_s("bob", 0.0), pace.wait_s("bob", 0.0)) == (2.5, 3.5)
    assert (pace.debt_s("cyd", 0.0), pace.wait_s("cyd", 0.0)) == (90, 91)
    assert (pace.debt_s("dan", 0.0), pace.wait_s("dan", 0.0)) == (0, 0)

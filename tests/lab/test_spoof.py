"""A quick smoke of spoofed proofs on real patients: found as often as the segments that fail."""

from dataclasses import replace

import pytest

from tests.lab.curves import by_cost, by_share
from tests.lab.data import source
from tests.lab.proofs import (
    COST_SHARES,
    COSTS,
    Shown,
    bound,
    cost_table,
    costs,
    grind,
    interval,
    markdown,
    measure,
    show,
)
from tests.lab.spoof import SGD, SPOOFS, Scene, honest, scene, skipped

SHORT = replace(SGD, steps=32)  # eight segments
HALF = Shown(None, frozenset(range(0, 100, 2)), 100, odd=False, steps=200, steps_due=400)
DRAWS = 500


@pytest.fixture(scope="module")
def at() -> Scene:
    """A round of eight segments."""
    return scene(source("opt"), 0, SHORT)


def test_an_honest_trace_is_not_found(at: Scene) -> None:
    """The control: no form fails, no segment fails, and nothing is suspicious."""
    assert show(at, honest(at)) == Shown(None, frozenset(), 8, odd=False, steps=32, steps_due=32)


@pytest.mark.parametrize("name", SPOOFS)
def test_every_spoof_fails_somewhere(at: Scene, name: str) -> None:
    """The attacks: each leaves at least one segment that replay fails."""
    assert show(at, SPOOFS[name](at)).failing


def test_only_what_was_skipped_fails(at: Scene) -> None:
    """The attack: skip two segments, train all others from wherever that leads."""
    shown = show(at, skipped(at, {3, 6}))

    assert shown.failing == {3, 6}
    assert shown.steps == 24


def test_a_verifier_finds_as_often_as_uniform_draws() -> None:
    """Half of 100 segments fail: seven drawn without putting back miss them once in 160 times."""
    made = measure("half", [HALF, HALF], DRAWS)

    assert (made.trials, made.attacker, made.verifier) == (2 * DRAWS, 0.5, 0.07)
    assert made.low < bound(50, 100) == made.theory < made.high
    assert 1 - (1 - 0.5) ** 7 < made.theory


def test_grinding_helps_only_where_the_secret_is_known() -> None:
    """The attack: the primary tries seeds until a known secret's draw misses what was skipped."""
    known, honest_verifier = grind([HALF], 50)

    assert known.caught < 0.2
    assert honest_verifier.caught > 0.9


def test_an_interval_holds_its_share() -> None:
    """Wilson's also says something where everything was found."""
    assert interval(500, 500) == pytest.approx((1, 0.9924, 1), abs=1e-4)
    assert interval(50, 100) == pytest.approx((0.5, 0.4038, 0.5962), abs=1e-4)


def test_the_table_and_the_plot_hold_every_line() -> None:
    """One row and one point of each."""
    lines = [measure(name, [HALF], 10) for name in ("one", "two")]

    assert markdown(lines).count("\n") == 4
    assert by_share(lines).count("<circle") == 2


def test_who_draws_more_finds_more() -> None:
    """Detection over cost, of the same skipped segments, within the bound's reach."""
    found = costs({share: [HALF] for share in COST_SHARES}, DRAWS)
    of_half = [one for one in found if one.skipped == 0.5]

    assert [one.cost for one in of_half] == [drawn / 100 for drawn in COSTS]
    assert of_half[0].low < 0.5 < of_half[0].high
    assert of_half[0].caught < of_half[3].caught < of_half[-1].caught == 1
    assert cost_table(found).count("\n") == 2 + len(COSTS)
    assert by_cost(found).count("<circle") == len(found)

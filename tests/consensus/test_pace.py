"""How fast a primary orders: its minimum, past views, and what never counts against it."""

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.pace import (
    BLOCKS_MIN,
    PAST_VIEWS_MAX,
    PATIENCE_TICKS,
    STARVED_TICKS_MAX,
    WINDOW_TICKS,
    Pace,
)

TICK = "tick"
BLOCK = "block"  # delivered
BUSY = "busy"  # a proposal is under way, or a block is executed
REST = "rest"  # nothing waits any more
TURN = "turn"  # a new view
IDLE = [TICK] * (PATIENCE_TICKS + STARVED_TICKS_MAX)  # starves as long as is allowed
WORK = [BUSY, TICK] * (WINDOW_TICKS - len(IDLE))  # the rest of a window


def live(pace: Pace, steps: Iterable[str]) -> list[bool]:
    """Feed a primary's life; after each step, whether it is slow."""
    feed: dict[str, Callable[[], None]] = {
        TICK: pace.tick,
        BLOCK: pace.delivered,
        BUSY: pace.under_way,
        REST: pace.rest,
        TURN: pace.turn,
    }
    found = []
    for step in steps:
        feed[step]()
        found.append(pace.slow)
    return found


def test_a_small_block_just_before_each_view_timeout_is_slow() -> None:
    """The attack (Aardvark, A4): with a timeout of eight ticks, a block in every eighth tick."""
    pace = Pace()

    verdicts = live(pace, [*[TICK] * 7, BLOCK, TICK] * (WINDOW_TICKS // 8))

    assert verdicts.index(True) == len(verdicts) - 1


def test_the_verdict_falls_at_its_bound() -> None:
    """So many starved ticks in a full window are borne, and one more is not."""
    borne, slow = Pace(), Pace()

    assert not any(live(borne, [*WORK, *IDLE]))
    assert live(slow, [*WORK[2:], *IDLE, TICK])[-1]


def test_a_primary_with_something_under_way_is_not_slow() -> None:
    """Sustained overload: however few blocks come, a primary that works has no better successor."""
    pace = Pace()

    assert not any(live(pace, [BUSY, TICK] * 10 * WINDOW_TICKS))


def test_what_gossip_brings_late_is_not_the_primarys_fault() -> None:
    """The attack: requests are kept from the primary alone until the others send them again."""
    pace = Pace()

    framed = [*[TICK] * (PATIENCE_TICKS + 1), BLOCK, TICK] * 20

    assert not any(live(pace, framed))


def test_isolated_requests_never_add_up() -> None:
    """Each is served within patience; that there were many of them is no fault."""
    pace = Pace()

    assert not any(live(pace, [*[TICK] * PATIENCE_TICKS, BLOCK, REST] * 100))


def test_time_in_which_nothing_waits_is_no_patience_lost() -> None:
    """What waits next has been waiting for no time, whatever waited before."""
    pace = Pace()

    live(pace, [*WORK, *IDLE, REST])

    assert not any(live(pace, [TICK] * PATIENCE_TICKS))


BURSTS = [*[TICK] * 7, *[BLOCK] * 3, TICK] * (WINDOW_TICKS // 8)  # twelve blocks in a window


@pytest.mark.parametrize(("best", "slow"), [(0, False), (24, False), (26, True), (64, True)])
def test_bursts_do_not_hide_long_pauses_once_better_was_seen(best: int, slow: bool) -> None:
    """Enough blocks for the minimum, but below half of what a past primary sustained."""
    pace = Pace()
    live(pace, [*[BLOCK] * best, TICK, TURN])

    assert live(pace, BURSTS)[-1] is slow


def test_the_minimum_alone_holds_where_nothing_better_was_seen() -> None:
    """One block fewer in the window is too few."""
    for blocks, slow in ((BLOCKS_MIN, False), (BLOCKS_MIN - 1, True)):
        pace = Pace()
        live(pace, [BLOCK] * blocks)
        assert live(pace, [TICK, *WORK[4:], *IDLE, TICK])[-1] is slow


def test_a_new_primary_is_judged_afresh() -> None:
    """Nothing of its predecessor's starved time speaks against it."""
    pace = Pace()
    assert live(pace, [TICK] * WINDOW_TICKS)[-1]

    assert live(pace, [TURN]) == [False]
    assert not any(live(pace, [*IDLE, *WORK]))


def test_views_long_past_are_forgotten() -> None:
    """What was sustained then may be out of reach for everyone now."""
    pace = Pace()
    live(pace, [*[BLOCK] * 64, TICK])

    live(pace, [TURN] * PAST_VIEWS_MAX)
    assert live(pace, BURSTS)[-1]
    live(pace, [TURN])
    assert not live(pace, BURSTS)[-1]


steps = st.lists(st.sampled_from((TICK, TICK, TICK, TICK, BLOCK, BUSY, REST, TURN)), max_size=200)


@given(steps)
def test_the_verdict_is_what_the_rule_says(life: list[str]) -> None:
    """Recounted from the whole history, the rule as stated gives the same."""
    pace = Pace()
    live(pace, life)

    ticks: list[tuple[bool, int]] = []
    best, idle, blocks, busy = [0], 0, 0, False
    for step in life:
        match step:
            case "tick":
                idle = 0 if busy else idle + 1
                ticks.append((idle > PATIENCE_TICKS, blocks))
                blocks, busy = 0, False
                best[-1] = max(best[-1], sum(b for _, b in ticks[-WINDOW_TICKS:]))
            case "block":
                blocks, busy = blocks + 1, True
            case "busy":
                busy = True
            case "rest":
                idle, busy = 0, False
            case "turn":
                ticks, idle, blocks, busy = [], 0, 0, False
                best.append(0)
    window = ticks[-WINDOW_TICKS:]
    starved, ordered = sum(s for s, _ in window), sum(b for _, b in window)
    expected = max(BLOCKS_MIN, max(best[-PAST_VIEWS_MAX - 1 :]) // 2)
    full = len(window) == WINDOW_TICKS
    assert pace.slow is (full and starved > STARVED_TICKS_MAX and ordered < expected)


@given(steps, st.integers(1, 3))
def test_more_blocks_never_make_a_primary_slow(life: list[str], more: int) -> None:
    """A verdict of not slow stays one if more was ordered in the same view's ticks."""
    pace, faster = Pace(), Pace()
    view = [step for step in life if step != TURN]

    live(pace, view)
    live(faster, [step for item in view for step in ([BLOCK] * more if item == BLOCK else [item])])

    assert pace.slow or not faster.slow


@pytest.mark.parametrize("life", [[BLOCK, TICK], [BUSY, TICK], [BLOCK], [BUSY]])
def test_memory_is_bounded(life: list[str]) -> None:
    """However long a primary reigns and however many there were."""
    pace = Pace()

    live(pace, [*life, TURN] * 100)
    live(pace, life * 1_000)

    assert len(pace._ticks) <= WINDOW_TICKS
    assert len(pace._best) == PAST_VIEWS_MAX + 1

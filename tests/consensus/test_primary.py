"""Primaries that are alive: slow, unfair, overloaded or idle; whole runs in simulated time."""

import pytest

from consensus.complaints import SLOWNESS
from consensus.event import Limits
from consensus.message import ViewChange
from consensus.pace import WINDOW_TICKS
from node.validator import mempool, runtime
from node.validator.mempool import OMITTED_BLOCKS_MAX
from tests.consensus.traffic import Seat, Traffic, fair, request
from vm.shape import pack

TIMEOUT_MS = Limits().view_timeout_ms
BLOCK = 20  # transactions in a full block of these runs


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are full at a number that a test can afford."""
    monkeypatch.setattr(mempool, "TRANSACTIONS_MAX", BLOCK)
    monkeypatch.setattr(runtime, "PIPELINE_TRANSACTIONS_MIN", 2)


def drag(traffic: Traffic, index: int, every_ms: int, blocks: int = 1) -> None:
    """Have a seat propose, as primary, so many blocks of one transaction each, then pause."""
    left = blocks
    given: set[bytes] = set()

    def policy(seat: Seat) -> tuple[bytes, ...]:
        nonlocal left
        if traffic.now_ms - seat.proposed_ms >= every_ms:
            left = blocks
        fresh = [item for item in seat.pool.oldest(blocks) if item not in given]
        if not (fresh and left):
            return ()
        left -= 1
        given.add(fresh[0])
        return (fresh[0],)

    traffic.seats[index].policy = policy
    traffic.every(10, lambda: traffic.look(traffic.seats[index]))


def unfair(seat: Seat, *victims: bytes) -> None:
    """Have a seat leave out some requests for good, and order all others at once."""
    seat.policy = lambda seat: tuple(item for item in fair(seat) if item not in victims)


@pytest.mark.parametrize("n", [4, 7])
def test_a4_a_primary_just_under_the_timeout_is_voted_out(n: int) -> None:
    """A4 (Aardvark, Spinning): one small block before each view timeout, and the rest waits.

    Its successors keep up, and the one after it is not blamed for the queue that it inherits.
    """
    traffic = Traffic(n)
    drag(traffic, 0, TIMEOUT_MS - 100)
    traffic.flow(200, range(300))

    traffic.run(60_000)
    traffic.run(2_000)

    assert traffic.views == {1}
    assert [len(seat.pool) for seat in traffic.seats] == [0] * n


@pytest.mark.parametrize("seen_better", [False, True])
def test_a_primary_that_bursts_after_pauses_is_held_against_past_views(seen_better: bool) -> None:
    """It keeps to the minimum; it is voted out only where a past primary has done far better."""
    traffic = Traffic()
    if seen_better:
        traffic.flow(50, range(200))
        traffic.run(10_000)
    traffic.seats[0].policy = lambda seat: ()
    drag(traffic, 1, TIMEOUT_MS - 100, blocks=3)
    traffic.flow(100, range(200, 600))

    traffic.run(30_000)  # too short for anything to be omitted

    assert traffic.views == ({2} if seen_better else {1})


def test_requests_kept_from_the_primary_alone_frame_nobody() -> None:
    """The attack: a faulty replica gives them to all others, who pass them on a second later."""
    traffic = Traffic()
    for i in range(60):
        traffic.at(1_500 * i, lambda i=i: traffic.submit(request(i), (1, 2, 3)))  # type: ignore[misc]
        traffic.at(1_500 * i + 1_000, lambda i=i: traffic.submit(request(i), (0,)))  # type: ignore[misc]

    traffic.run(91_000)

    assert traffic.sent[ViewChange] == 0
    assert traffic.heights == [60] * 4


def test_waiting_that_only_f_plus_one_see_votes_nobody_out() -> None:
    """Two of four find the primary slow, all the time; nobody leaves, and all go on ordering."""
    traffic = Traffic()
    traffic.submit(request(1_000), holders=(2, 3))
    traffic.flow(1_900, range(30))

    traffic.run(57_000)

    complaints = [seat.node.replica._pbft.complaints.mine for seat in traffic.seats]
    assert complaints == [(), (), (SLOWNESS,), (SLOWNESS,)]
    assert traffic.sent[ViewChange] == 0
    assert traffic.heights == [30] * 4


def test_a_primary_that_leaves_one_request_out_is_voted_out() -> None:
    """Held by all, passed over by blocks with room; everything else is ordered in time."""
    traffic = Traffic()
    victim = request(1_000)
    unfair(traffic.seats[0], pack(victim))
    traffic.submit(victim)
    traffic.flow(100, range(200))

    traffic.run(100 * (OMITTED_BLOCKS_MAX - 1))
    assert traffic.views == {0}
    traffic.run(1_000)

    assert traffic.views == {1}
    assert all(victim.id not in seat.pool for seat in traffic.seats)
    traffic.run(60_000)
    assert traffic.views == {1}


def test_a_request_that_only_f_plus_one_hold_votes_nobody_out() -> None:
    """The primary may not have it; two of four cannot know."""
    traffic = Traffic()
    traffic.submit(request(1_000), holders=(2, 3))
    traffic.flow(100, range(3 * OMITTED_BLOCKS_MAX))

    traffic.run(100 * 3 * OMITTED_BLOCKS_MAX)

    assert all(seat.pool.omitted(9) for seat in traffic.seats[2:])
    assert traffic.views == {0}
    assert traffic.sent[ViewChange] == 0


def test_sustained_overload_votes_nobody_out() -> None:
    """More than can be executed, then capacity falls to a tenth, and still no view ends.

    Blocks are full, the pipeline is busy, execution takes a second a block and messages ten times
    as long; requests wait for minutes and the pool refuses more.
    """
    traffic = Traffic()
    traffic.execution_ms = 5
    traffic.flow(4, range(15_000))
    traffic.run(20_000)
    before = traffic.heights[0]

    traffic.execution_ms, traffic.delay_ms = 50, 100
    traffic.run(40_000)

    assert traffic.sent[ViewChange] == 0
    assert before > 150
    assert 30 < traffic.heights[0] - before < before / 4
    assert all(len(seat.pool) > 1_000 for seat in traffic.seats)


def test_light_load_on_a_long_line_votes_nobody_out() -> None:
    """Single requests, each almost two seconds in agreement: waiting, but not starved."""
    traffic = Traffic()
    traffic.delay_ms = 600
    traffic.flow(2_500, range(50))

    traffic.run(130_000)

    assert traffic.sent[ViewChange] == 0
    assert traffic.heights == [50] * 4


def test_an_idle_chain_makes_no_blocks_and_no_view_changes_and_wakes_at_once() -> None:
    """An hour without traffic, then one request: ordered in four message delays (A18)."""
    traffic = Traffic()
    traffic.flow(100, range(20))
    traffic.run(5_000)
    height = traffic.heights[0]

    traffic.run(3_600_000)
    assert traffic.heights == [height] * 4
    assert traffic.sent[ViewChange] == 0

    traffic.submit(request(1_000))
    traffic.run(4 * traffic.delay_ms)
    assert traffic.heights == [height + 1] * 4


def test_two_slow_primaries_in_a_row_are_both_voted_out() -> None:
    """Each is judged by its own time, so the second has its chance and loses it."""
    traffic = Traffic()
    drag(traffic, 0, TIMEOUT_MS - 100)
    drag(traffic, 1, TIMEOUT_MS - 100)
    traffic.flow(200, range(400))

    seen = []
    for _ in range(80):
        traffic.run(1_000)
        seen.append(max(traffic.views))
    traffic.run(5_000)

    assert traffic.views == {2}
    assert seen.count(1) >= WINDOW_TICKS * Limits().pace_ms // 1_000
    assert [len(seat.pool) for seat in traffic.seats] == [0] * 4

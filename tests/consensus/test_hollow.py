"""Blocks that change nothing: which count against a primary, and what it gains by them."""

import pytest

from consensus import complaints
from consensus.complaints import (
    HOLLOW_BLOCKS_MAX,
    HOLLOW_WINDOW_BLOCKS,
    HOLLOWNESS,
    SLOWNESS,
    Complaints,
)
from consensus.event import Limits, Pending, Propose, Received
from consensus.message import COMPLAINTS_MAX, Block, BlockReply, Commit, Status, ViewChange
from consensus.window import window_max
from node.validator.runtime import IN_FLIGHT_MAX
from tests.consensus.certificates import committed
from tests.consensus.cluster import Cluster, signed
from tests.consensus.node import HOLLOW, seats
from tests.consensus.traffic import Traffic, fair, request
from vm.block import Payload
from vm.shape import pack

LIMITS = Limits(window=8)


def order(cluster: Cluster, count: int) -> None:
    """Have the primary order so many hollow blocks."""
    for number in range(count):
        cluster.propose(b"%s %d" % (HOLLOW, number))


def views(cluster: Cluster) -> list[int]:
    """The view of each node."""
    return [node.replica.view for node in cluster.nodes]


def judge(cluster: Cluster, index: int = 1) -> Complaints:
    """What a node holds against the primary."""
    return cluster[index].replica._pbft.complaints


def flood(traffic: Traffic, index: int) -> None:
    """Have a seat propose, as primary, blocks without a transaction as fast as it can."""
    seat = traffic.seats[index]

    def push() -> None:
        while seat.node.replica.may_propose:
            traffic.give(seat, Propose(pack(Payload(traffic.now_ms, ()))))

    seat.policy = lambda seat: ()
    traffic.every(1, push)


@pytest.mark.parametrize("n", [4, 7])
def test_a_primary_of_one_hollow_block_too_many_is_left_at_once(n: int) -> None:
    """The attack: nothing waits and no timer runs, and still the view ends."""
    cluster = Cluster(n, LIMITS)

    order(cluster, HOLLOW_BLOCKS_MAX)
    before = views(cluster)
    order(cluster, 1)

    assert (before, views(cluster)) == ([0] * n, [1] * n)
    assert cluster.now_ms == 0


@pytest.mark.parametrize("window", [8, window_max(4)])
def test_a_flood_of_empty_blocks_ends_and_its_heir_is_not_blamed(window: int) -> None:
    """What is under way when the view ends is ordered by the next primary, with requests.

    So the flood has a length that no speed of the flooder changes, and one view change is all.
    """
    traffic = Traffic(limits=Limits(window=window))
    flood(traffic, 0)
    traffic.run(2_000)
    flooded = traffic.heights

    traffic.flow(50, range(100))
    traffic.run(60_000)

    assert traffic.views == {1}
    assert max(flooded) <= HOLLOW_BLOCKS_MAX + 1 + 2 * window
    assert traffic.heights == [flooded[0] + 100] * 4
    assert not any(seat.node.replica._pbft.complaints.mine for seat in traffic.seats)


def test_a_full_window_of_hollow_blocks_is_inherited_without_blame() -> None:
    """The attack: nothing of them commits before the view ends, so the heir orders them all."""
    window = window_max(4)
    cluster = Cluster(4, Limits(window=window))
    cluster.lost = lambda _sender, _receiver, envelope: isinstance(envelope.body, Commit)
    order(cluster, window)

    cluster.lost = lambda _sender, _receiver, envelope: (
        isinstance(envelope.body, Commit) and envelope.body.view == 0
    )
    for index in (1, 2, 3):
        cluster.event(index, Pending(True, (b"x" * 32,)))
    cluster.run()

    assert [len(judge(cluster, i)._hollow) for i in range(4)] == [window] * 4
    assert views(cluster) == [1] * 4
    assert not any(judge(cluster, i).hollow for i in range(4))


def test_a_new_primary_that_floods_is_left_in_its_turn() -> None:
    """Each is judged by the blocks of its own view."""
    traffic = Traffic()
    flood(traffic, 0)
    flood(traffic, 1)

    traffic.run(10_000)

    assert traffic.views == {2}


@pytest.mark.parametrize(("count", "left"), [(IN_FLIGHT_MAX, False), (HOLLOW_BLOCKS_MAX + 1, True)])
def test_repeats_are_hollow_and_a_few_are_nobodys_fault(count: int, left: bool) -> None:
    """An honest primary draws again what the blocks in flight of the last view hold, no more."""
    traffic = Traffic()
    traffic.submit(request(1))
    traffic.run(1_000)
    repeats = [(pack(request(1)),)] * count
    traffic.seats[0].policy = lambda seat: repeats.pop() if repeats else fair(seat)

    traffic.every(10, lambda: traffic.look(traffic.seats[0]))
    traffic.run(10_000)

    hollow = [len(seat.node.replica._pbft.complaints._hollow) for seat in traffic.seats]
    assert traffic.views == {int(left)}
    assert left or hollow == [count] * 4


def test_the_primary_does_not_complain_of_its_own_blocks() -> None:
    """Without a fault it makes few; with one it is not asked."""
    cluster = Cluster(4, LIMITS)
    cluster.lost = lambda _sender, _receiver, envelope: isinstance(envelope.body, Status)

    order(cluster, HOLLOW_BLOCKS_MAX + 1)

    assert judge(cluster, 0).hollow
    assert [judge(cluster, i).mine for i in range(4)] == [(), *[(HOLLOWNESS,)] * 3]


def test_fewer_than_a_quorum_that_were_there_leave_nobody() -> None:
    """A replica that came back sees only the later ones; two of four are no quorum."""
    cluster = Cluster(4, LIMITS)
    order(cluster, 1)
    for index in (2, 3):
        judge(cluster, index).turn()

    order(cluster, HOLLOW_BLOCKS_MAX)

    assert [bool(judge(cluster, i).mine) for i in range(4)] == [False, True, False, False]
    assert views(cluster) == [0] * 4
    assert cluster.sent_by(1, ViewChange) == []


@pytest.mark.parametrize(("between", "hollow"), [(0, True), (1, False)])
def test_hollow_blocks_count_while_they_come_close_together(between: int, hollow: bool) -> None:
    """The bound is on those among the newest blocks of the view; full ones push them out."""
    found = judge(Cluster(4, LIMITS))

    found.executed(hollow=True)
    for _ in range(HOLLOW_WINDOW_BLOCKS - HOLLOW_BLOCKS_MAX - 1 + between):
        found.executed(hollow=False)
    for _ in range(HOLLOW_BLOCKS_MAX):
        assert not found.hollow
        found.executed(hollow=True)

    assert found.hollow is hollow


def test_what_is_counted_is_bounded_and_ends_with_the_view() -> None:
    """However many come: the newest ones are kept, one more than are allowed."""
    found = judge(Cluster(4, LIMITS))
    for _ in range(10 * HOLLOW_WINDOW_BLOCKS):
        found.executed(hollow=True)
    kept = len(found._hollow)

    found.turn()

    assert kept == HOLLOW_BLOCKS_MAX + 1
    assert (len(found._hollow), found._blocks, found.hollow) == (0, 0, False)


def test_hollowness_stays_true_and_leaves_room_for_the_rest() -> None:
    """Said once it stands, as an omission does; never are there more complaints than fit."""
    cluster = Cluster(4, LIMITS)
    cluster.lost = lambda _sender, _receiver, _envelope: True
    found = judge(cluster)
    while not found.pace.slow:
        found.pace.tick()
    for _ in range(HOLLOW_BLOCKS_MAX + 1):
        found.executed(hollow=True)

    cluster.inject(2, 1, Status(0, True, 0, None, (), (SLOWNESS, HOLLOWNESS), False))
    cluster.inject(2, 1, Status(0, True, 0, None, (), (), False))
    omitted = tuple(bytes([number]) * 32 for number in range(COMPLAINTS_MAX))
    cluster.event(1, Pending(True, omitted))

    assert list(found._heard["v02"]) == [HOLLOWNESS]
    assert found.mine == (SLOWNESS, HOLLOWNESS, *omitted)[:COMPLAINTS_MAX]


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single hollow block is one too many."""
    monkeypatch.setattr(complaints, "HOLLOW_BLOCKS_MAX", 0)


@pytest.mark.usefixtures("strict")
def test_blocks_that_lead_to_a_scheduled_epoch_are_not_hollow() -> None:
    """They are wanted: up to its last height the old epoch has no other way to end."""
    cluster = Cluster(4, LIMITS)
    cluster.propose(seats(0, 1, 2, 3))

    order(cluster, LIMITS.window)
    turned = [node.replica.epoch.number for node in cluster.nodes]
    ordered_in = {block.certificate.view for node in cluster.nodes for block, _ in node.disk.store}
    order(cluster, 1)

    assert (turned, ordered_in) == ([1] * 4, {0})
    assert views(cluster) == [1] * 4


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    ("view", "payload", "hollow"),
    [(0, HOLLOW, True), (0, b"", False), (1, HOLLOW, False), (0, b"one", False)],
    ids=["hollow", "null request", "of another view", "not hollow"],
)
def test_the_primary_answers_for_what_it_proposed(view: int, payload: bytes, hollow: bool) -> None:
    """A null request fills a hole that a new view found; other views had other primaries."""
    cluster = Cluster(4, LIMITS)
    cluster.lost = lambda _sender, _receiver, _envelope: True
    block = Block(payload, committed(view, 1, payload))

    cluster.event(1, Received(signed(0, BlockReply(None, (block,)))))

    assert cluster[1].replica.executed == 1
    assert judge(cluster).hollow is hollow


def test_an_idle_chain_has_no_hollow_blocks() -> None:
    """An honest primary without work proposes nothing."""
    traffic = Traffic()
    traffic.submit(request(1))

    traffic.run(600_000)

    assert traffic.heights == [1] * 4
    assert not any(seat.node.replica._pbft.complaints._hollow for seat in traffic.seats)

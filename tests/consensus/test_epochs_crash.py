"""Crashes around the turn of an epoch: no promise is broken, and all come back."""

import pytest

from consensus.event import Pending, Received
from consensus.journal import Said, Section
from consensus.message import (
    Commit,
    Prepare,
    PrePrepare,
    ViewChange,
    is_signed,
    payload_digest,
)
from tests.consensus.certificates import checkpoint
from tests.consensus.cluster import Cluster, signed
from tests.consensus.turning import (
    FIVE,
    LAST,
    WINDOW,
    agreed,
    cluster_of,
    fill,
    numbers,
    signed_once,
    vote,
)


@pytest.mark.parametrize("behind", ["nothing", "store", "journal"])
@pytest.mark.parametrize("height", range(LAST - 1, LAST + 3))
def test_all_crash_around_a_turn_and_come_back(behind: str, height: int) -> None:
    """Before it, in it or after it; with store and journal level, or either of them behind."""
    cluster = cluster_of(5)
    cluster.propose(FIVE)
    fill(cluster, height - 1)
    promised = [node.replica.entries() for node in cluster.nodes]
    for node in cluster.nodes:
        if behind == "store":
            node.sync()
        elif behind == "journal":
            node.flush()
        else:
            node.sync()
            node.flush()

    for i in range(5):
        cluster.kill(i)
    for i in range(5):
        cluster.restart(i)
    cluster.pass_time(10_000)
    fill(cluster, 3, "after")

    assert promised
    assert len(agreed(cluster)) >= height + 3 - (behind == "journal")
    assert len({len(node.payloads) for node in cluster.nodes}) == 1
    assert set(numbers(cluster)) == {1}
    signed_once(cluster)


@pytest.mark.parametrize("kept", range(0, 4_000, 97))
def test_a_crash_at_any_byte_of_the_journal_around_a_turn_breaks_no_promise(kept: int) -> None:
    """The store has lost every block; the journal is cut anywhere behind what was synced."""
    cluster = cluster_of(5)
    cluster.propose(FIVE)
    fill(cluster, WINDOW + 2)
    node = cluster[1]
    node.crash(kept=kept)
    cluster.up[node.name] = False

    cluster.restart(1)
    cluster.pass_time(5_000)
    fill(cluster, 2, "after")

    assert numbers(cluster) == [1] * 5
    assert len(node.payloads) == len(agreed(cluster)) == LAST + 4
    signed_once(cluster)


def restarted_behind_its_journal() -> Cluster:
    """v01's certificate is at 4, its log holds 5 as prepared; its store has to begin anew."""
    cluster = cluster_of(5)
    cluster.propose(FIVE)
    fill(cluster, WINDOW - 1)
    cluster.lost = lambda _s, _r, e: isinstance(e.body, Commit)
    fill(cluster, 1, "last")
    cluster[1].sync()
    cluster.kill(1)
    cluster.lost = lambda _s, _r, _e: True
    cluster.busy.add("v01")
    cluster.restart(1)
    assert (cluster[1].replica.stable or checkpoint(0, bytes(32))).height == LAST - 1
    assert cluster[1].replica.executed == 0
    return cluster


def test_nothing_is_voted_for_where_execution_has_yet_to_tell_who_votes() -> None:
    """Until the blocks are executed again, nobody here knows that the epoch ends at 5."""
    cluster = restarted_behind_its_journal()

    beyond = PrePrepare(0, LAST + 1, payload_digest(b"beyond"))
    cluster.event(1, Received(signed(0, beyond, b"beyond")))

    assert cluster[1].rejected[-1].code == "consensus.out_of_watermarks"
    assert [e for e in cluster.sent_by(1, Prepare) if e.body == vote(beyond)] == []


def test_what_was_prepared_counts_also_before_execution_is_there_again() -> None:
    """The view change after a restart still proves it, or a new view could order other bytes."""
    cluster = restarted_behind_its_journal()
    cluster.event(1, Pending(True))

    cluster.pass_time(2_500)

    change = cluster.sent_by(1, ViewChange)[0].body
    assert isinstance(change, ViewChange)
    assert [certificate.sequence for certificate in change.prepared] == [LAST]


def test_who_lost_its_store_signs_nothing_before_the_epoch_in_which_it_last_voted() -> None:
    """A faulty primary of the past offers it slots whose votes its journal no longer holds."""
    cluster = cluster_of(5)
    cluster.propose(FIVE)
    fill(cluster, WINDOW + 3)
    node = cluster[1]
    node.rotate()
    disk = node.disk
    disk.store.clear()
    disk.certificates.clear()
    disk.stable = disk.stable_durable = None
    disk.durable = 0
    cluster.kill(1)
    cluster.lost = lambda _s, _r, _e: True
    cluster.restart(1)
    assert cluster[1].replica.epoch.number == 0

    other = PrePrepare(0, 1, payload_digest(b"other"))
    cluster.event(1, Received(signed(0, other, b"other")))
    answered = [e for e in cluster.wire if e[0] == "v01" and is_signed(e[2].body)]
    cluster.lost = lambda _s, _r, _e: False
    cluster.pass_time(10_000)
    fill(cluster, 2, "after")

    assert answered == []
    assert cluster[1].replica.voting
    assert len(cluster[1].payloads) == len(agreed(cluster))
    signed_once(cluster)


def test_what_was_promised_in_an_epoch_to_come_waits_in_a_fresh_journal_too() -> None:
    """A journal that is made anew while the chain is fetched again still holds it."""
    cluster = cluster_of(5)
    cluster.propose(FIVE)
    fill(cluster, WINDOW)
    cluster.lost = lambda _s, _r, e: isinstance(e.body, Commit)
    fill(cluster, 1, "open")
    node = cluster[1]
    promised = [e for e in node.replica.entries() if isinstance(e, Said)]
    node.rotate()
    node.disk.store.clear()
    node.disk.certificates.clear()
    node.disk.stable = node.disk.stable_durable = None
    node.disk.durable = 0
    cluster.kill(1)
    cluster.lost = lambda _s, _r, _e: True
    cluster.restart(1)

    node.rotate()
    held = node.entries()
    cluster.kill(1)
    cluster.lost = lambda _s, _r, _e: False
    cluster.restart(1)
    cluster.pass_time(5_000)

    assert promised
    assert set(promised) <= set(held)
    assert held[0] == Section(1)
    assert len(cluster[1].payloads) == len(agreed(cluster)) == LAST + 1
    signed_once(cluster)

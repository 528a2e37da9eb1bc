"""Catching up by blocks: order, bounds and peers that lie."""

from dataclasses import replace

import pytest

from consensus.catchup import BUFFER_BYTES_MAX, CatchUp
from consensus.certificate import Verifier
from consensus.event import Connected, Deliver, Executed, Limits, Pending, Received, Send
from consensus.message import (
    PAYLOAD_BYTES_MAX,
    WINDOW_MAX,
    Block,
    BlockReply,
    BlockRequest,
    PayloadReply,
    PayloadRequest,
    Status,
    payload_digest,
)
from consensus.outbox import Outbox
from consensus.replica import UNEXECUTED_MAX
from consensus.start import History
from tests.consensus.certificates import checkpoint, committed
from tests.consensus.cluster import Cluster, signed
from tests.consensus.node import (
    CHAIN,
    GENESIS_HEADER,
    KEYS,
    LIMITS,
    execute,
    genesis_epoch,
    validator_set,
)


def block(height: int, payload: bytes = b"x") -> Block:
    """A block with a valid certificate."""
    return Block(payload, committed(0, height, payload))


def behind() -> Cluster:
    """v03 hears only what a test injects, and knows that v00 is at height 10."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True
    ahead = Status(0, True, 10, checkpoint(10, b"\1" * 32), (), (), True)
    cluster.inject(0, 3, ahead)
    return cluster


def requests(cluster: Cluster) -> list[tuple[str, int]]:
    """Whom v03 asked for blocks, and from which height on."""
    return [
        (receiver, envelope.body.first)
        for sender, receiver, envelope in cluster.sent
        if sender == "v03" and isinstance(envelope.body, BlockRequest)
    ]


def test_a_replica_behind_a_stable_checkpoint_asks_for_the_blocks_at_once() -> None:
    """Its peers have dropped the votes, so only blocks with certificates help."""
    assert requests(behind()) == [("v00", 1)]


def test_blocks_out_of_order_are_buffered_and_delivered_in_order() -> None:
    """A9 (sawtooth-pbft#166): discarding them stalled the node."""
    cluster = behind()

    cluster.inject(1, 3, BlockReply(None, (block(3), block(2))))
    early = list(cluster[3].payloads)
    cluster.inject(2, 3, BlockReply(None, (block(1),)))

    assert early == []
    assert cluster[3].payloads == [b"x"] * 3


def test_the_next_request_leaves_out_what_is_buffered() -> None:
    """Blocks are carried once."""
    cluster = behind()

    cluster.inject(0, 3, BlockReply(None, (block(1), block(2))))

    assert requests(cluster) == [("v00", 1), ("v00", 3)]


def test_a_block_whose_certificate_is_forged_is_refused() -> None:
    """Too few votes, or votes for other bytes, prove nothing."""
    for bad, code in (
        (Block(b"x", committed(0, 1, b"x", (0, 1))), "certificate.no_quorum"),
        (Block(b"y", committed(0, 1, b"x")), "consensus.payload_mismatch"),
        (
            Block(b"y", replace(committed(0, 1, b"x"), digest=committed(0, 1, b"y").digest)),
            "certificate.bad_signature",
        ),
        (
            Block(b"x", replace(committed(0, 2, b"x"), sequence=1)),
            "certificate.bad_signature",
        ),
    ):
        cluster = behind()

        cluster.inject(0, 3, BlockReply(None, (bad,)))

        assert cluster[3].payloads == []
        assert cluster[3].rejected[0].code == code


def test_a_silent_or_empty_handed_peer_is_left_for_the_next_one() -> None:
    """Claims cost nothing: each status period without progress another peer is asked."""
    cluster = behind()
    cluster.inject(1, 3, Status(0, True, 2**53, None, (), (), True))
    cluster.inject(2, 3, Status(0, True, 10, None, (), (), True))

    cluster.inject(0, 3, BlockReply(None, ()))
    cluster.pass_time(2_000)

    assert [peer for peer, _ in requests(cluster)][:3] == ["v00", "v01", "v02"]


def test_a_peer_that_gave_nothing_is_asked_only_if_nobody_else_is_ahead() -> None:
    """A false height costs its turn once, whatever it claims after that."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True
    lie = Status(0, True, 2**53, None, (), (), True)
    cluster.inject(1, 3, lie)
    cluster.pass_time(500)
    cluster.inject(1, 3, BlockReply(None, ()))
    cluster.inject(0, 3, Status(0, True, 1, None, (), (), True))
    cluster.pass_time(500)
    cluster.inject(0, 3, BlockReply(None, (block(1),)))
    cluster.pass_time(500)

    cluster.inject(0, 3, Status(0, True, 2, None, (), (), True))
    cluster.inject(1, 3, lie)
    cluster.pass_time(500)

    assert requests(cluster) == [("v01", 1), ("v00", 1), ("v00", 2)]


def test_a_false_height_does_not_keep_the_statuses_frequent() -> None:
    """Once its blocks have not come, a claim alone no longer counts as something unfinished."""
    cluster = Cluster()
    cluster.propose(b"one")
    cluster.pass_time(5_000)
    cluster.kill(2)
    lie = Status(0, True, 2**53, cluster[0].replica.stable, (), (), True)
    for i in (0, 1, 3):
        cluster.inject(2, i, lie)
    cluster.pass_time(10_000)
    before = len(cluster.sent_by(0, Status))

    for _ in range(10):
        cluster.pass_time(1_000)
        cluster.inject(2, 0, lie)

    assert len(cluster.sent_by(0, Status)) - before <= 2 * 3 * 3


def test_a_peer_that_gave_nothing_is_believed_again_once_it_gives() -> None:
    """An answer may have been lost: where nobody else is ahead, it is asked at rest."""
    cluster = behind()
    cluster.pass_time(20_000)
    assert {peer for peer, _ in requests(cluster)} == {"v00"}

    cluster.inject(0, 3, BlockReply(None, (block(1),)))

    assert requests(cluster)[-1] == ("v00", 2)


def test_a_peer_that_gives_a_block_at_a_time_does_not_keep_us_behind() -> None:
    """Found in review: what it gave counted as progress, and so nobody else was asked again."""
    cluster = behind()
    for honest in (1, 2):
        cluster.inject(honest, 3, Status(0, True, 10, None, (), (), True))

    asked = []
    for height in range(1, 4):
        peer, first = requests(cluster)[-1]
        asked.append(peer)
        assert first == height
        cluster.pass_time(400)
        cluster.inject(int(peer[1:]), 3, BlockReply(None, (block(height),)))

    assert asked == ["v00", "v01", "v02"]


def test_the_same_blocks_are_given_once_in_a_status_period() -> None:
    """A request of a hundred bytes may bring megabytes, so repeating it brings nothing."""
    cluster = Cluster()
    cluster.propose(b"one", b"two")
    cluster.lost = lambda _s, _r, _e: True
    before = len(cluster.sent)

    for first in (1, 1, 2, 1):
        cluster.inject(3, 0, BlockRequest(first))
    once = [r for _, r, e in cluster.sent[before:] if isinstance(e.body, BlockReply)]
    cluster.inject(2, 0, BlockRequest(1))
    cluster.pass_time(5_000)
    cluster.inject(3, 0, BlockRequest(1))

    replies = [r for _, r, e in cluster.sent[before:] if isinstance(e.body, BlockReply)]
    assert once == ["v03"]
    assert replies == ["v03", "v02", "v03"]


def test_the_same_payload_is_given_once_in_a_status_period() -> None:
    """The same for a payload by its digest."""
    cluster = Cluster()
    cluster.lost = lambda _s, _r, _e: True
    cluster.propose(b"one")
    digest = payload_digest(b"one")

    for receiver in (2, 2, 3, 2):
        cluster.inject(receiver, 0, PayloadRequest(digest))
    once = [r for _, r, e in cluster.sent if isinstance(e.body, PayloadReply)]
    cluster.pass_time(500)
    cluster.inject(2, 0, PayloadRequest(digest))

    replies = [r for _, r, e in cluster.sent if isinstance(e.body, PayloadReply)]
    assert once == ["v02", "v03"]
    assert replies == ["v02", "v03", "v02"]


def test_a_reply_holds_no_more_payload_than_one_full_block() -> None:
    """The envelope stays within its bound whatever the blocks weigh."""
    cluster = Cluster()
    cluster.propose(b"1" * (PAYLOAD_BYTES_MAX // 2), b"2" * (PAYLOAD_BYTES_MAX // 2), b"3")

    cluster.inject(3, 0, BlockRequest(1))
    cluster.inject(3, 0, BlockRequest(3))
    cluster.inject(3, 0, BlockRequest(4))

    replies = [e.body for _, _, e in cluster.sent if isinstance(e.body, BlockReply)]
    assert [len(reply.blocks) for reply in replies] == [2, 1, 0]


@pytest.mark.parametrize("first", [0, 2**53])
def test_a_request_out_of_range_is_answered_with_nothing(first: int) -> None:
    """Heights that do not exist are no way to make a replica work."""
    cluster = Cluster()
    cluster.propose(b"one")

    cluster.inject(3, 0, BlockRequest(first))

    replies = [e.body for _, _, e in cluster.sent if isinstance(e.body, BlockReply)]
    assert replies == [BlockReply(None, ())]


def test_one_step_delivers_a_bounded_number_of_blocks() -> None:
    """The rest follows as the shell executes, so that messages and timers get their turn."""
    cluster = Cluster(limits=Limits(window=WINDOW_MAX))
    count = 3 * UNEXECUTED_MAX
    reply = signed(0, BlockReply(None, tuple(block(height) for height in range(1, count + 1))))

    effects = cluster[3].step(Received(reply))
    delivered = [effect.sequence for effect in effects if isinstance(effect, Deliver)]
    first = cluster[3].step(Executed(1, execute(GENESIS_HEADER, 1, b"x"), None))
    next_one = [effect.sequence for effect in first if isinstance(effect, Deliver)]

    assert delivered == list(range(1, UNEXECUTED_MAX + 1))
    assert next_one == [UNEXECUTED_MAX + 1]
    assert len(cluster[3].replica._unexecuted) == UNEXECUTED_MAX


def test_blocks_are_delivered_no_further_than_their_validators_are_known() -> None:
    """A block that waits for execution may change who decides a window later."""
    cluster = Cluster()
    reply = signed(0, BlockReply(None, tuple(block(height) for height in range(1, 13))))

    effects = cluster[3].step(Received(reply))

    delivered = [effect.sequence for effect in effects if isinstance(effect, Deliver)]
    assert delivered == list(range(1, 9))  # the window is 8


def test_blocks_beyond_one_step_are_all_executed_in_the_end() -> None:
    """Each executed block makes room for the next."""
    cluster = Cluster(limits=Limits(window=WINDOW_MAX))
    count = 3 * UNEXECUTED_MAX

    reply = BlockReply(None, tuple(block(height) for height in range(1, count + 1)))
    cluster.inject(0, 3, reply)

    assert cluster[3].payloads == [b"x"] * count


def test_the_buffer_holds_a_bounded_number_of_blocks_and_bytes() -> None:
    """What does not fit is dropped, and asked for when its turn comes."""
    epoch = genesis_epoch(validator_set(4))
    verifier = Verifier(CHAIN, epoch)
    history = History(lambda _first, _last: (), lambda _at_most: None, lambda _height: epoch)
    catch_up = CatchUp(Outbox(CHAIN, "v03", 0, KEYS[3].sign), history, WINDOW_MAX)

    def receive(*blocks: Block) -> None:
        catch_up.on_block_reply("v00", BlockReply(None, blocks), 0, WINDOW_MAX, verifier)

    receive(*(block(height) for height in range(2, WINDOW_MAX + 10)))
    assert catch_up.take(WINDOW_MAX) is not None
    assert catch_up.take(WINDOW_MAX + 1) is None

    catch_up.forget(WINDOW_MAX)
    large = b"x" * PAYLOAD_BYTES_MAX
    fitting = BUFFER_BYTES_MAX // PAYLOAD_BYTES_MAX
    for height in range(2, fitting + 3):
        receive(block(height, large))
    assert catch_up.take(fitting + 1) is not None
    assert catch_up.take(fitting + 2) is None


def test_a_reconnected_peer_is_told_where_we_stand() -> None:
    """Both sides then send what the other lacks."""
    cluster = Cluster()
    cluster.kill(3)
    cluster.propose(b"one")

    cluster.restart(3)
    (effect,) = cluster[3].step(Connected("v00"))

    assert isinstance(effect, Send)
    assert isinstance(effect.envelope.body, Status)
    assert cluster[3].payloads == [b"one"]


def test_a_block_caught_up_with_restarts_the_view_timer() -> None:
    """Any delivery is progress, however it came: the primary is given its whole time again."""
    cluster = behind()
    cluster.event(3, Pending(True))
    late = LIMITS.view_timeout_ms - 1

    for height in (1, 2, 3):
        cluster.pass_time(late)
        cluster.inject(1, 3, BlockReply(None, (block(height),)))
        assert cluster[3].replica.active

    cluster.pass_time(late)
    assert cluster[3].replica.active
    cluster.pass_time(1)
    assert not cluster[3].replica.active

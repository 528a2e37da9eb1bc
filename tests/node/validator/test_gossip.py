"""Gossip between validators: bounded batches, hostile ones dropped, what waits long sent again."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.api.admission import SUBMIT_MAX
from node.validator.gossip import BATCH_BYTES_MAX, RESEND_BYTES_MAX, RESEND_MAX, Gossip
from node.validator.intake import Intake
from node.validator.mempool import Mempool
from tests.harness import as_read
from tests.node.network import Network, open_network
from vm.encoding import MESSAGE_BYTES_MAX, Value, decode, encode
from vm.record import Role
from vm.registry import EnrolMember
from vm.shape import pack
from vm.transaction import BODY_BYTES_MAX, Intent, Transaction


class Peer:
    """A validator's gossip, and what it broadcast."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.pool = Mempool()
        self.sent: list[bytes] = []
        intake = Intake(network.chain, self.pool, folder, lambda: None)
        self.gossip = Gossip(intake, self.pool, self.sent.append)

    def receive(self, data: bytes) -> int:
        """Take in a message of another validator; how many transactions wait then."""
        asyncio.run(self.gossip.receive("hospital-2.validator", data))
        return len(self.pool)

    def enrol(self, number: int) -> bytes:
        """A good transaction."""
        body = EnrolMember(f"m{number}", Role.AUDITOR, number.to_bytes(32, "big"), None)
        return pack(self.network.sign("hospital-1.admin", "member.enrol", body))

    def wait(self, number: int) -> bytes:
        """Put a transaction into the pool as if it had been admitted."""
        packed = waiting(number)
        assert self.pool.admit(as_read(packed), 1)
        return pack(packed)

    def batches(self) -> list[tuple[Value, ...]]:
        """What was broadcast since the last call, decoded."""
        found = [decode(data) for data in self.sent]
        self.sent.clear()
        assert all(isinstance(batch, tuple) for batch in found)
        return [batch for batch in found if isinstance(batch, tuple)]


def waiting(number: int, body_bytes: int = 1) -> Transaction:
    """A transaction that nobody verifies."""
    nonce = number.to_bytes(16, "big")
    return Transaction(
        Intent(bytes(32), "k", "s", bytes(32), bytes(body_bytes), 9, nonce), bytes(64)
    )


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    """A validator at genesis."""
    with open_network(tmp_path) as network:
        yield Peer(network, tmp_path)


def test_what_one_forwards_another_takes_in(peer: Peer, tmp_path: Path) -> None:
    """A client's transactions reach every validator in the client's order."""
    items = [peer.enrol(number) for number in range(3)]

    peer.gossip.forward(items)

    (data,) = peer.sent
    assert peer.receive(data) == 3
    assert peer.pool.oldest(9) == tuple(items)


def test_nothing_is_sent_for_nothing(peer: Peer) -> None:
    """An empty request makes no message."""
    peer.gossip.forward([])

    assert peer.sent == []


def test_batches_keep_to_their_number(peer: Peer) -> None:
    """A hundred transactions are one message, one more makes a second."""
    items = [pack(waiting(number)) for number in range(SUBMIT_MAX + 1)]

    peer.gossip.forward(items[:SUBMIT_MAX])
    assert peer.batches() == [tuple(items[:SUBMIT_MAX])]
    peer.gossip.forward(items)
    assert peer.batches() == [tuple(items[:SUBMIT_MAX]), tuple(items[SUBMIT_MAX:])]


def test_batches_keep_to_their_bytes(peer: Peer) -> None:
    """Large transactions are parted so that every message can be framed and read."""
    items = [bytes(BODY_BYTES_MAX) for _ in range(SUBMIT_MAX)]

    peer.gossip.forward(items)

    assert all(len(data) <= MESSAGE_BYTES_MAX for data in peer.sent)
    batches = peer.batches()
    assert [item for batch in batches for item in batch] == items
    assert all(sum(map(len, items[: len(batch)])) <= BATCH_BYTES_MAX for batch in batches)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91",
        encode(None),
        encode(7),
        encode(b"transaction"),
        encode(()),
        encode((7,)),
        encode(("text",)),
        encode((None, b"x")),
        encode(((b"nested",),)),
        encode((b"x",) * (SUBMIT_MAX + 1)),
        encode((b"x",)) + b"\x00",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 10_000,
        bytes(MESSAGE_BYTES_MAX + 1),
    ],
    ids=lambda data: f"{len(data)} bytes {data[:4].hex()}",
)
def test_a_hostile_batch_is_dropped_whole(
    peer: Peer, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No list, too many, other things than bytes, bombs: none reaches the intake."""

    def never(*arguments: object) -> None:
        raise AssertionError("the intake was asked")

    monkeypatch.setattr(Intake, "submit", never)

    assert peer.receive(data) == 0


def test_good_items_beside_bad_ones_of_a_sound_batch_are_taken(peer: Peer) -> None:
    """Each is judged as a client's is: a validator's word for a signature counts nothing."""
    good = peer.enrol(1)
    forged = bytearray(peer.enrol(2))
    forged[-1] ^= 1

    assert peer.receive(encode((b"junk", bytes(forged), good))) == 1
    assert peer.pool.oldest(9) == (good,)


def test_what_is_received_is_not_sent_on(peer: Peer) -> None:
    """Each validator sends what its own clients brought, so messages do not multiply."""
    peer.receive(encode((peer.enrol(1),)))

    assert peer.sent == []


def test_what_still_waits_a_turn_later_is_sent_again(peer: Peer) -> None:
    """New arrivals wait one turn; what was executed meanwhile is not sent."""
    first, second = peer.wait(1), peer.wait(2)
    peer.gossip.resend()
    at_once = peer.batches()

    third = peer.wait(3)
    peer.pool.remove([waiting(2).id])
    peer.gossip.resend()
    turn_later = peer.batches()
    peer.gossip.resend()

    assert second not in peer.pool.oldest(9)
    assert (at_once, turn_later, peer.batches()) == ([], [(first,)], [(first, third)])


def test_a_resend_is_bounded(peer: Peer) -> None:
    """Only the oldest of a full pool are sent again."""
    items = [peer.wait(number) for number in range(RESEND_MAX + 1)]
    peer.gossip.resend()

    peer.gossip.resend()

    assert [item for batch in peer.batches() for item in batch] == items[:RESEND_MAX]


def test_a_resend_is_bounded_in_bytes(peer: Peer) -> None:
    """Large transactions that wait do not fill the wire every second."""
    for number in range(RESEND_MAX):
        item = waiting(number, BODY_BYTES_MAX)
        assert peer.pool.admit(as_read(item), 1)
    peer.gossip.resend()

    peer.gossip.resend()

    again = [len(item) for batch in peer.batches() for item in batch if isinstance(item, bytes)]
    assert again
    assert RESEND_BYTES_MAX - again[0] < sum(again) <= RESEND_BYTES_MAX

"""Catching up: blocks with commit certificates from peers that are ahead."""

from collections import Counter
from itertools import islice

from consensus.certificate import Verifier
from consensus.message import (
    PAYLOAD_BYTES_MAX,
    VOTE_BYTES_MAX,
    Block,
    BlockReply,
    BlockRequest,
    payload_digest,
)
from consensus.outbox import Outbox
from consensus.start import History
from vm.quorum import VALIDATORS_MAX
from vm.refusal import Refused

BUFFER_BYTES_MAX = 16 * 1024 * 1024  # of payloads that wait for an earlier block: a few replies
GIVEN_BYTES_MAX = 4 * PAYLOAD_BYTES_MAX  # to one peer in a status period, and a reply at most
GIVEN_TO_ALL_BYTES_MAX = 16 * PAYLOAD_BYTES_MAX  # likewise, however many ask: all are read at once
OWED_MAX = 4  # peers that got nothing, for whom room is kept in the next period
OWED_BYTES = 2 * PAYLOAD_BYTES_MAX  # kept for each: more than a reply takes with its certificates
CERTIFICATE_BYTES_MAX = VALIDATORS_MAX * VOTE_BYTES_MAX
PEERS_MAX = 2 * VALIDATORS_MAX  # whose heights are known; those without a seat among them
TICKS_MAX = 2  # status periods until another peer is asked


class CatchUp:
    """Which peers are ahead, what was asked of whom, and blocks that came before their turn."""

    def __init__(self, outbox: Outbox, history: History, window: int) -> None:
        self._outbox = outbox
        self._history = history
        self._window = window
        self._heights: dict[str, int] = {}  # by peer: executed height of its newest status
        self._buffer: dict[int, Block] = {}
        self._bytes = 0
        self._given: dict[str, int] = {}  # by peer: up to which height in this status period
        self._spent: Counter[str] = Counter()  # by peer: bytes of payload in this status period
        self._refused: dict[str, None] = {}  # got nothing in this period, as others had it all
        self._owed: set[str] = set()  # those refused first in the period before
        self._doubted: set[str] = set()  # peers that claimed more than we have, and gave nothing
        self._last = ""  # the peer asked last
        self._first = 0  # the height that it was asked for
        self._waiting = False  # for the answer of that peer
        self._more = False  # it has answered, and there was something in it
        self._ticks = 0  # status periods since we asked
        self._delivered = 0  # at the last status period

    def heard(self, peer: str, executed: int) -> None:
        """Note how far a peer has come; of too many the one not heard for longest is dropped."""
        self._heights.pop(peer, None)
        self._heights[peer] = executed
        if len(self._heights) > PEERS_MAX:
            dropped = next(iter(self._heights))
            del self._heights[dropped]
            self._doubted.discard(dropped)

    def behind(self, delivered: int) -> bool:
        """Whether a peer whose word is good claims more than we have."""
        return any(peer not in self._doubted for peer in self._ahead(delivered))

    def on_block_request(self, sender: str, body: BlockRequest, executed: int) -> None:
        """Give blocks from the store, as many as fit one reply; perhaps none.

        Beyond a window the peer does not know who may decide, so it gets no more. The same ones are
        given once in a status period: requests are small and replies are not. Who has had its
        share, or comes when all is given, is given more in the next one.
        """
        first = body.first
        if first <= self._given.get(sender, -1) or not self._has_share(sender):
            return
        if not 1 <= first <= executed + 1:
            self._outbox.send(sender, BlockReply(None, ()))
            return
        found: list[Block] = []
        room = PAYLOAD_BYTES_MAX
        last = min(first - 1 + self._window, executed)
        for block in self._history.blocks(first, self._within(first, last)):
            room -= len(block.payload)
            if room < 0:
                break
            found.append(block)
            self._given[sender] = block.certificate.sequence
            self._spent[sender] += CERTIFICATE_BYTES_MAX + len(block.payload)
        stable = self._history.certificate(self._within(first - 1, last))
        self._spent[sender] += CERTIFICATE_BYTES_MAX
        self._outbox.send(sender, BlockReply(stable, tuple(found)))

    def _has_share(self, sender: str) -> bool:
        """Whether there is more for a peer now; who got nothing comes first in the next period."""
        self._owed.discard(sender)
        left = GIVEN_TO_ALL_BYTES_MAX - self._spent.total() - len(self._owed) * OWED_BYTES
        if left <= 0 and not self._spent[sender]:
            self._refused[sender] = None
        return left > 0 and self._spent[sender] < GIVEN_BYTES_MAX

    def on_block_reply(
        self, sender: str, body: BlockReply, delivered: int, reach: int, verifier: Verifier
    ) -> None:
        """Keep valid blocks until their turn; raises `Refused` at the first bad one.

        `verifier` knows who decides up to `reach`; blocks above are dropped, and asked for later.
        """
        useful = 0
        for block in body.blocks:
            sequence = block.certificate.sequence
            if not delivered < sequence <= reach:
                continue
            if sequence not in self._buffer:
                self._verify(block, verifier)
                self._keep(block, delivered)
            useful += 1
        if sender == self._last and self._waiting:
            self._waiting, self._more = False, useful > 0
            self._judge(sender, body)

    def take(self, sequence: int) -> Block | None:
        """The buffered block whose turn has come."""
        block = self._buffer.pop(sequence, None)
        if block is not None:
            self._bytes -= len(block.payload)
        return block

    def forget(self, delivered: int) -> None:
        """Drop blocks that were delivered by other means."""
        for sequence in [n for n in self._buffer if n <= delivered]:
            self.take(sequence)

    def ask(self, peer: str, delivered: int) -> None:
        """Ask a peer for the first blocks that we lack, unless one has yet to answer."""
        if peer not in self._doubted:
            self._ask(peer, delivered)

    def go_on(self, delivered: int) -> None:
        """There was something: ask for more, and the next peer, so that none sets the pace alone.

        Else one that gives a block at a time would keep us behind for ever.
        """
        if self._more:
            self._more = False
            ahead = self._ahead(self._missing(delivered) - 1)
            self._ask_next([peer for peer in ahead if peer not in self._doubted], delivered)

    def tick(self, delivered: int) -> None:
        """At each status period without progress: ask the next peer that is ahead.

        Those that gave nothing when asked have their turn only if nobody else is ahead: an honest
        one's answer may have been lost.
        """
        self._given.clear()
        self._spent.clear()
        self._owed = set(islice(self._refused, OWED_MAX))
        self._refused.clear()
        self._ticks += 1
        progress, self._delivered = delivered > self._delivered, delivered
        if progress or (self._waiting and self._ticks < TICKS_MAX):
            return
        if self._waiting:
            self._doubted.add(self._last)
            self._waiting = False
        ahead = self._ahead(delivered)
        peers = [peer for peer in ahead if peer not in self._doubted] or ahead
        self._ask_next(peers, delivered)

    def _ask_next(self, peers: list[str], delivered: int) -> None:
        """Ask the one of these that comes after the one asked last."""
        if peers:
            self._ask(next((peer for peer in peers if peer > self._last), peers[0]), delivered)

    def _ask(self, peer: str, delivered: int) -> None:
        first = self._missing(delivered)
        if self._waiting or self._heights.get(peer, 0) < first:
            return
        self._last, self._first, self._ticks = peer, first, 0
        self._waiting, self._more = True, False
        self._outbox.send(peer, BlockRequest(first))

    def _missing(self, delivered: int) -> int:
        """The first height of which no block is here."""
        first = delivered + 1
        while first in self._buffer:
            first += 1
        return first

    def _ahead(self, delivered: int) -> list[str]:
        return sorted(peer for peer, height in self._heights.items() if height > delivered)

    def _judge(self, sender: str, body: BlockReply) -> None:
        """Doubt the heights of a peer that did not begin with the block that it was asked for."""
        if self._more:
            self._doubted.discard(sender)
        elif not body.blocks or body.blocks[0].certificate.sequence != self._first:
            self._doubted.add(sender)

    def _within(self, height: int, last: int) -> int:
        """The highest of the heights from `height` to `last` that are in the same epoch."""
        number = self._history.epoch(height).number
        while last > height and (later := self._history.epoch(last)).number != number:
            last = later.first - 1
        return last

    def _verify(self, block: Block, verifier: Verifier) -> None:
        if payload_digest(block.payload) != block.certificate.digest:
            raise Refused("consensus.payload_mismatch", "expected the payload of the certificate")
        verifier.committed(block.certificate)

    def _keep(self, block: Block, delivered: int) -> None:
        """Buffer within the bounds; what does not fit is asked for again."""
        fits = self._bytes + len(block.payload) <= BUFFER_BYTES_MAX
        if fits or block.certificate.sequence == delivered + 1:
            self._buffer[block.certificate.sequence] = block
            self._bytes += len(block.payload)

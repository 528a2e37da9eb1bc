"""Catching up: blocks with commit certificates from peers that are ahead."""

from consensus.message import BLOCKS_MAX, Block, BlockRequest
from consensus.outbox import Outbox

BUFFER_BLOCKS_MAX = 2 * BLOCKS_MAX  # blocks that wait for an earlier one
BUFFER_BYTES_MAX = 16 * 1024 * 1024  # of their payloads: a few full replies
TICKS_MAX = 2  # status periods until another peer is asked


class CatchUp:
    """Which peers are ahead, what was asked of whom, and blocks that came before their turn."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._heights: dict[str, int] = {}  # by peer: executed height of its newest status
        self._buffer: dict[int, Block] = {}
        self._bytes = 0
        self._last = ""  # the peer asked last
        self._waiting = False  # for the answer of that peer
        self._more = False  # it has answered, and there was something in it
        self._ticks = 0  # status periods since we asked
        self._delivered = 0  # at the last status period

    def heard(self, peer: str, executed: int) -> None:
        """Note how far a peer has come."""
        self._heights[peer] = executed

    def behind(self, delivered: int) -> bool:
        """Whether a peer claims more than we have."""
        return any(height > delivered for height in self._heights.values())

    def offer(self, block: Block, delivered: int) -> None:
        """Keep a verified block until its turn; beyond the bounds it is dropped and asked again."""
        sequence = block.certificate.sequence
        if not delivered < sequence <= delivered + BUFFER_BLOCKS_MAX or sequence in self._buffer:
            return
        fits = self._bytes + len(block.payload) <= BUFFER_BYTES_MAX
        if fits or sequence == delivered + 1:
            self._buffer[sequence] = block
            self._bytes += len(block.payload)

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
        if self._waiting or self._heights.get(peer, 0) <= delivered:
            return
        first = delivered + 1
        while first in self._buffer:
            first += 1
        self._last, self._waiting, self._more, self._ticks = peer, True, False, 0
        self._outbox.send(peer, BlockRequest(first))

    def answered(self, peer: str, blocks: int) -> None:
        """Note a reply; a peer that gave blocks is asked for more by `go_on`."""
        if peer == self._last and self._waiting:
            self._waiting, self._more = False, blocks > 0

    def go_on(self, delivered: int) -> None:
        """Ask for more where there was something."""
        if self._more:
            self._more = False
            self.ask(self._last, delivered)

    def tick(self, delivered: int) -> None:
        """At each status period without progress: ask the next peer that is ahead."""
        self._ticks += 1
        progress, self._delivered = delivered > self._delivered, delivered
        if progress or (self._waiting and self._ticks < TICKS_MAX):
            return
        self._waiting = False
        peers = sorted(peer for peer, height in self._heights.items() if height > delivered)
        if peers:
            self.ask(next((peer for peer in peers if peer > self._last), peers[0]), delivered)

"""State sync as a pure core: which snapshot to take, whom to ask for what, whom to drop.

Replies and the passing of time go in, effects come out; the shell in `node.validator.sync` carries
requests to peers and keeps what is given. Nothing is kept that was not verified against a header
under a certificate of the validators that rule its height. A peer whose answer does not verify is
dropped, and named with what was wrong. There is no time in which all of it must be done
(cometbft/cometbft#742): as long as something comes, it goes on, and after a crash it goes on from
what was kept.

The path space is parted into gaps, each asked of another peer. A peer has one request at a time. A
peer without anything else to do also asks for what another has had for long.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, TypeAlias

from vm import tree
from vm.block import TRANSACTIONS_MAX, Header, Receipt, receipts_root
from vm.certificate import CheckpointCertificate
from vm.inclusion import CertifiedHeader, verify_header
from vm.quorum import Epoch
from vm.range import FIRST_PATH, LAST_PATH, RangeLeaf, StateRange, next_path, verify_range
from vm.refusal import Refused
from vm.shape import Digest, Height, Many
from vm.sparse import DEPTH_MAX
from vm.succession import Step
from vm.transaction import TX_LIFETIME_BLOCKS_MAX

OFFERED_MAX = 2  # snapshots that one peer has
GAPS_MAX = 16  # parts of the path space that are open at a time
AHEAD_BLOCKS_MAX = 8_192  # that are fetched block by block; past that a snapshot is quicker
CHOICE_TICKS = 5  # until a snapshot is taken that fewer peers have than we would like
SILENT_TICKS = 15  # without a byte until a request is given to somebody else
SPARE_TICKS = 10  # until what one peer has been asked for is asked of an idle one as well
REST_TICKS = 5  # after a failure, until a peer is asked again
STALLED_TICKS = 60  # in which nothing of a snapshot comes that verifies, until another is tried
RECEIPTS_BYTES_MAX = 4 * 1024 * 1024  # of one part of the replay window
STEPS_MAX = 64  # of one answer
STEPS_BYTES_MAX = 2 * 1024 * 1024  # a set of 64 seats and their votes take about 20 KiB
SNAPSHOT_BYTES_MAX = 1024 * 1024  # about 340 bytes for each of its headers


@dataclass(frozen=True, slots=True)
class Offer:
    """What a peer has: snapshots, the newest certified height, and its first block."""

    VERSION: ClassVar[int] = 1

    snapshots: Annotated[tuple[Height, ...], Many(OFFERED_MAX)]
    newest: Height
    first: Height


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot stands on: the headers of its replay window, its own last, certified.

    `frontier` is the history of all headers before them.
    """

    VERSION: ClassVar[int] = 1

    certificate: CheckpointCertificate
    frontier: tree.Frontier
    headers: Annotated[tuple[Header, ...], Many(TX_LIFETIME_BLOCKS_MAX, 1)]

    @property
    def header(self) -> Header:
        """The header whose state it is."""
        return self.headers[-1]

    @property
    def first(self) -> int:
        """The first height of the replay window."""
        return self.headers[0].height


@dataclass(frozen=True, slots=True)
class BlockReceipts:
    """The receipts of one block."""

    VERSION: ClassVar[int] = 1

    receipts: Annotated[tuple[Receipt, ...], Many(TRANSACTIONS_MAX)]


@dataclass(frozen=True, slots=True)
class WindowPart:
    """The receipts of consecutive blocks of a replay window."""

    VERSION: ClassVar[int] = 1

    blocks: Annotated[tuple[BlockReceipts, ...], Many(TX_LIFETIME_BLOCKS_MAX, 1)]


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps from one epoch to the next, in order; none if the peer knows of no more."""

    VERSION: ClassVar[int] = 1

    steps: Annotated[tuple[Step, ...], Many(STEPS_MAX)]


@dataclass(frozen=True, slots=True)
class Gap:
    """Paths whose leaves are not here yet, both ends included."""

    VERSION: ClassVar[int] = 1

    start: Digest
    stop: Digest


@dataclass(frozen=True, slots=True)
class Missing:
    """What of a snapshot is not here yet: gaps, and receipts from a height on."""

    VERSION: ClassVar[int] = 1

    gaps: Annotated[tuple[Gap, ...], Many(GAPS_MAX)]
    receipts: Height

    def empty(self, height: int) -> bool:
        """Whether all of the snapshot at `height` is here."""
        return not self.gaps and self.receipts > height

    @property
    def per_mille(self) -> int:
        """How much of the path space is missing, in thousandths: keys are spread over it evenly."""
        wide = (int.from_bytes(g.stop, "big") - int.from_bytes(g.start, "big") for g in self.gaps)
        return sum(wide) * 1_000 >> DEPTH_MAX


# Requests: what one peer is asked for


@dataclass(frozen=True, slots=True)
class AskOffer:
    """What a peer has."""


@dataclass(frozen=True, slots=True)
class AskSnapshot:
    """What the snapshot at this height stands on."""

    height: int


@dataclass(frozen=True, slots=True)
class AskRange:
    """The leaves of a gap, from its start on."""

    height: int
    gap: Gap


@dataclass(frozen=True, slots=True)
class AskReceipts:
    """Receipts of the replay window, from the block `first` on."""

    height: int
    first: int


Request: TypeAlias = AskOffer | AskSnapshot | AskRange | AskReceipts
Reply: TypeAlias = Offer | Snapshot | StateRange | WindowPart


# Effects


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a request to a peer; any earlier one to it is given up."""

    peer: str
    request: Request


@dataclass(frozen=True, slots=True)
class Drop:
    """A peer's answer did not verify: it is asked no more."""

    peer: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Begin:
    """Keep this snapshot's foundation, and forget what was kept of any other."""

    snapshot: Snapshot
    missing: Missing


@dataclass(frozen=True, slots=True)
class KeepLeaves:
    """Keep verified leaves, and what is missing now, at once."""

    leaves: tuple[RangeLeaf, ...]
    missing: Missing


@dataclass(frozen=True, slots=True)
class KeepReceipts:
    """Keep the verified receipts of the blocks from `first` on, and what is missing now."""

    first: int
    part: WindowPart
    missing: Missing


@dataclass(frozen=True, slots=True)
class Complete:
    """All of the snapshot is here: install it."""


Effect: TypeAlias = Ask | Drop | Begin | KeepLeaves | KeepReceipts | Complete


def left_behind(executed: int, offers: Sequence[Offer], enough: int) -> bool:
    """Whether `enough` peers cannot give the block after `executed`, or only with many others.

    Their word alone installs nothing: it only makes us look for a snapshot.
    """
    ahead = [offer for offer in offers if any(height > executed for height in offer.snapshots)]
    gone = sum(offer.first > executed + 1 for offer in ahead)
    far = sum(offer.newest > executed + AHEAD_BLOCKS_MAX for offer in ahead)
    return gone >= enough or far >= enough


def verify_snapshot(
    snapshot: Snapshot,
    height: int,
    chain: Digest,
    epochs: Sequence[Epoch],
    window: int,
    past: tree.Frontier = tree.EMPTY,
) -> None:
    """Check what a snapshot of `height`, which is above our own head, stands on.

    Raises `Refused` with `audit.*` for header and certificate, `snapshot.height` if it is another
    one, `snapshot.history` if the headers are not the last `window` of the certified history, or
    `snapshot.past` if it shows that this one does not begin with `past`, the one of our own head.
    """
    header, first = snapshot.header, max(0, height - window + 1)
    if header.height != height or snapshot.first != first:
        raise Refused(
            "snapshot.height",
            f"expected headers {first} to {height}, found {snapshot.first} to {header.height}",
        )
    verify_header(CertifiedHeader(header, snapshot.certificate, None), chain, epochs)
    frontier = snapshot.frontier
    for number, found in enumerate(snapshot.headers, start=first):
        if (found.height, frontier.size, frontier.root) != (number, number, found.history):
            raise Refused(
                "snapshot.history", f"expected header {number} on the history of all before it"
            )
        if not tree.agree(past, frontier):
            raise Refused("snapshot.past", f"expected our {past.size} headers, found others")
        frontier, _ = tree.append(frontier, found.digest)


@dataclass(slots=True)
class _Peer:
    heights: tuple[int, ...] | None = None  # of its snapshots; None until it has told
    request: Request | None = None
    age: int = 0  # ticks since it was asked
    silent: int = 0  # ticks since it gave a byte
    rest: int = 0  # ticks until it is asked again
    stalls: int = 0  # how often a snapshot that it offered came to nothing
    dropped: bool = False


@dataclass(slots=True)
class StateSync:
    """One sync, from the offers to the last leaf.

    `epochs` reach to the one that rules the snapshot; `enough` peers should have it; `executed` is
    the height that we have, above which it must be, and `past` the history up to there; `kept` is
    what a sync before us left.
    """

    chain: Digest
    epochs: Sequence[Epoch]
    executed: int
    peers: Sequence[str]
    enough: int
    kept: tuple[Snapshot, Missing] | None = None
    window: int = TX_LIFETIME_BLOCKS_MAX
    past: tree.Frontier = tree.EMPTY
    snapshot: Snapshot | None = field(default=None, init=False)
    _peers: dict[str, _Peer] = field(init=False)
    _height: int | None = field(default=None, init=False)  # of the snapshot chosen
    _missing: Missing = field(default=Missing((), 0), init=False)
    _ticks: int = field(default=0, init=False)
    _idle: int = field(default=0, init=False)  # ticks since something of the snapshot verified

    def __post_init__(self) -> None:
        self._peers = {peer: _Peer() for peer in self.peers}
        if self.kept is not None:
            self.snapshot, self._missing = self.kept
            self._height = self.snapshot.header.height

    @property
    def missing(self) -> Missing:
        """What is not here yet of the snapshot that was begun."""
        return self._missing

    @property
    def hopeless(self) -> bool:
        """Whether every peer was dropped."""
        return all(peer.dropped for peer in self._peers.values())

    # Events

    def start(self) -> list[Effect]:
        """Ask everybody what they have."""
        return [Complete()] if self._is_complete() else self._assign()

    def received(self, name: str, request: Request, reply: Reply) -> list[Effect]:
        """A peer's reply to a request, which may have been given up."""
        peer = self._peers[name]
        if peer.request != request or peer.dropped:
            return []
        peer.request = None
        try:
            effects = self._take(peer, request, reply)
        except Refused as refused:
            return self.lied(name, refused)
        return [*effects, *([Complete()] if self._is_complete() else self._assign())]

    def lied(self, name: str, refused: Refused) -> list[Effect]:
        """What a peer sent is no sound reply: it is asked no more."""
        self._peers[name].dropped = True
        return [Drop(name, refused.code, refused.message), *self._assign()]

    def failed(self, name: str, request: Request, *, gone: bool = False) -> list[Effect]:
        """A request came to nothing; `gone` says that the peer no longer has the snapshot."""
        peer = self._peers[name]
        if peer.request != request:
            return []
        peer.request, peer.rest = None, REST_TICKS
        if gone:
            peer.heights = None
        return self._assign()

    def progressed(self, name: str) -> None:
        """Some bytes of a reply have come."""
        self._peers[name].silent = 0

    def tick(self) -> list[Effect]:
        """A second has passed."""
        self._ticks += 1
        self._idle += 1
        for peer in self._peers.values():
            peer.age, peer.silent, peer.rest = peer.age + 1, peer.silent + 1, max(0, peer.rest - 1)
            if peer.request is not None and peer.silent >= SILENT_TICKS:
                peer.request, peer.rest = None, REST_TICKS
        return self._assign()

    # Replies

    def _take(self, peer: _Peer, request: Request, reply: Reply) -> list[Effect]:
        match request, reply:
            case AskOffer(), Offer():
                peer.heights = tuple(sorted({h for h in reply.snapshots if h > self.executed}))
                peer.rest = 0 if peer.heights else REST_TICKS
                return []
            case AskSnapshot(height), Snapshot():
                return self._begin(height, reply)
            case AskRange(height, gap), StateRange():
                return self._fill(height, gap, reply)
            case AskReceipts(height, first), WindowPart():
                return self._remember(height, first, reply)
        raise Refused("snapshot.reply", f"expected an answer to {request}, found {type(reply)}")

    def _begin(self, height: int, snapshot: Snapshot) -> list[Effect]:
        if height != self._height or self.snapshot is not None:
            return []
        verify_snapshot(snapshot, height, self.chain, self.epochs, self.window, self.past)
        self.snapshot, self._idle = snapshot, 0
        self._missing = Missing((Gap(FIRST_PATH, LAST_PATH),), self._unfilled(snapshot.first))
        return [Begin(snapshot, self._missing)]

    def _fill(self, height: int, gap: Gap, found: StateRange) -> list[Effect]:
        if height != self._height or self.snapshot is None or gap not in self._missing.gaps:
            return []  # another peer was quicker
        verify_range(self.snapshot.header.state, gap.start, gap.stop, found)
        gaps = [other for other in self._missing.gaps if other != gap]
        gaps += _rest(gap, found.end, GAPS_MAX - len(gaps))
        self._missing, self._idle = Missing(tuple(gaps), self._missing.receipts), 0
        return [KeepLeaves(found.leaves, self._missing)]

    def _remember(self, height: int, first: int, part: WindowPart) -> list[Effect]:
        if height != self._height or self.snapshot is None or first != self._missing.receipts:
            return []
        room = self.snapshot.header.height - first + 1
        if len(part.blocks) > room:
            raise Refused("snapshot.receipts", f"expected at most {room} blocks, found more")
        for number, block in enumerate(part.blocks, start=first):
            if receipts_root(block.receipts) != self._header(number).receipts:
                raise Refused("snapshot.receipts", f"expected the receipts of block {number}")
        following = self._unfilled(first + len(part.blocks))
        self._missing, self._idle = Missing(self._missing.gaps, following), 0
        return [KeepReceipts(first, part, self._missing)]

    def _header(self, height: int) -> Header:
        assert self.snapshot is not None
        return self.snapshot.headers[height - self.snapshot.first]

    def _unfilled(self, height: int) -> int:
        """The first height from `height` on whose block has receipts; else the one behind."""
        assert self.snapshot is not None
        last = self.snapshot.header.height
        while height <= last and self._header(height).receipts == tree.EMPTY_ROOT:
            height += 1
        return height

    def _is_complete(self) -> bool:
        if self.snapshot is None:
            return False
        return self._missing.empty(self.snapshot.header.height)

    # Whom to ask for what

    def _assign(self) -> list[Effect]:
        self._choose()
        effects: list[Effect] = []
        for name, peer in self._peers.items():
            if peer.request is not None or peer.dropped or peer.rest:
                continue
            request = self._next(peer)
            if request is not None:
                peer.request, peer.age, peer.silent = request, 0, 0
                effects.append(Ask(name, request))
        return effects

    def _choose(self) -> None:
        """Take the newest snapshot that enough peers have, or that any has when time passes.

        One that nobody has any more is given up, and what was kept of it. So is one of which
        nothing comes, if there is another: who offers what it never gives holds up nobody for long.
        """
        known = [peer for peer in self._peers.values() if not peer.dropped]
        offered = [height for peer in known for height in peer.heights or ()]
        waits = self._ticks < CHOICE_TICKS and any(peer.heights is None for peer in known)
        if self._height is not None and (self._height in offered or waits):
            if self._idle < STALLED_TICKS:
                return
            self._idle = 0
            for peer in known:
                peer.stalls += self._height in (peer.heights or ())

        def worth(height: int) -> tuple[bool, int, int]:
            stalls = min(peer.stalls for peer in known if height in (peer.heights or ()))
            return offered.count(height) >= self.enough, -stalls, height

        chosen = max(offered, key=worth, default=None)
        if chosen is None or chosen == self._height or (waits and not worth(chosen)[0]):
            return
        self._height, self.snapshot, self._missing, self._idle = chosen, None, Missing((), 0), 0

    def _next(self, peer: _Peer) -> Request | None:
        if peer.heights is None or not peer.heights:
            return AskOffer()
        if self._height not in peer.heights:
            return None
        assert self._height is not None
        wanted: list[Request] = [AskSnapshot(self._height)]
        if self.snapshot is not None:
            wanted = [AskRange(self._height, gap) for gap in self._missing.gaps]
            if self._missing.receipts <= self.snapshot.header.height:
                wanted.insert(0, AskReceipts(self._height, self._missing.receipts))
        ages = {other.request: other.age for other in self._peers.values() if not other.dropped}
        free = [request for request in wanted if request not in ages]
        slow = [request for request in wanted if ages.get(request, 0) >= SPARE_TICKS]
        return next(iter([*free, *slow]), None)


def _rest(gap: Gap, end: Digest, room: int) -> list[Gap]:
    """What of `gap` lies behind `end`, in as many parts as it will take ranges, at most `room`."""
    start = next_path(end)
    if start is None or start > gap.stop:
        return []
    first, stop = int.from_bytes(start, "big"), int.from_bytes(gap.stop, "big")
    given = first - int.from_bytes(gap.start, "big")
    parts = max(1, min(room, (stop - first + 1) // given))
    edges = [first + (stop - first + 1) * part // parts for part in range(parts + 1)]
    return [
        Gap(low.to_bytes(32, "big"), (high - 1).to_bytes(32, "big"))
        for low, high in itertools.pairwise(edges)
    ]

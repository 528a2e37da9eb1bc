"""State sync in a script: a new node and its peers, who serve the script's chain (`ledger.py`)."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from node.validator.install import Sync
from node.validator.serve import Source
from node.validator.snapshot import (
    Ask,
    AskOffer,
    AskRange,
    AskReceipts,
    AskSnapshot,
    Begin,
    Complete,
    Drop,
    Effect,
    KeepLeaves,
    KeepReceipts,
    Missing,
    Reply,
    Request,
    StateSync,
)
from node.validator.store import Store
from tests.scenarios.ledger import SNAPSHOT_BLOCKS, WINDOW, Ledger
from vm.epoch import epochs
from vm.range import StateRange

RANGE_BYTES = 600  # of one answer: a few leaves
ENOUGH = 2  # peers that should have a snapshot
PATHS = 1 << 256


class Joining:
    """The core of state sync, what it keeps on disk, and what its peers are asked for."""

    def __init__(self, tell: Callable[[str], None], ledger: Ledger) -> None:
        self._tell = tell
        self._ledger = ledger
        self._stack = ExitStack()
        self._store: Store | None = None
        self._sync: StateSync | None = None
        self._asked: dict[str, Request] = {}
        self._quiet = False
        self.commands: dict[str, Callable[[list[str]], None]] = {
            "join": self._join,
            "answer": self._answer,
            "lie": self._lie,
            "seconds": self._seconds,
            "crash-joining": self._crash,
            "finish": self._finish,
        }

    def close(self) -> None:
        """Close the new node's store and remove it."""
        if self._store is not None:
            self._store.close()
        self._stack.close()

    @property
    def _open(self) -> Store:
        assert self._store is not None, "expected join first"
        return self._store

    @property
    def _core(self) -> StateSync:
        assert self._sync is not None, "expected join first"
        return self._sync

    def _join(self, words: list[str]) -> None:
        """`join a b c`: with these peers; goes on with what is on its disk, if anything is."""
        if self._store is None:
            folder = self._stack.enter_context(TemporaryDirectory())
            self._store = Store(Path(folder) / "store")
        network = self._ledger.network
        known = epochs(network.chain.state())
        kept = Sync(self._store).kept()
        self._asked = {}
        self._sync = StateSync(network.genesis.chain, known, 0, tuple(words), ENOUGH, kept, WINDOW)
        self._perform(self._sync.start())

    def _answer(self, words: list[str]) -> None:
        """`answer a b`: each what it was asked for last, truly."""
        for peer in words:
            self._receive(peer, self._reply(self._asked[peer]))

    def _lie(self, words: list[str]) -> None:
        """`lie b`: it leaves a record out of what it was asked for."""
        (peer,) = words
        reply = self._reply(self._asked[peer])
        assert isinstance(reply, StateRange), f"{peer} was not asked for state"
        self._receive(peer, replace(reply, leaves=reply.leaves[:-1]))

    def _seconds(self, words: list[str]) -> None:
        """`seconds 60 a`: so many pass without an answer, and of a some bytes come in each."""
        for _ in range(int(words[0])):
            for peer in words[1:]:
                self._core.progressed(peer)
            self._perform(self._core.tick())

    def _crash(self, _words: list[str]) -> None:
        """`crash-joining`: the process is gone; what it kept is on disk."""
        self._sync = None

    def _finish(self, _words: list[str]) -> None:
        """`finish`: all answer until the snapshot is whole, and it is installed."""
        self._quiet = True
        rounds = 0
        while not self._core.missing.empty(self._height()):
            self._answer([next(iter(self._asked))])
            rounds += 1
        Sync(self._open).install()
        head, source = self._open.head(), self._ledger.network.chain.store.row(self._height())
        assert head is not None
        assert source is not None
        same = "the same state root" if head.root.digest == source.root.digest else "ANOTHER STATE"
        self._tell(f"installed at {head.height} with {same}")

    def _height(self) -> int:
        assert self._core.snapshot is not None, "nothing was begun"
        return self._core.snapshot.header.height

    def _reply(self, request: Request) -> Reply:
        source = Source(self._ledger.network.chain.store, SNAPSHOT_BLOCKS, WINDOW)
        match request:
            case AskOffer():
                return source.offer()
            case AskSnapshot(height):
                return source.snapshot(height)
            case AskRange(height, gap):
                return source.range(height, gap.start, gap.stop, RANGE_BYTES)
            case AskReceipts(height, first):
                return source.receipts(height, first, 1)

    def _receive(self, peer: str, reply: Reply) -> None:
        self._perform(self._core.received(peer, self._asked.pop(peer), reply))

    def _perform(self, effects: list[Effect]) -> None:
        rows = Sync(self._open)
        for effect in effects:
            match effect:
                case Ask(peer, request):
                    self._asked[peer] = request
                    self._say(f"-> {peer}: {said(request)}")
                case Drop(peer, code):
                    self._say(f"drops {peer}: {code}")
                case Begin(snapshot, missing):
                    rows.begin(snapshot, missing)
                    self._say(f"begins snapshot {snapshot.header.height}")
                case KeepLeaves(leaves, missing):
                    rows.keep_leaves(leaves, missing)
                    self._say(
                        f"keeps {len(leaves)} records, {lacking(missing)} of the state to come"
                    )
                case KeepReceipts(first, part, missing):
                    rows.keep_receipts(first, part, missing)
                    self._say(f"keeps receipts from {first} on")
                case Complete():
                    self._say("has all of it")

    def _say(self, line: str) -> None:
        if not self._quiet:
            self._tell(line)


def said(request: Request) -> str:
    """A request in words."""
    match request:
        case AskOffer():
            return "what have you?"
        case AskSnapshot(height):
            return f"snapshot {height}"
        case AskRange(height, gap):
            return f"state at {height}, from {share(gap.start)} to {share(gap.stop)}"
        case AskReceipts(height, first):
            return f"receipts from {first} on to {height}"


def share(path: bytes) -> str:
    """Where a path lies in the path space."""
    return f"{(int.from_bytes(path, 'big') * 100 + PATHS // 2) // PATHS} %"


def lacking(missing: Missing) -> str:
    """How much of the path space is in gaps."""
    left = sum(int.from_bytes(gap.stop) - int.from_bytes(gap.start) for gap in missing.gaps)
    return f"{left * 100 // PATHS} %"

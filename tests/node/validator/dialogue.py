"""A core of state sync in a dialogue with peers that serve a real chain, or lie."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

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
    Snapshot,
    StateSync,
)
from node.validator.store import Database, Store
from tests.node.network import Network
from vm.epoch import epochs

SNAPSHOT = 8
WINDOW = 4
PEERS = ("a", "b", "c")

Lie = Callable[[Reply], Reply]


def core(
    network: Network,
    *,
    executed: int = 0,
    peers: Sequence[str] = PEERS,
    enough: int = 2,
    kept: tuple[Snapshot, Missing] | None = None,
) -> StateSync:
    """A sync of that chain."""
    known = epochs(network.chain.state())
    return StateSync(network.genesis.chain, known, executed, peers, enough, kept, WINDOW)


@dataclass
class Dialogue:
    """Carries a core's requests to peers and keeps what it says in a store, as the shell does."""

    sync: StateSync
    source: Source
    store: Store
    lies: dict[str, Lie] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()
    dropped: list[Drop] = field(default_factory=list)
    asked: list[Ask] = field(default_factory=list)
    done: bool = False

    def run(self, steps: int = 10_000) -> bool:
        """Answer requests, oldest first, until all is here or so many were answered."""
        rows = Sync(self.store)
        waiting: list[Ask] = []
        effects = self.sync.start()
        for _ in range(steps):
            for effect in effects:
                self._perform(rows, effect, waiting)
            if self.done:
                return True
            able = [ask for ask in waiting if ask.peer not in self.silent]
            if not able:
                effects = self.sync.tick()
                continue
            waiting.remove(able[0])
            peer, request = able[0].peer, able[0].request
            reply = answer(self.source, request)
            effects = self.sync.received(peer, request, self.lies.get(peer, honest)(reply))
        return False

    def _perform(self, rows: Sync, effect: Effect, waiting: list[Ask]) -> None:
        match effect:
            case Ask():
                waiting[:] = [ask for ask in waiting if ask.peer != effect.peer]
                waiting.append(effect)
                self.asked.append(effect)
            case Drop():
                self.dropped.append(effect)
            case Begin(snapshot, missing):
                rows.begin(snapshot, missing)
            case KeepLeaves(leaves, missing):
                rows.keep_leaves(leaves, missing)
            case KeepReceipts(first, part, missing):
                rows.keep_receipts(first, part, missing)
            case Complete():
                self.done = True


def honest(reply: Reply) -> Reply:
    """No lie."""
    return reply


def answer(source: Source, request: Request) -> Reply:
    """What an honest peer says."""
    match request:
        case AskOffer():
            return source.offer()
        case AskSnapshot(height):
            return source.snapshot(height)
        case AskRange(height, gap):
            return source.range(height, gap.start, gap.stop, 300)
        case AskReceipts(height, first):
            return source.receipts(height, first, 1)


def source_of(network: Network) -> Source:
    """The chain as a peer serves it."""
    return Source(network.chain.store, SNAPSHOT, WINDOW)


class Killed(Exception):  # noqa: N818 - a crash
    """The process is gone before the next batch."""


class Mortal:
    """A database that takes so many batches and then dies."""

    def __init__(self, database: Database, batches: int) -> None:
        self._database = database
        self._left = batches

    def write_batch(self, **options: bool) -> AbstractContextManager[Any]:
        """A batch, or death."""
        if not self._left:
            raise Killed
        self._left -= 1
        return self._database.write_batch(**options)

    def __getattr__(self, name: str) -> object:
        return getattr(self._database, name)

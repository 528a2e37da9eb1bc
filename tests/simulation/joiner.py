"""State sync in the simulated world: the real core over a store, and peers that may lie."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from consensus.journal import Stable, frame
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
    Reply,
    Request,
    Snapshot,
    StateSync,
    WindowPart,
)
from node.validator.store import Store
from tests.simulation.judge import Violation
from tests.simulation.network import Network
from tests.simulation.shell import Shell
from tests.simulation.world import World
from vm.quorum import Epoch
from vm.range import StateRange
from vm.refusal import Refused
from vm.shape import Digest

SNAPSHOT_BLOCKS = 4
ENOUGH = 2  # peers that should have a snapshot
RANGE_BYTES = 2_048  # of one answer: a dozen answers make a state
TICK_MS = 50
DOWN_MS_MAX = 500
CRASH_SHARE = 0.02  # of effects, in runs with crashes


class Joiner:
    """Brings a validator without a chain to a certified snapshot; `done` starts it there.

    `epochs` grow as the chain goes on: the newcomer follows their succession.
    """

    def __init__(
        self,
        shell: Shell,
        world: World,
        network: Network,
        chain: Digest,
        peers: Callable[[], dict[str, Shell]],
        epochs: Sequence[Epoch],
        liars: list[str],
        done: Callable[[], None],
    ) -> None:
        self._shell = shell
        self._world = world
        self._network = network
        self._chain = chain
        self._peers = peers
        self._epochs = epochs
        self._liars = liars
        self._done = done
        self._life = 0

    def begin(self) -> None:
        """Start, or go on with what was kept."""
        self._life += 1
        self._store = Store(self._shell.disk.database)
        self._rows = Sync(self._store)
        self._sync = StateSync(
            self._chain, self._epochs, 0, sorted(self._peers()), ENOUGH, self._rows.kept()
        )
        self._perform(self._sync.start())
        self._later(TICK_MS, self._tick)

    def _later(self, delay_ms: int, action: Callable[[], None]) -> None:
        life = self._life
        self._world.later(delay_ms, lambda: action() if self._life == life else None)

    def _tick(self) -> None:
        self._perform(self._sync.tick())
        self._later(TICK_MS, self._tick)

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if self._network.weather.crash and self._world.chance(CRASH_SHARE):
                self._crash()
                return
            try:
                self._run(effect)
            except OSError:  # no room on the disk: the process ends
                self._crash()
                return

    def _run(self, effect: Effect) -> None:
        match effect:
            case Ask(peer, request):
                self._ask(peer, request)
            case Drop(peer, code):
                if peer not in self._liars:
                    raise Violation(f"state sync: {self._shell.name} drops {peer}: {code}")
            case Begin(snapshot, missing):
                self._rows.begin(snapshot, missing)
            case KeepLeaves(leaves, missing):
                self._rows.keep_leaves(leaves, missing)
            case KeepReceipts(first, part, missing):
                self._rows.keep_receipts(first, part, missing)
            case Complete():
                self._life += 1  # what is on its way comes too late
                self._remember()
                self._rows.install()
                self._done()

    def _remember(self) -> None:
        """The journal learns of the certificate before the store does."""
        snapshot, journal = self._sync.snapshot, self._shell.disk.journal
        assert snapshot is not None, "it is complete"
        journal.append(frame(Stable(snapshot.certificate)))
        journal.sync()

    def _crash(self) -> None:
        self._life += 1
        database = self._shell.disk.database
        database.crash(self._world.rng.randint(0, database.unsynced))
        self._world.later(self._world.rng.randint(1, DOWN_MS_MAX), self.begin)

    def _ask(self, peer: str, request: Request) -> None:
        me, life = self._shell.name, self._life

        def back(reply: Reply | None) -> None:
            if self._life != life:
                return
            if reply is None:
                self._perform(self._sync.failed(peer, request, gone=True))
            else:
                self._perform(self._sync.received(peer, request, reply))

        def there() -> None:
            shell = self._peers()[peer]
            if not shell.up:
                return
            try:
                reply: Reply | None = _answer(shell.chain.store, request)
            except Refused:
                reply = None
            if reply is not None and peer in self._liars:
                reply = _corrupt(reply, self._world)
            self._network.carry(peer, me, lambda: back(reply))

        self._network.carry(me, peer, there)


def _answer(store: Store, request: Request) -> Reply:
    source = Source(store, SNAPSHOT_BLOCKS)
    match request:
        case AskOffer():
            return source.offer()
        case AskSnapshot(height):
            return source.snapshot(height)
        case AskRange(height, gap):
            return source.range(height, gap.start, gap.stop, RANGE_BYTES)
        case AskReceipts(height, first):
            return source.receipts(height, first, RANGE_BYTES)


def _corrupt(reply: Reply, world: World) -> Reply:
    """Something else than is there, in every second answer."""
    if world.chance(0.5):
        return reply
    match reply:
        case StateRange(leaves=leaves) if leaves:
            place = world.rng.randrange(len(leaves))
            bad = replace(leaves[place], value=leaves[place].value + b"\0")
            return replace(reply, leaves=(*leaves[:place], bad, *leaves[place + 1 :]))
        case Snapshot(headers=headers):
            return replace(reply, headers=(*headers[:-1], replace(headers[-1], state=bytes(32))))
        case WindowPart(blocks=blocks) if any(block.receipts for block in blocks):
            return replace(reply, blocks=tuple(replace(block, receipts=()) for block in blocks))
    return reply

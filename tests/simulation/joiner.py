"""State sync in the simulated world: the real core over a store, and peers that may lie.

It does what `node.validator.sync` does before a validator is put together: goes on with what was
cut off, or looks whether peers are far ahead. Either way `done` is called: it starts the validator.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

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
    Offer,
    Reply,
    Request,
    Snapshot,
    StateSync,
    WindowPart,
    left_behind,
)
from node.validator.store import Store
from tests.simulation.judge import Violation
from tests.simulation.network import Network
from tests.simulation.shell import Shell
from tests.simulation.world import World
from vm import tree
from vm.quorum import Epoch
from vm.range import StateRange
from vm.refusal import Refused
from vm.shape import Digest
from vm.succession import Step

SNAPSHOT_BLOCKS = 4
ENOUGH = 2  # peers that should have a snapshot
RANGE_BYTES = 2_048  # of one answer: a dozen answers make a state
TICK_MS = 50
DOWN_MS_MAX = 500
CRASH_SHARE = 0.02  # of effects, in runs with crashes
CUT_SHARE = 0.5  # of installs, also once all is healed: the process ends in the middle of it
CUT_BATCHES_MAX = 20  # as many as an install takes


class Joiner:
    """Brings a stopped validator to a certified snapshot, if it needs one; then calls `done`.

    `peers` are all others, up or not. `epochs` grow as the chain goes on: it follows their
    succession. `share` is how often it does not fetch blocks instead.
    """

    def __init__(
        self,
        shell: Shell,
        world: World,
        network: Network,
        chain: Digest,
        peers: Mapping[str, Shell],
        epochs: Sequence[Epoch],
        liars: list[str],
        share: float,
        done: Callable[[], None],
    ) -> None:
        self._shell = shell
        self._world = world
        self._network = network
        self._chain = chain
        self._peers = peers
        self._epochs = epochs
        self._liars = liars
        self._share = share
        self._done = done
        self._life = 0

    def begin(self) -> None:
        """Go on with what was kept, or start if peers are far ahead."""
        self._life += 1
        try:
            needed = self._open()
        except OSError:
            self._crash()
            return
        if not needed:
            self._done()
            return
        self._later(TICK_MS, self._tick)
        self._perform(self._sync.start())

    def _open(self) -> bool:
        """Take up what the disk holds; whether there is anything to fetch or to install."""
        disk = self._shell.disk
        store = Store(disk.database)
        if not disk.is_whole():
            raise Violation(f"journal: a sync makes {self._shell.name} take its journal for lost")
        store.bind_journal(disk.identity)
        self._rows = Sync(store)
        kept, head = self._rows.resume(), store.head()
        executed = 0 if head is None else head.height
        past = tree.EMPTY if head is None else head.frontier
        self._sync = StateSync(
            self._chain, self._epochs, executed, sorted(self._peers), ENOUGH, kept, past=past
        )
        return kept is not None or (
            self._world.chance(self._share) and left_behind(executed, self._offers(), ENOUGH)
        )

    def _offers(self) -> list[Offer]:
        return [source.offer() for source in self._sources()]

    def _sources(self) -> list[Source]:
        up = [peer for peer in self._peers.values() if peer.up]
        return [Source(peer.chain.store, SNAPSHOT_BLOCKS) for peer in up]

    def _later(self, delay_ms: int, action: Callable[[], None]) -> None:
        life = self._life
        self._world.later(delay_ms, lambda: action() if self._life == life else None)

    def _tick(self) -> None:
        self._later(TICK_MS, self._tick)
        self._perform(self._sync.tick())

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
                self._rows.begin(snapshot, missing, self._steps())
            case KeepLeaves(leaves, missing):
                self._rows.keep_leaves(leaves, missing)
            case KeepReceipts(first, part, missing):
                self._rows.keep_receipts(first, part, missing)
            case Complete():
                self._install()

    def _steps(self) -> tuple[Step, ...]:
        """From epoch to epoch, as far as any peer can tell."""
        return max((source.steps(0).steps for source in self._sources()), key=len, default=())

    def _install(self) -> None:
        database = self._shell.disk.database
        if self._world.chance(CUT_SHARE):
            database.room = self._world.rng.randint(0, CUT_BATCHES_MAX)
        self._rows.install()
        database.room = None
        self._life += 1  # what is on its way comes too late
        self._done()

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
            shell = self._peers[peer]
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

"""State sync over the peer port: when it is needed, and how it is carried out.

`synchronise` runs before a validator is put together, on a store that nobody else has open. It
returns at once unless peers have pruned the blocks that follow ours, or are so far ahead that
fetching blocks would take longer, or an earlier sync was cut off. `watch` runs beside a validator
and ends it with `LeftBehind` when that has come true meanwhile.

Servers need only a certificate of the consortium's authority: whatever they say is verified, and
who is enrolled may have changed since we last knew.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from itertools import islice
from typing import TypeVar

import aiohttp
import structlog

from node.api.problem import read_problem
from node.audit.prove import stored_steps
from node.home.config import ValidatorConfig
from node.home.genesis import read_genesis
from node.validator.directory import ADDRESSES_MAX
from node.validator.install import Sync
from node.validator.journal import FOLDER as JOURNAL
from node.validator.journal import Journal
from node.validator.keyring import Keyring
from node.validator.recover import check_journal
from node.validator.snapshot import (
    SNAPSHOT_BYTES_MAX,
    STEPS_BYTES_MAX,
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
    Steps,
    WindowPart,
    left_behind,
)
from node.validator.store import FOLDER, Store
from node.validator.threads import to_the_end
from node.wire.tls import client_context
from node.wire.transfer import CONNECT_TIMEOUT_S, open_session
from vm import tree
from vm.encoding import MESSAGE_BYTES_MAX
from vm.epoch import epochs
from vm.genesis import Genesis, check_genesis
from vm.proposal import Endpoint
from vm.quorum import Epoch, faults
from vm.range import RANGE_BYTES_MAX, StateRange
from vm.refusal import Refused
from vm.shape import unpack
from vm.state import State
from vm.succession import Step, follow_step
from vm.transaction import TX_LIFETIME_BLOCKS_MAX

OFFER_BYTES_MAX = 1024
OFFER_TIMEOUT_S = 3.0  # for all peers to say what they have; who is slower is not waited for
SILENCE_TIMEOUT_S = 15.0  # between two parts of an answer; there is no limit on the whole
TICK_S = 1.0
TELL_TICKS = 10  # between two lines about how far a sync has come
WATCH_S = 30.0  # between two looks whether we are left behind
GARBLED = frozenset({"sync.garbled", "sync.too_large"})  # no honest peer answers so
EVENTS_MAX = 256  # one reply of each peer, and ticks

T = TypeVar("T")
# A peer's answer; or a tick, with the peers of whom bytes have come since the last one.
_Event = tuple[str, Request, Reply | Refused] | frozenset[str]

log = structlog.get_logger()


class LeftBehind(Exception):  # noqa: N818 - it says how things stand
    """Peers no longer have the blocks that this node needs next: start again with a state sync."""


class Peers:
    """Asks the other validators over mutual TLS; `urls` by id."""

    def __init__(self, session: aiohttp.ClientSession, urls: Mapping[str, str]) -> None:
        self._session = session
        self.urls = urls
        self.fresh: set[str] = set()  # peers of whom bytes have come since the last tick

    @property
    def enough(self) -> int:
        """How many are sure to hold an honest one."""
        return faults(len(self.urls) + 1) + 1

    async def offers(self) -> list[Offer]:
        """What the peers that answer soon have."""
        if not self.urls:
            return []
        asked = [asyncio.ensure_future(self.ask(peer, AskOffer())) for peer in self.urls]
        try:
            await asyncio.wait(asked, timeout=OFFER_TIMEOUT_S)
        finally:
            for task in asked:
                task.cancel()
            found = await asyncio.gather(*asked, return_exceptions=True)
        return [reply for reply in found if isinstance(reply, Offer)]

    async def ask(self, peer: str, request: Request) -> Reply:
        """The reply, of its kind but not verified; raises `Refused` if there is none."""
        match request:
            case AskOffer():
                return await self._get(peer, "", Offer, OFFER_BYTES_MAX)
            case AskSnapshot(height):
                return await self._get(peer, f"/{height}", Snapshot, SNAPSHOT_BYTES_MAX)
            case AskRange(height, gap):
                path = f"/{height}/state/{gap.start.hex()}/{gap.stop.hex()}"
                return await self._get(peer, path, StateRange, RANGE_BYTES_MAX)
            case AskReceipts(height, first):
                path = f"/{height}/receipts/{first}"
                return await self._get(peer, path, WindowPart, MESSAGE_BYTES_MAX)

    async def steps(self, peer: str, after: int) -> tuple[Step, ...]:
        """The steps behind an epoch, not verified; raises `Refused` if there is no answer."""
        return (await self._get(peer, f"/epochs/{after}", Steps, STEPS_BYTES_MAX)).steps

    async def _get(self, peer: str, path: str, cls: type[T], bytes_max: int) -> T:
        url = f"{self.urls[peer]}/sync{path}"
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S
        )
        body = bytearray()
        try:
            async with self._session.get(url, timeout=timeout, allow_redirects=False) as response:
                if response.status != 200:
                    raise await read_problem(response)
                async for part in response.content.iter_any():
                    self.fresh.add(peer)
                    body += part
                    if len(body) > bytes_max:
                        raise Refused(
                            "sync.too_large", f"{url}: expected at most {bytes_max} bytes"
                        )
        except (aiohttp.ClientError, OSError) as error:  # a timeout is an OSError
            name = type(error).__name__
            raise Refused("sync.unreachable", f"{url}: expected an answer, found {name}") from error
        try:
            return await asyncio.to_thread(unpack, cls, bytes(body), bytes_max)
        except Refused as refused:
            raise Refused("sync.garbled", f"{url}: {refused}") from refused


async def synchronise(config: ValidatorConfig) -> None:
    """Bring the store of a stopped validator to a recent snapshot, if it needs one.

    The journal is checked against the store as it was: a copy of an old journal must not pass for
    one that knows. With a snapshot the store notes that the journal need not know its certificate.
    Raises `Refused` as journal and store do, or with `sync.peers` if no peer's answers verify.
    """
    genesis, folder = read_genesis(config.chain.genesis), config.store.folder
    async with AsyncExitStack() as stack:
        journal = stack.enter_context(Journal(folder / JOURNAL))
        keyring = Keyring(config.member, folder, journal.identity)
        store = Store(folder / FOLDER)
        stack.callback(store.close)
        check_journal(keyring, journal.identity, journal.entries, store)
        store.bind_journal(journal.identity)
        await run(store, genesis, await connect(config, store, stack))


async def connect(config: ValidatorConfig, store: Store, stack: AsyncExitStack) -> Peers:
    """The other validators, until `stack` is closed: where the chain in `store` says, if it does.

    Else where the configuration does. Who must not connect any more answers us nothing sound.
    """
    context = client_context(config.tls.files(config.member))
    session = await stack.enter_async_context(open_session(context, lambda connection: None))
    addresses = {id: str(at) for id, at in config.peer.validators.items()} | _endpoints(store)
    addresses.pop(config.member.id, None)
    return Peers(session, {id: f"https://{at}" for id, at in addresses.items()})


def _endpoints(store: Store) -> dict[str, str]:
    """Addresses of the validators that joined, as far as this store's chain knows."""
    head, found = store.head(), dict[str, str]()
    if head is not None:
        for key in islice(store.keys(Endpoint.KIND, (), 1), ADDRESSES_MAX):
            data = store.read(head.root, key)
            if data is not None:
                endpoint = unpack(Endpoint, data)
                found[endpoint.member] = endpoint.address
    return found


async def watch(store: Store, peers: Peers, period_s: float = WATCH_S) -> None:
    """Look now and then whether we are left behind; raises `LeftBehind`."""
    before = -1
    while True:
        await asyncio.sleep(period_s)
        head = store.head()
        executed = 0 if head is None else head.height
        if executed == before and left_behind(executed, await peers.offers(), peers.enough):
            raise LeftBehind
        before = executed


async def run(
    store: Store,
    genesis: Genesis,
    peers: Peers,
    window: int = TX_LIFETIME_BLOCKS_MAX,
) -> None:
    """Go on with the sync that was cut off, or sync if we are left behind.

    Raises `Refused("sync.peers")`.
    """
    rows, head = Sync(store), store.head()
    executed = 0 if head is None else head.height
    kept = await to_the_end(rows.resume)
    if kept is None and not left_behind(executed, await peers.offers(), peers.enough):
        return
    log.info("sync.started", executed=executed, resumed=kept is not None)
    if kept is None or not kept[1].empty(kept[0].header.height):
        succession = _Succession(genesis, *_followed(store))
        past = tree.EMPTY if head is None else head.frontier
        sync = StateSync(
            genesis.chain,
            succession.epochs,
            executed,
            tuple(peers.urls),
            peers.enough,
            kept,
            window,
            past,
        )
        await _fetch(sync, peers, rows, succession)
        kept = await to_the_end(rows.kept)
    assert kept is not None, "all of the snapshot is here"
    await to_the_end(rows.install)
    log.info("sync.installed", height=kept[0].header.height)


async def _fetch(sync: StateSync, peers: Peers, rows: Sync, succession: "_Succession") -> None:
    """Fetch what is missing of a snapshot, until all of it is in `rows`."""
    try:
        async with asyncio.TaskGroup() as group:
            await _Carrier(sync, rows, peers, succession, group).run()
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures


def _followed(store: Store) -> tuple[tuple[Epoch, ...], tuple[Step, ...]]:
    """The epochs that this store has executed or synced, and the steps to those that began here."""
    head = store.head()
    if head is None:
        return (), ()
    state = State(partial(store.read, head.root))
    known = epochs(state)
    return known, tuple(stored_steps(store, state, 0, len(known)))


class _Succession:
    """The epochs that this node knows, up to the last that a peer has shown, and steps to them.

    What the store knows is kept, whether its step is there or not: keys that were retired since,
    and stolen, lead nowhere else.

    A peer is followed before its snapshot is asked for: an epoch may have begun since the sync did,
    and a peer that never ends its answer holds up nobody but itself.
    """

    def __init__(self, genesis: Genesis, known: tuple[Epoch, ...], steps: tuple[Step, ...]) -> None:
        self._chain = genesis.chain
        self.epochs = [check_genesis(genesis), *known[1:]]
        self.steps = list(steps)  # to epochs 1, 2, ...

    async def follow(self, peers: Peers, peer: str, height: int) -> None:
        """Take the steps that `peer` has, as many at least as lead to a snapshot at `height`.

        Raises `Refused` as it answers, as `follow_step`, or with `succession.known` or `.short`.
        """
        while steps := await peers.steps(peer, after := len(self.steps)):
            if steps[-1].epoch.number <= after:
                raise Refused("sync.garbled", f"expected steps behind epoch {after}, found others")
            for step in steps:
                if step.epoch.number > len(self.steps):  # else another peer was quicker
                    self._take(step)
        following = self.epochs[len(self.steps) + 1 :]
        if following and following[0].first <= height:
            raise Refused("succession.short", f"expected a step to epoch {following[0].number}")

    def _take(self, step: Step) -> None:
        number = len(self.steps) + 1
        epoch = follow_step(self._chain, self.epochs[number - 1], step)
        if number == len(self.epochs):
            self.epochs.append(epoch)
        elif epoch != (known := self.epochs[number]):
            raise Refused(
                "succession.known",
                f"step to epoch {number}: expected the one that we know, from {known.first} on, "
                f"found another from {epoch.first} on",
            )
        self.steps.append(step)


class _Carrier:
    """Carries a core's requests to peers, and what it verified to disk."""

    def __init__(
        self,
        sync: StateSync,
        rows: Sync,
        peers: Peers,
        succession: _Succession,
        group: asyncio.TaskGroup,
    ) -> None:
        self._sync = sync
        self._rows = rows
        self._peers = peers
        self._succession = succession
        self._group = group
        self._events: asyncio.Queue[_Event] = asyncio.Queue(EVENTS_MAX)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._dropped: list[str] = []
        self._leaves = 0  # kept since the start
        self._ticks = 0

    async def run(self) -> None:
        """Until all of the snapshot is kept; raises `Refused("sync.peers")`."""
        ticking = self._group.create_task(self._tick())
        try:
            effects = self._sync.start()
            while not await self._perform(effects):
                effects = await to_the_end(partial(self._step, await self._events.get()))
        finally:
            for task in (ticking, *self._running.values()):
                task.cancel()

    def _step(self, event: _Event) -> list[Effect]:
        """In a thread: verifying a range takes a while."""
        if isinstance(event, frozenset):
            self._ticks += 1
            if self._ticks % TELL_TICKS == 0:
                missing = self._sync.missing.per_mille
                log.info("sync.progress", leaves=self._leaves, missing_per_mille=missing)
            for peer in sorted(event):
                self._sync.progressed(peer)
            return self._sync.tick()
        peer, request, answer = event
        if isinstance(answer, Refused):
            if answer.code in GARBLED or answer.code.startswith("succession."):
                return self._sync.lied(peer, answer)
            log.info("sync.failed", peer=peer, code=answer.code, reason=answer.message)
            return self._sync.failed(peer, request, gone=answer.code == "sync.gone")
        return self._sync.received(peer, request, answer)

    async def _perform(self, effects: list[Effect]) -> bool:
        """Work effects off in order; whether all of the snapshot is kept."""
        for effect in effects:
            match effect:
                case Ask(peer, request):
                    self._ask(peer, request)
                case Drop(peer, code, message):
                    log.warning("sync.dropped", peer=peer, code=code, reason=message)
                    self._dropped.append(f"{peer}: {code}: {message}")
                case Begin(snapshot, missing):
                    log.info("sync.snapshot", height=snapshot.header.height)
                    steps = tuple(self._succession.steps)
                    await to_the_end(partial(self._rows.begin, snapshot, missing, steps))
                case KeepLeaves(leaves, missing):
                    self._leaves += len(leaves)
                    await to_the_end(partial(self._rows.keep_leaves, leaves, missing))
                case KeepReceipts(first, part, missing):
                    await to_the_end(partial(self._rows.keep_receipts, first, part, missing))
                case Complete():
                    return True
        if self._sync.hopeless:
            raise Refused(
                "sync.peers",
                "expected a validator whose snapshot verifies, found none: "
                + "; ".join(self._dropped),
            )
        return False

    def _ask(self, peer: str, request: Request) -> None:
        before = self._running.pop(peer, None)
        if before is not None:
            before.cancel()
        self._running[peer] = self._group.create_task(self._carry(peer, request))

    async def _carry(self, peer: str, request: Request) -> None:
        answer: Reply | Refused
        try:
            if isinstance(request, AskSnapshot):
                await self._succession.follow(self._peers, peer, request.height)
            answer = await self._peers.ask(peer, request)
        except Refused as refused:
            answer = refused
        await self._events.put((peer, request, answer))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            fresh, self._peers.fresh = frozenset(self._peers.fresh), set()
            await self._events.put(fresh)

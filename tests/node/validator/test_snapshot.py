"""The core of state sync: peers in a dialogue, lies named, nothing unverified kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.validator import snapshot as module
from node.validator.install import Sync
from node.validator.prune import Pruner
from node.validator.serve import Source
from node.validator.snapshot import (
    CHOICE_TICKS,
    GAPS_MAX,
    REST_TICKS,
    SILENT_TICKS,
    SPARE_TICKS,
    Ask,
    AskOffer,
    AskRange,
    AskReceipts,
    AskSnapshot,
    Begin,
    BlockReceipts,
    Complete,
    Drop,
    Effect,
    Gap,
    KeepLeaves,
    KeepReceipts,
    Missing,
    Offer,
    Reply,
    Request,
    Snapshot,
    StateSync,
    WindowPart,
    left_behind,
    verify_snapshot,
)
from node.validator.store import Database, Store
from tests.node.network import Network, open_network
from tests.node.validator.test_prune import everything, grow
from vm import tree
from vm.epoch import epochs
from vm.range import FIRST_PATH, LAST_PATH, StateRange
from vm.refusal import Refused
from vm.shape import pack, unpack

SNAPSHOT = 8
WINDOW = 4
PEERS = ("a", "b", "c")

Lie = Callable[[Reply], Reply]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A chain of 30 blocks with snapshots at 16 and 24."""
    with open_network(tmp_path_factory.mktemp("served")) as network:
        grow(network, 30)
        yield network


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


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    made = Store(tmp_path / "joining")
    yield made
    made.close()


# A whole sync


def test_a_synced_store_is_the_chain_at_the_snapshot(network: Network, tmp_path: Path) -> None:
    """It goes on with the same blocks to the same headers, and is pruned and synced from."""
    store = Store(tmp_path / "joining")
    talk = Dialogue(core(network), source_of(network), store)

    assert talk.run()
    Sync(store).install()

    head = store.head()
    row = network.chain.store.row(24)
    assert head is not None
    assert row is not None
    assert (head.height, head.header, head.root.digest) == (24, row.header.digest, row.root.digest)
    assert Sync(store).kept() is None
    joined = Network(store, network.genesis)
    assert (view := joined.chain.view()) is not None
    assert view.height == 24
    for block in network.chain.store.blocks(25, 30):
        height = joined.chain.head.height + 1
        header = joined.chain.execute(height, block.payload, block.certificate)
        joined.certify(header)
    assert joined.chain.head.header == network.chain.head.header
    for height in range(21, 30):
        path = tree.inclusion_path_at(store.history_node, height, 30)
        found = store.header(height)
        assert found is not None
        assert found == network.chain.store.header(height)
        last = store.header(30)
        assert last is not None
        assert tree.verify_inclusion(found.digest, height, 30, path, last.history)
    pruner = Pruner(store, SNAPSHOT, WINDOW)
    list(pruner.steps(pruner.target(4)))
    again = Store(tmp_path / "again")
    assert Dialogue(core(network), Source(store, SNAPSHOT, WINDOW), again).run()
    Sync(again).install()
    assert again.head() == head
    again.close()
    store.close()


def test_replays_are_known_after_a_sync(network: Network, store: Store) -> None:
    """The ids of the window's transactions are there, each at its place."""
    assert Dialogue(core(network), source_of(network), store).run()
    Sync(store).install()

    for height in range(21, 25):
        row = network.chain.store.row(height)
        assert row is not None
        for receipt in row.receipts:
            place = store.place(receipt.transaction)
            assert place == network.chain.store.place(receipt.transaction)
            assert place is not None


def test_a_long_absent_node_syncs_over_its_old_chain(network: Network, tmp_path: Path) -> None:
    """Until the head changes its own chain is as it was; what it no longer needs is pruned."""
    with open_network(tmp_path) as old:
        grow(old, 5)
        store, head = old.chain.store, old.chain.head
        store.sync()  # as fetching does, which notes the height
        before = everything(store)
        talk = Dialogue(core(network, executed=5), source_of(network), store)

        assert talk.run()
        kept = everything(store)
        assert store.head() == head
        assert {key: kept[key] for key in before} == before
        Sync(store).install()
        pruner = Pruner(store, SNAPSHOT, WINDOW)
        list(pruner.steps(pruner.target(0)))

        fresh = Store(tmp_path / "fresh")
        assert Dialogue(core(network), source_of(network), fresh).run()
        Sync(fresh).install()
        pruner = Pruner(fresh, SNAPSHOT, WINDOW)
        list(pruner.steps(pruner.target(0)))
        fresh.sync()
        store.sync()  # both note the height
        wanted, found = everything(fresh), everything(store)
        extra = {key[:1] for key in found.keys() - wanted.keys()}
        assert {key: found[key] for key in wanted} == wanted
        assert extra <= {b"h", b"y", b"m"}  # headers and history of what it had executed
        fresh.close()


@pytest.mark.parametrize("survived", range(2, 40, 3))
def test_a_sync_goes_on_where_it_was(network: Network, tmp_path: Path, survived: int) -> None:
    """Killed after any reply, what was kept is not asked for again."""
    first = Store(tmp_path / "joining")
    talk = Dialogue(core(network), source_of(network), first)
    talk.run(survived)
    first.close()

    again = Store(tmp_path / "joining")
    kept = Sync(again).kept()
    more = Dialogue(core(network, kept=kept), source_of(network), again)
    assert more.run()
    Sync(again).install()

    assert (kept is None) == (not talk.sync.snapshot)
    ranges = [ask.request for ask in more.asked if isinstance(ask.request, AskRange)]
    if kept is not None:
        assert not any(isinstance(ask.request, AskSnapshot) for ask in more.asked)
        known = [gap for gap in kept[1].gaps if gap == Gap(FIRST_PATH, LAST_PATH)]
        assert known or all(request.gap.start != FIRST_PATH for request in ranges)
    row = network.chain.store.row(24)
    head = again.head()
    assert row is not None
    assert head is not None
    assert head.root.digest == row.root.digest
    again.close()


def test_an_install_is_whole_or_not_at_all(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any batch of it, the head is the old one, and installing again is enough."""
    monkeypatch.setattr("node.validator.install.BATCH_ROWS", 7)
    with open_network(tmp_path) as old:
        grow(old, 3)
        store, head = old.chain.store, old.chain.head
        assert Dialogue(core(network, executed=3), source_of(network), store).run()
        database, writes = store.database, 0
        while True:
            store.database = cast(Database, Mortal(database, writes))
            try:
                Sync(store).install()
                break
            except Killed:
                found = store.head()
                assert found is not None
                if found != head:
                    break  # what is left is to forget the sync
            writes += 1
        store.database = database

        assert writes > 20
        assert found is not None
        assert found.height == 24


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


# Liars


def _first(lie: Callable[[StateRange], StateRange]) -> Lie:
    return lambda reply: lie(reply) if isinstance(reply, StateRange) else reply


def _bent(reply: Snapshot) -> Snapshot:
    header = replace(reply.header, state=bytes(32))
    return replace(reply, headers=(*reply.headers[:-1], header))


LIES: dict[str, tuple[Lie, str]] = {
    "a leaf left out": (_first(lambda r: replace(r, leaves=r.leaves[1:])), "state_range."),
    "a value changed": (
        _first(
            lambda r: (
                replace(r, leaves=(replace(r.leaves[0], value=b"x"), *r.leaves[1:]))
                if r.leaves
                else replace(r, right=(b"\x01" * 32,))
            )
        ),
        "state_range.",
    ),
    "nothing at all": (
        _first(lambda r: StateRange(LAST_PATH, (), (), (), None, None)),
        "state_range.",
    ),
    "another state": (lambda r: _bent(r) if isinstance(r, Snapshot) else r, "audit.header"),
    "headers of another history": (
        lambda r: (
            replace(r, headers=(replace(r.headers[0], time_ms=1), *r.headers[1:]))
            if isinstance(r, Snapshot)
            else r
        ),
        "snapshot.history",
    ),
    "a frontier of another history": (
        lambda r: (
            replace(r, frontier=tree.Frontier(r.frontier.size, r.frontier.peaks[::-1]))
            if isinstance(r, Snapshot)
            else r
        ),
        "snapshot.history",
    ),
    "fewer headers": (
        lambda r: replace(r, headers=r.headers[1:]) if isinstance(r, Snapshot) else r,
        "snapshot.height",
    ),
    "no quorum": (
        lambda r: (
            replace(r, certificate=replace(r.certificate, votes=r.certificate.votes[1:]))
            if isinstance(r, Snapshot)
            else r
        ),
        "audit.certificate.no_quorum",
    ),
    "receipts left out": (
        lambda r: WindowPart((BlockReceipts(()),)) if isinstance(r, WindowPart) else r,
        "snapshot.receipts",
    ),
    "receipts of too many blocks": (
        lambda r: WindowPart(r.blocks * 9) if isinstance(r, WindowPart) else r,
        "snapshot.receipts",
    ),
    "something else": (
        lambda r: Offer((), 0, 0) if isinstance(r, StateRange) else r,
        "snapshot.reply",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_liar_is_dropped_and_named(name: str, network: Network, store: Store) -> None:
    """Whatever it lies about; the sync ends with the true state from the others."""
    lie, code = LIES[name]
    liar = "b" if code.startswith("state_range") or name == "something else" else "a"
    talk = Dialogue(core(network), source_of(network), store, lies={liar: lie})

    assert talk.run()
    Sync(store).install()

    [drop] = talk.dropped
    assert drop.peer == liar
    assert drop.code.startswith(code)
    assert "expected" in drop.message
    head, row = store.head(), network.chain.store.row(24)
    assert head is not None
    assert row is not None
    assert head.header == row.header.digest


def test_receipts_end_with_the_snapshot(network: Network, store: Store) -> None:
    """All of the window's are true, and one block more is behind it."""
    source = source_of(network)
    whole = source.receipts(24, 21, 10**6).blocks
    lie = WindowPart((*whole, BlockReceipts(())))
    lies: dict[str, Lie] = {"a": lambda r: lie if isinstance(r, WindowPart) else r}
    talk = Dialogue(core(network, peers=("a",), enough=1), source, store, lies=lies)

    assert not talk.run(100)

    [drop] = talk.dropped
    assert (drop.code, len(whole)) == ("snapshot.receipts", WINDOW)
    assert "at most 4 blocks" in drop.message


def test_nothing_of_liars_alone_is_kept(network: Network, store: Store) -> None:
    """With every peer dropped the sync is hopeless, and no leaf is in the store."""
    lie = _first(lambda r: replace(r, end=LAST_PATH, leaves=(), right=()))
    talk = Dialogue(core(network), source_of(network), store, lies=dict.fromkeys(PEERS, lie))

    assert not talk.run(200)

    assert talk.sync.hopeless
    assert {drop.peer for drop in talk.dropped} == set(PEERS)
    assert not any(key.startswith(b"ql") for key in everything(store))


@settings(max_examples=20)
@given(data=st.data())
def test_any_one_liar_and_any_silence_lead_to_the_state(
    tmp_path_factory: pytest.TempPathFactory, network: Network, data: st.DataObject
) -> None:
    """As long as one honest peer answers."""
    names = data.draw(st.permutations(PEERS))
    lie = LIES[data.draw(st.sampled_from(sorted(LIES)))][0]
    store = Store(tmp_path_factory.mktemp("sync") / "store")

    talk = Dialogue(
        core(network),
        source_of(network),
        store,
        lies={names[0]: lie},
        silent=frozenset(data.draw(st.sets(st.just(names[1])))),
    )

    assert talk.run()
    assert {drop.peer for drop in talk.dropped} <= {names[0]}
    Sync(store).install()
    store.close()


# Whom to ask


def test_requests_are_spread_over_peers(network: Network, store: Store) -> None:
    """After the first range each peer fills another gap; nobody has two requests at a time."""
    talk = Dialogue(core(network), source_of(network), store)

    assert talk.run()

    ranges = [ask for ask in talk.asked if isinstance(ask.request, AskRange)]
    assert {ask.peer for ask in ranges} == set(PEERS)
    assert len({ask.request for ask in ranges}) == len(ranges)  # and none is asked twice


def test_gaps_are_bounded(network: Network) -> None:
    """However small the ranges are, no more than so many gaps are open at a time."""
    sync, source = core(network), source_of(network)
    waiting = [effect for effect in sync.start() if isinstance(effect, Ask)]
    most = 0
    while waiting:
        ask = waiting.pop(0)
        if isinstance(ask.request, AskRange):
            gap = ask.request.gap
            reply: Reply = source.range(ask.request.height, gap.start, gap.stop, 0)
        else:
            reply = answer(source, ask.request)
        effects = sync.received(ask.peer, ask.request, reply)
        waiting += [effect for effect in effects if isinstance(effect, Ask)]
        most = max(most, len(sync.missing.gaps))
        assert unpack(Missing, pack(sync.missing)) == sync.missing

    assert most == GAPS_MAX
    assert sync.missing.gaps == ()


def asks(effects: list[Effect]) -> dict[str, Request]:
    """Whom a step asks for what."""
    return {effect.peer: effect.request for effect in effects if isinstance(effect, Ask)}


def test_the_snapshot_is_one_that_enough_peers_have(network: Network) -> None:
    """A lone peer's newer one is not taken before the others had time to tell."""
    sync = core(network)
    sync.start()

    alone = sync.received("a", AskOffer(), Offer((16, 24), 30, 1))
    two = sync.received("b", AskOffer(), Offer((8, 16), 30, 1))

    assert alone == []
    assert asks(two) == {"a": AskSnapshot(16)}


def test_a_snapshot_of_one_peer_is_better_than_none(network: Network) -> None:
    """When the others are silent, what there is will do: it is verified all the same."""
    sync = core(network)
    sync.start()
    sync.received("a", AskOffer(), Offer((16, 24), 30, 1))

    found = [asks(sync.tick()) for _ in range(CHOICE_TICKS)]

    assert found[-1] == {"a": AskSnapshot(24)}
    assert not any(found[:-1])


def test_a_silent_peers_request_is_given_to_another(network: Network) -> None:
    """Nothing comes for a while: another peer is asked for the same."""
    sync, source = core(network), source_of(network)
    sync.start()
    for peer in PEERS:
        sync.received(peer, AskOffer(), source.offer())
    taken = next(name for name in PEERS if isinstance(sync._peers[name].request, AskSnapshot))

    found: dict[str, Request] = {}
    for _ in range(SPARE_TICKS):
        found |= asks(sync.tick())

    assert found
    assert taken not in found
    assert set(found.values()) == {AskSnapshot(24)}


def test_a_slow_peer_is_left_alone_while_bytes_come(network: Network) -> None:
    """There is no time in which an answer must be whole, only one between two parts of it."""
    sync, source = core(network, peers=("a",), enough=1), source_of(network)
    sync.start()
    request = asks(sync.received("a", AskOffer(), source.offer()))["a"]

    for _ in range(10 * SILENT_TICKS):
        sync.progressed("a")
        assert sync.tick() == []

    effects = sync.received("a", request, answer(source, request))
    assert any(isinstance(effect, Begin) for effect in effects)


def test_without_a_byte_it_is_asked_again_after_a_rest(network: Network) -> None:
    """A peer that is down for a while is not forgotten."""
    sync, source = core(network, peers=("a",), enough=1), source_of(network)
    sync.start()
    sync.received("a", AskOffer(), source.offer())

    found = [asks(sync.tick()) for _ in range(SILENT_TICKS + REST_TICKS)]

    assert found[-1] == {"a": AskSnapshot(24)}
    assert not any(found[:-1])


def test_a_snapshot_that_all_have_pruned_is_given_up(network: Network, store: Store) -> None:
    """The next one is begun, and nothing of the first is kept."""
    sync, source = core(network, peers=("a",), enough=1), source_of(network)
    sync.start()
    sync.received("a", AskOffer(), Offer((16,), 20, 1))
    begun = sync.received("a", AskSnapshot(16), source.snapshot(16))
    request = asks(begun)["a"]

    sync.failed("a", request, gone=True)
    for _ in range(REST_TICKS):
        effects = sync.tick()
    assert asks(effects) == {"a": AskOffer()}
    effects = sync.received("a", AskOffer(), Offer((24,), 30, 20))

    assert asks(effects) == {"a": AskSnapshot(24)}
    assert sync.snapshot is None


def test_a_late_reply_to_an_old_request_is_no_lie(network: Network) -> None:
    """A request that was given up may still be answered: nobody is dropped for it."""
    sync, source = core(network, peers=("a",), enough=1), source_of(network)
    sync.start()
    sync.received("a", AskOffer(), source.offer())

    assert sync.received("a", AskOffer(), source.offer()) == []
    assert not sync.hopeless


def test_nothing_older_than_what_we_have_is_taken(network: Network) -> None:
    """A node that executed height 24 has no use for its snapshot."""
    sync = core(network, executed=24)
    sync.start()

    for peer in PEERS:
        sync.received(peer, AskOffer(), source_of(network).offer())

    assert sync.snapshot is None
    assert all(not isinstance(peer.request, AskSnapshot) for peer in sync._peers.values())


# When


def test_who_is_left_behind() -> None:
    """Enough peers have pruned our next block, or are very far ahead, and have a snapshot."""
    near, pruned = Offer((1024, 2048), 2100, 1), Offer((1024, 2048), 2100, 1000)
    far = Offer((9216, 10240), 10_300, 1)

    assert not left_behind(0, [near] * 3, 2)
    assert not left_behind(0, [near, near, pruned], 2)
    assert left_behind(0, [near, pruned, pruned], 2)
    assert not left_behind(999, [pruned] * 3, 2)
    assert not left_behind(2048, [replace(pruned, first=2060)] * 3, 2)  # no snapshot helps
    assert left_behind(0, [far] * 2, 2)
    assert not left_behind(10_300 - module.AHEAD_BLOCKS_MAX, [far] * 3, 2)


def test_a_snapshot_of_another_chain_is_refused(network: Network) -> None:
    """Its certificate says nothing of ours."""
    found = source_of(network).snapshot(24)

    with pytest.raises(Refused, match=r"audit\.chain"):
        verify_snapshot(found, 24, bytes(32), epochs(network.chain.state()), WINDOW)
    verify_snapshot(found, 24, network.genesis.chain, epochs(network.chain.state()), WINDOW)

"""State sync over HTTP: several peers, one of them a liar, cut off anywhere, and when it begins."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp.typedefs import Handler, Middleware

from node.api.problem import problem
from node.audit.prove import whole_row
from node.validator import serve as serving
from node.validator import sync as module
from node.validator.install import Sync
from node.validator.prune import Pruner
from node.validator.serve import Source, SyncService
from node.validator.snapshot import AskOffer, AskRange, AskReceipts, AskSnapshot, Gap, Offer
from node.validator.store import Binding, Store
from node.validator.sync import LeftBehind, Peers, run, watch
from node.wire.gate import MEMBER, STATUS
from tests.harness import genesis_of
from tests.node.network import Network, open_network
from tests.node.network import grow as change_seats
from tests.node.serving import serve_app
from tests.node.validator.test_prune import everything, grow
from vm.range import FIRST_PATH, LAST_PATH
from vm.record import Member
from vm.refusal import Refused
from vm.succession import Step, follow

SNAPSHOT = 8
WINDOW = 4
JOURNAL = b"j" * 16
GENESIS = genesis_of(4)

Bend = Callable[[web.Request, bytes], bytes]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small answers, so that a small state takes many, and no long waits."""
    monkeypatch.setattr(serving, "RANGE_BYTES", 300)
    monkeypatch.setattr(module, "TICK_S", 0.01)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A chain of 30 blocks, of which the last 4 are kept, and a snapshot at 24."""
    with open_network(tmp_path_factory.mktemp("served")) as network:
        grow(network, 30)
        pruner = Pruner(network.chain.store, SNAPSHOT, WINDOW)
        list(pruner.steps(pruner.target(4)))
        yield network


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    made = Store(tmp_path / "joining")
    yield made
    made.close()


def honest(_: web.Request, body: bytes) -> bytes:
    """What is asked for."""
    return body


def corrupt(request: web.Request, body: bytes) -> bytes:
    """One bit of every range of state is another."""
    if "/state/" not in request.path:
        return body
    return body[:-40] + bytes((body[-40] ^ 1,)) + body[-39:]


@asynccontextmanager
async def peers_of(network: Network, *bends: Bend, role: str = "validator") -> AsyncIterator[Peers]:
    """A peer for each of `bends`, which may change its answers; we ask as a member of `role`."""
    member = network.chain.state().require(Member, f"hospital-4.{role}")
    async with AsyncExitStack() as stack:
        urls = {}
        for number, bend in enumerate(bends, start=1):
            source = Source(network.chain.store, SNAPSHOT, WINDOW)
            app = web.Application(middlewares=[_behind_gate(member, bend)])
            app.add_routes(SyncService(source).routes())
            url = await stack.enter_async_context(serve_app(app))
            urls[f"hospital-{number}.validator"] = url
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Peers(session, urls)


def _behind_gate(member: Member, bend: Bend) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[MEMBER] = member
        try:
            response = await handler(request)
            assert isinstance(response, web.Response)
            assert isinstance(response.body, bytes)
            return web.Response(body=bend(request, response.body))
        except Refused as refused:
            return problem(STATUS.get(refused.code, 400), refused)

    return middleware


def do(work: Callable[[], Awaitable[object]]) -> None:
    """Run to the end; only a hang reaches the limit."""

    async def main() -> None:
        await asyncio.wait_for(work(), 60)

    asyncio.run(main())


def assert_synced(store: Store, network: Network) -> None:
    """The head is the chain's at the snapshot."""
    head, header = store.head(), network.chain.store.header(24)
    assert head is not None
    assert header is not None
    assert (head.height, head.header, head.root.digest) == (24, header.digest, header.state)


def test_a_new_validator_syncs_from_several_peers(network: Network, store: Store) -> None:
    """All have pruned block 1; the journal, which is empty, need not know the certificate."""
    store.bind_journal(JOURNAL)

    async def work() -> None:
        async with peers_of(network, honest, honest, honest) as peers:
            await run(store, network.genesis, peers, WINDOW)

    do(work)

    assert_synced(store, network)
    assert store.journal == Binding(JOURNAL, 24)
    assert Sync(store).kept() is None


def test_a_peer_that_corrupts_chunks_is_dropped_and_named(
    network: Network, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sync ends with the true state from the others."""

    async def work() -> None:
        async with peers_of(network, corrupt, honest, honest) as peers:
            await run(store, network.genesis, peers, WINDOW)

    do(work)

    assert_synced(store, network)
    said = capsys.readouterr().out
    assert "sync.dropped" in said
    assert "hospital-1.validator" in said


def test_epochs_are_followed_and_can_be_followed_from_who_synced(
    tmp_path: Path, store: Store
) -> None:
    """The snapshot stands under a set that genesis does not know; its steps are served in turn."""
    with open_network(tmp_path) as served:
        change_seats(served)
        grow(served, 30 - served.chain.head.height)
        pruner = Pruner(served.chain.store, SNAPSHOT, WINDOW)
        list(pruner.steps(pruner.target(6)))

        async def work() -> None:
            async with peers_of(served, honest, honest, honest) as peers:
                await run(store, served.genesis, peers, WINDOW)

        do(work)

        assert_synced(store, served)
        joined = Network(store, served.genesis)
        for block in served.chain.store.blocks(25, served.chain.head.height):
            joined.certify(
                joined.chain.execute(joined.chain.head.height + 1, block.payload, block.certificate)
            )
        assert joined.chain.head == served.chain.head
        steps = Source(store, SNAPSHOT, WINDOW).steps(0).steps
        assert len(steps) == 1
        assert steps == Source(served.chain.store, SNAPSHOT, WINDOW).steps(0).steps
        assert follow(served.genesis, steps)[-1].digest == joined.chain.epochs[-1].digest
        earlier = whole_row(joined.chain, 22)
        assert earlier is None  # known by its receipts alone


def test_a_peer_that_never_shows_its_epochs_holds_up_nobody(
    network: Network, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trickles a byte now and then, so that no silence ends it: the others are followed."""
    steps = Peers.steps

    async def trickle(peers: Peers, peer: str, after: int) -> tuple[Step, ...]:
        while peer == "hospital-1.validator":
            peers.fresh.add(peer)
            await asyncio.sleep(module.TICK_S)
        return await steps(peers, peer, after)

    monkeypatch.setattr(Peers, "steps", trickle)

    async def work() -> None:
        async with peers_of(network, honest, honest, honest) as peers:
            await run(store, network.genesis, peers, WINDOW)

    do(work)

    assert_synced(store, network)


def test_an_epoch_may_begin_while_a_sync_is_under_way(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next snapshot stands under a set that nobody knew before: no honest peer is dropped."""
    with open_network(tmp_path) as served:
        pruner = Pruner(served.chain.store, SNAPSHOT, WINDOW)

        def go_on_to(height: int) -> None:
            grow(served, height - served.chain.head.height)
            list(pruner.steps(pruner.target(4)))

        def overtake(request: web.Request, body: bytes) -> bytes:
            if "/8/state/" in request.path and served.chain.head.height == 9:
                change_seats(served)
                go_on_to(30)
            return body

        go_on_to(9)

        async def work() -> None:
            async with peers_of(served, overtake, overtake, overtake) as peers:
                await run(store, served.genesis, peers, WINDOW)

        do(work)

        assert_synced(store, served)
        assert "sync.dropped" not in capsys.readouterr().out


def test_liars_alone_install_nothing(network: Network, store: Store) -> None:
    """The refusal names each with what was wrong."""

    async def work() -> None:
        bend = _swap_snapshot
        async with peers_of(network, bend, bend, bend) as peers:
            await run(store, network.genesis, peers, WINDOW)

    with pytest.raises(Refused, match=r"sync\.peers.*hospital-1.*audit") as refused:
        do(work)

    assert "hospital-3.validator: audit." in refused.value.message
    assert store.head() is None


def _swap_snapshot(request: web.Request, body: bytes) -> bytes:
    """One bit of the certified header is another: of its time, so that it still decodes."""
    if request.path != "/sync/24":
        return body
    header = genesis_of(4).chain  # each header begins with the chain's id
    place = body.rindex(header) + len(header) + 5
    return body[:place] + bytes((body[place] ^ 1,)) + body[place + 1 :]


def test_who_is_not_left_behind_begins_nothing(tmp_path: Path, network: Network) -> None:
    """Peers still have the next block: it is fetched by consensus as ever."""
    with open_network(tmp_path) as near:
        grow(near, 27)
        before = everything(near.chain.store)

        async def work() -> None:
            async with peers_of(network, honest, honest, honest) as peers:
                await run(near.chain.store, network.genesis, peers, WINDOW)

        do(work)

        assert everything(near.chain.store) == before


def test_nobody_answers_and_nothing_begins(store: Store) -> None:
    """All start at once after a power cut: then consensus goes on with what there is."""

    async def work() -> None:
        async with aiohttp.ClientSession() as session:
            peers = Peers(session, {"hospital-1.validator": "http://127.0.0.1:1"})
            await run(store, GENESIS, peers, WINDOW)

    do(work)

    assert store.head() is None


@pytest.mark.parametrize("answers", [4, 9, 15])
def test_a_sync_that_was_cut_off_goes_on(network: Network, store: Store, answers: int) -> None:
    """Cancelled after so many answers: the next run asks for the rest alone."""
    left = answers
    cut = asyncio.Event()

    def counted(request: web.Request, body: bytes) -> bytes:
        nonlocal left
        left -= "/state/" in request.path
        if left <= 0:
            cut.set()
            raise Refused("sync.busy", "expected nothing more before the cut")
        return body

    async def first() -> None:
        async with peers_of(network, counted, counted, counted) as peers:
            running = asyncio.ensure_future(run(store, network.genesis, peers, WINDOW))
            stopped = asyncio.ensure_future(cut.wait())
            await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asked: list[str] = []

    def noted(request: web.Request, body: bytes) -> bytes:
        asked.append(request.path)
        return body

    async def second() -> None:
        async with peers_of(network, noted, noted, noted) as peers:
            await run(store, network.genesis, peers, WINDOW)

    do(first)
    kept = Sync(store).kept()
    assert kept is not None
    assert store.head() is None
    do(second)

    assert_synced(store, network)
    assert "/sync/24" not in asked
    begun = {path.split("/")[4] for path in asked if "/state/" in path}
    assert kept[1].gaps == () or begun
    assert FIRST_PATH.hex() not in begun


def test_a_complete_sync_is_installed_without_peers(
    network: Network, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the install, everything is on disk: nobody is asked."""

    def dies(_: Sync) -> None:
        raise KeyError("killed")

    async def first() -> None:
        async with peers_of(network, honest, honest, honest) as peers:
            await run(store, network.genesis, peers, WINDOW)

    async def second() -> None:
        async with aiohttp.ClientSession() as session:
            await run(store, network.genesis, Peers(session, {}), WINDOW)

    with monkeypatch.context() as patch:
        patch.setattr(Sync, "install", dies)
        with pytest.raises(KeyError, match="killed"):
            do(first)
    assert store.head() is None
    do(second)

    assert_synced(store, network)


def test_watching_ends_a_validator_that_is_left_behind(network: Network, tmp_path: Path) -> None:
    """It has not moved since the last look, and peers have pruned what comes next."""
    with open_network(tmp_path) as away:
        grow(away, 5)

        async def work() -> None:
            async with peers_of(network, honest, honest, honest) as peers:
                await watch(away.chain.store, peers, 0.01)

        with pytest.raises(LeftBehind):
            do(work)


def test_watching_lets_a_validator_be_that_is_not(network: Network, tmp_path: Path) -> None:
    """An idle network is no reason, however often one looks."""
    looks = 0
    seen = asyncio.Event()

    def counted(_: web.Request, body: bytes) -> bytes:
        nonlocal looks
        looks += 1
        if looks == 9:
            seen.set()
        return body

    with open_network(tmp_path) as near:
        grow(near, 28)

        async def work() -> None:
            async with peers_of(network, counted, counted, counted) as peers:
                watching = asyncio.ensure_future(watch(near.chain.store, peers, 0.01))
                await seen.wait()
                assert not watching.done()
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

        do(work)


# What a peer serves


def test_only_validators_are_served(network: Network) -> None:
    """A trainer's connection gets nothing of the state in bulk."""

    async def work() -> None:
        async with peers_of(network, honest, role="trainer") as peers:
            await peers.ask("hospital-1.validator", AskOffer())

    with pytest.raises(Refused, match=r"peer\.role: expected a validator, found hospital-4\.train"):
        do(work)


def test_what_is_not_there_is_refused(network: Network) -> None:
    """Snapshots that are none or gone, blocks outside the window, ranges upside down."""
    whole = Gap(FIRST_PATH, LAST_PATH)
    asked = {
        "sync.gone": (AskSnapshot(23), AskSnapshot(10**15), AskRange(8, whole), AskReceipts(9, 9)),
        "sync.window": (AskReceipts(24, 20), AskReceipts(24, 25)),
        "sync.range": (AskRange(24, Gap(LAST_PATH, FIRST_PATH)),),
    }

    async def work() -> None:
        async with peers_of(network, honest) as peers:
            for code, requests in asked.items():
                for request in requests:
                    with pytest.raises(Refused) as refused:
                        await peers.ask("hospital-1.validator", request)
                    assert refused.value.code == code

    do(work)


def test_a_peer_makes_a_bounded_number_of_answers_at_a_time(network: Network) -> None:
    """One member that asks all the time takes few of them, and more of all are refused."""
    service, member = (
        SyncService(Source(network.chain.store)),
        network.chain.state().require(Member, "hospital-4.validator"),
    )
    release, none = threading.Event(), Offer((), 0, 1)

    def slow() -> Offer:
        release.wait(30)
        return none

    def ask(number: int, make: Callable[[], Offer]) -> asyncio.Task[web.Response]:
        request = make_mocked_request("GET", "/sync")
        request[MEMBER] = replace(member, id=f"hospital-{number}.validator")
        return asyncio.ensure_future(service._answer(request, make))

    async def work() -> None:
        running = [ask(1, slow) for _ in range(serving.ANSWERS_OF_MEMBER_MAX)]
        with pytest.raises(Refused, match=r"sync\.busy"):
            await ask(1, lambda: none)
        assert (await ask(2, lambda: none)).status == 200
        room = range(serving.ANSWERS_MAX - len(running))
        running += [ask(number, slow) for number in range(2, 2 + len(room))]
        with pytest.raises(Refused, match=r"sync\.busy"):
            await ask(99, lambda: none)
        release.set()
        await asyncio.gather(*running)
        assert (await ask(1, lambda: none)).status == 200
        assert service._making == {}

    do(work)


def test_an_answer_is_read_no_further_than_its_bound(network: Network) -> None:
    """A peer that sends without end fills no memory."""

    def endless(_: web.Request, body: bytes) -> bytes:
        return body + bytes(10_000)

    async def work() -> None:
        async with peers_of(network, endless) as peers:
            await peers.ask("hospital-1.validator", AskOffer())

    with pytest.raises(Refused, match=r"sync\.too_large: .* at most 1024 bytes"):
        do(work)

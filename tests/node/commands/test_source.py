"""What a command of an auditor's goes by, and when it relies on nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node.audit.file import verify_file
from node.client.client import Client
from node.commands.proofs import _fetch
from node.commands.source import Followed, Nodes, Source, sync
from node.home.testnet import write_testnet
from node.light import ask
from node.light.history import History, pin_of
from node.light.store import CONFLICTS, Store
from tests.node.client.asking import DEAD, lying
from tests.node.light.liar import Server, certified, forked, honest, lagging, liar
from tests.node.network import HOSPITALS, Network, grow, open_network, register_dataset
from tests.node.serving import serve_app
from vm.inclusion import RecordProof
from vm.record import Dataset
from vm.refusal import Refused
from vm.state import state_key
from vm.trust import Pin, from_genesis

WANTED = ask.Wanted(
    "/v1/datasets/hospital-1.opt",
    RecordProof,
    state_key(Dataset.KIND, ("hospital-1.opt",)),
    None,
)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain of two sets of validators."""
    with open_network(tmp_path / "a") as made:
        made.block(register_dataset(made, HOSPITALS[0]))
        grow(made)
        made.block()
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "followed")


def pinned(network: Network) -> Pin:
    """A pin under the second set."""
    return pin_of(certified(network, network.chain.epochs[1].first).header)


def with_nodes(
    network: Network,
    servers: Sequence[Server],
    check: Callable[[Source], Awaitable[None]],
    *,
    pin: Pin | None = None,
    store: Store | None = None,
    urls: tuple[str, ...] = (),
) -> None:
    """Check a source of these nodes, and of `urls`."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            found = [await stack.enter_async_context(serve_app(server())) for server in servers]
            await check(Source(network.genesis, (*urls, *found), None, pin, store))

    asyncio.run(main())


async def refused(awaitable: Awaitable[object]) -> Refused:
    """Why something is refused."""
    with pytest.raises(Refused) as caught:
        await awaitable
    return caught.value


def test_a_sync_keeps_what_it_followed(network: Network, store: Store) -> None:
    """Though some nodes are dead or lie: they are listed, and one honest is enough."""

    async def check(source: Source) -> None:
        found, held = await sync(source)
        assert [seen.state.value for seen in found.seen] == ["unreachable", "refused", "agrees"]
        assert store.load(network.genesis, None) == held

    servers = [lambda: lying({}), honest(network)]
    with_nodes(network, servers, check, store=store, urls=(DEAD,))


def test_a_sync_without_an_honest_node_says_what_is_worst(network: Network, store: Store) -> None:
    """A lie before a silence."""
    false = liar(
        network, "/v1/checkpoints", lambda body: body["items"][0].update(proof="?") or body
    )

    async def lies(source: Source) -> None:
        assert (await refused(sync(source))).code == "audit.base64"

    async def dead(source: Source) -> None:
        assert (await refused(sync(source))).code == "client.unreachable"

    with_nodes(network, [false], lies, store=store, urls=(DEAD,))
    with_nodes(network, [], dead, store=store, urls=(DEAD,))
    assert store.load(network.genesis, None) is None


def test_a_sync_that_shows_less_than_is_held_is_stale(network: Network, store: Store) -> None:
    """Whoever hides what came since is told from a chain that stands still."""

    async def follow(source: Source) -> None:
        await sync(source)

    async def check(source: Source) -> None:
        found = await refused(sync(source))
        assert found.code == "client.stale"
        assert "ask other validators" in found.message

    with_nodes(network, [honest(network)], follow, store=store)
    with_nodes(network, [lagging(network)], check, store=store)


def test_a_sync_that_finds_a_fork_keeps_the_evidence(
    network: Network, store: Store, tmp_path: Path
) -> None:
    """And says where it is."""
    with forked(tmp_path / "b", network.chain.head.height) as other:

        async def check(source: Source) -> None:
            found = await refused(sync(source))
            assert found.code == "audit.conflict"
            assert str(store.folder / CONFLICTS) in found.message

        with_nodes(network, [honest(network), honest(other)], check, store=store)


def test_a_sync_needs_a_folder(network: Network) -> None:
    """What was followed has to be somewhere."""

    async def check(source: Source) -> None:
        assert (await refused(sync(source))).code == "usage.store"

    with_nodes(network, [honest(network)], check)


@pytest.mark.parametrize("way", ["genesis", "pin", "store"])
def test_a_proof_is_fetched_and_verified_as_its_file(
    network: Network, store: Store, tmp_path: Path, way: str
) -> None:
    """By whatever the auditor goes; the file verifies by the same elsewhere."""
    pin = pinned(network) if way == "pin" else None
    kept = store if way == "store" else None
    save = tmp_path / "proof.json"

    async def check(source: Source) -> None:
        if kept is not None:
            await sync(source)
        audit = await _fetch(source, WANTED, save)
        assert audit.subject == "dataset hospital-1.opt"

    with_nodes(network, [honest(network)], check, pin=pin, store=kept)

    if pin is None:
        audit = verify_file(from_genesis(network.genesis), save.read_bytes())
        assert audit.height == network.chain.head.height


def test_what_a_client_goes_by_is_followed_first(
    network: Network, store: Store, tmp_path: Path
) -> None:
    """With a pin or a store, nothing is read of a chain that is forked."""
    with forked(tmp_path / "b", network.chain.head.height) as other:

        async def check(source: Source) -> None:
            found = await refused(_read(source))
            assert found.code in ("pin.header", "audit.validators", "audit.conflict")

        with_nodes(network, [honest(other)], check, pin=pinned(network))

        async def follow(source: Source) -> None:
            await sync(source)

        async def fork(source: Source) -> None:
            found = await refused(_read(source))
            assert found.code == "audit.conflict"
            assert "run concilium audit sync" in found.message

        with_nodes(network, [honest(network)], follow, store=store)
        with_nodes(network, [honest(other)], fork, store=store)


async def _read(source: Source) -> tuple[Client, History | None]:
    async with source.client() as found:
        return found


def test_a_client_reads_nothing_older_than_what_was_followed(
    network: Network, store: Store
) -> None:
    """Though it asks a node that did not show it."""

    async def check(source: Source) -> None:
        await sync(source)
        async with source.client() as (client, held):
            assert held is not None
            assert client.proven.height == network.chain.head.height

    with_nodes(network, [honest(network)], check, store=store)


def test_options_say_whom_to_ask(tmp_path: Path) -> None:
    """Each that is missing is named."""
    genesis = tmp_path / "genesis.json"
    for options, code in (
        (Nodes(), "usage.genesis"),
        (Nodes(genesis=genesis), "usage.url"),
        (Followed(genesis=genesis, url=("http://a",)), "genesis.unreadable"),
    ):
        with pytest.raises(Refused) as caught:
            options.source()
        assert caught.value.code == code


def test_a_home_has_its_store_in_it(tmp_path: Path) -> None:
    """Unless another folder is named."""
    home = write_testnet(tmp_path / "net", now=datetime(2026, 3, 1, tzinfo=UTC)).auditor

    source = Followed(home=home).source()
    other = Followed(home=home, store=tmp_path / "other", pin=f"7:{'0' * 64}").source()

    assert len(source.urls) == 4
    assert source.require_store().folder == home / "followed"
    assert other.require_store().folder == tmp_path / "other"
    assert other.pin == Pin(7, bytes(32))
    assert Nodes(home=home).source().store is None

"""What lies below the header that was followed: keys that were retired since prove none of it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from node.audit.prove import prove_key, prove_transaction
from node.client.client import NEWEST_PATH, Client
from node.client.proven import Proven
from node.light import ask
from node.light.history import History, pin_of
from tests.node.client.asking import encoded, refusal
from tests.node.light.liar import (
    Server,
    answering,
    certified,
    following,
    forked,
    held_at,
    honest,
    rotated,
    showing,
    under,
)
from tests.node.network import Network
from tests.node.serving import serve_app
from vm.inclusion import RecordProof, TransactionProof
from vm.record import Dataset
from vm.state import state_key

KEY = state_key(Dataset.KIND, ("hospital-2.opt",))  # registered in the forged history alone
PATH = "/v1/datasets/hospital-2.opt?at=2"
WANTED = ask.Wanted(PATH, RecordProof, KEY, 2)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A chain whose first validators have other keys by now; nothing here writes to it."""
    folder: Path = tmp_path_factory.mktemp("true")
    with rotated(folder) as made:
        yield made


@pytest.fixture(scope="module")
def forgery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Six heights from the same genesis, certified by whoever has stolen the first keys."""
    folder: Path = tmp_path_factory.mktemp("forged")
    with forked(folder, 6) as made:
        yield made


def asked(
    network: Network,
    history: History,
    check: Callable[[Client], Awaitable[None]],
    *servers: Server,
) -> None:
    """Check a client that goes by a history and asks these nodes in order."""

    async def main() -> None:
        assert history.newest is not None
        proven = Proven(history.trust, history.steps, history.newest.header)
        async with AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(serve_app(server())) for server in servers]
            client = Client(network.genesis, urls, proven=proven)
            await check(await stack.enter_async_context(client))

    asyncio.run(main())


def followed(network: Network) -> History:
    """All of it, from genesis."""
    return held_at(network, network.chain.head.height)


def from_early_pin(network: Network) -> History:
    """All of it, from a pin under the validators whose keys were stolen since."""
    header = network.chain.store.header(5)
    assert header is not None

    async def main() -> History:
        async with following(network, honest(network), pin=pin_of(header)) as follower:
            held = (await follower.round()).held
            assert held is not None
            return held

    return asyncio.run(main())


def forging_records(network: Network, forgery: Network) -> Server:
    """An honest node but for a record and a transaction, which it shows of the forged history."""
    view = forgery.chain.view(2)
    assert view is not None
    proof = encoded(prove_key(forgery.chain, view, KEY))
    row = forgery.chain.store.row(1)
    assert row is not None
    receipt = encoded(prove_transaction(forgery.chain, row.receipts[0].transaction))

    def lie(path: str, _: Any) -> Any:
        if path.startswith("/v1/transactions/"):
            return {"status": "certified", "proof": receipt}
        return {"proof": proof} if path == PATH else None

    return answering(network, lie)


@pytest.mark.parametrize("history", [followed, from_early_pin])
def test_a_record_of_a_forged_past_is_refused(
    network: Network, forgery: Network, history: Callable[[Network], History]
) -> None:
    """The attack: honest while it is followed, then an old record under old keys' certificates."""

    async def check(client: Client) -> None:
        bad = client.urls[0]
        found = await ask.proof(client, WANTED)
        assert isinstance(found, RecordProof)
        assert found.value is None
        assert client.distrusted[bad].code == "audit.path.root"

    asked(network, history(network), check, forging_records(network, forgery), honest(network))


@pytest.mark.parametrize("history", [followed, from_early_pin])
def test_a_transaction_of_a_forged_past_is_refused(
    network: Network, forgery: Network, history: Callable[[Network], History]
) -> None:
    """The attack: a receipt of what the chain never executed."""
    row = forgery.chain.store.row(1)
    assert row is not None
    id = row.receipts[0].transaction
    wanted = ask.Wanted(f"/v1/transactions/{id.hex()}", TransactionProof, id, None)

    async def check(client: Client) -> None:
        assert await refusal(ask.proof(client, wanted)) == "audit.transaction"
        assert await refusal(client.receipt(id)) == "audit.before_pin"

    asked(network, history(network), check, forging_records(network, forgery))


@pytest.mark.parametrize("history", [followed, from_early_pin])
def test_a_forged_checkpoint_is_not_the_newest(
    network: Network, forgery: Network, history: Callable[[Network], History]
) -> None:
    """The attack: height 6 as the newest, with another block 1 in its history."""

    async def check(client: Client) -> None:
        assert await refusal(ask.block(client, 1)) == "audit.before_pin"
        assert await refusal(client.header_at(2)) == "audit.before_pin"

    async def beside(client: Client) -> None:
        assert (await ask.block(client, 1)).header == certified(network, 1).header

    asked(network, history(network), check, honest(forgery))
    asked(network, history(network), beside, honest(forgery), honest(network))


def test_a_node_that_shows_an_old_checkpoint_hides_no_block(network: Network) -> None:
    """The attack: a true header that no other node has a certificate for, or an old one."""
    top = network.chain.head.height

    async def check(client: Client) -> None:
        found = await ask.block(client, 5)
        assert found.header == certified(network, 5).header
        assert found.certificate.height == top

    for shown in (certified(network, 3), under(network, 3, top)):
        asked(network, followed(network), check, showing(network, shown), honest(network))


def test_each_node_shows_a_block_under_its_own_newest_checkpoint(network: Network) -> None:
    """The attack: a true checkpoint that others have no certificate for, and then no block."""
    before = network.chain.head.height - 1
    newest = {"items": [{"proof": encoded(certified(network, before))}], "next": None}

    def lie(path: str, _: Any) -> Any:
        return newest if path.startswith(NEWEST_PATH) else {}

    def lack(path: str, _: Any) -> Any:
        return {} if f"under={before}" in path else None

    async def check(client: Client) -> None:
        assert (await ask.block(client, 5)).header == certified(network, 5).header

    asked(
        network, held_at(network, before), check, answering(network, lie), answering(network, lack)
    )

"""What a light client asks for: proofs now and then, before its pin and after."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from node.audit.prove import newest, prove_key
from node.client.client import Client
from node.client.proven import Proven
from node.light import ask
from node.light.history import History, pin_of
from tests.node.client.asking import lying, refusal
from tests.node.light.liar import (
    Server,
    certified,
    following,
    forging,
    honest,
    lagging,
    liar,
    resigned,
)
from tests.node.network import Network
from tests.node.serving import serve_app
from vm.inclusion import CertifiedHeader, RecordProof, TransactionProof
from vm.record import Dataset
from vm.refusal import Refused
from vm.state import state_key
from vm.trust import Pin

KEY = state_key(Dataset.KIND, ("hospital-1.opt",))
PATH = "/v1/datasets/hospital-1.opt"


def late(network: Network) -> Pin:
    """A pin under the newest set."""
    return pin_of(certified(network, network.chain.epochs[2].first).header)


def asked(
    network: Network,
    check: Callable[[Client], Awaitable[None]],
    *servers: Server,
    pin: Pin | None = None,
) -> None:
    """Check a client that has followed an honest node and asks `servers` in order, or that node."""

    async def held() -> History:
        async with following(network, honest(network), pin=pin) as follower:
            history = (await follower.round()).held
            assert history is not None
            return history

    async def main() -> None:
        history = await held()
        proven = Proven(history.trust, history.steps)
        async with AsyncExitStack() as stack:
            urls = [
                await stack.enter_async_context(serve_app(server()))
                for server in servers or (honest(network),)
            ]
            client = Client(network.genesis, urls, proven=proven)
            await check(await stack.enter_async_context(client))

    asyncio.run(main())


def record(height: int | None) -> ask.Wanted:
    """The dataset, now or at a height."""
    path = PATH if height is None else f"{PATH}?at={height}"
    return ask.Wanted(path, RecordProof, KEY, height)


@pytest.mark.parametrize("pinned", [False, True])
def test_a_record_is_proven_at_any_height(network: Network, pinned: bool) -> None:
    """Below a pin under the newest checkpoint, as no certificate from before it counts."""
    pin = late(network) if pinned else None

    async def check(client: Client) -> None:
        now = await ask.proof(client, record(None))
        then = await ask.proof(client, record(2))
        before = await ask.proof(client, record(0))
        assert isinstance(then, RecordProof)
        assert isinstance(before, RecordProof)
        assert now.certified.header.height == network.chain.head.height
        assert then.certified.header.height == 2
        assert then.value is not None
        assert before.value is None
        signed = then.certified.certificate.height
        assert signed == (network.chain.head.height if pinned else 2)

    asked(network, check, pin=pin)


@pytest.mark.parametrize("pinned", [False, True])
def test_a_transaction_is_proven_however_early(network: Network, pinned: bool) -> None:
    """With its receipt."""
    row = network.chain.store.row(1)
    assert row is not None
    id = row.receipts[0].transaction
    wanted = ask.Wanted(f"/v1/transactions/{id.hex()}", TransactionProof, id, None)

    async def check(client: Client) -> None:
        found = await ask.proof(client, wanted)
        assert found.certified.header.height == 1

    asked(network, check, pin=late(network) if pinned else None)


@pytest.mark.parametrize("pinned", [False, True])
def test_a_block_is_proven_in_the_newest_history(network: Network, pinned: bool) -> None:
    """And the newest by its own certificate."""

    async def check(client: Client) -> None:
        top = network.chain.head.height
        assert (await ask.block(client, 1)).header == certified(network, 1).header
        assert (await ask.block(client, top)).later is None
        assert await refusal(ask.block(client, top + 1)) in ("block.missing", "query.invalid")

    asked(network, check, pin=late(network) if pinned else None)


def test_a_client_from_a_pin_takes_no_certificate_from_before_it(network: Network) -> None:
    """True as it is: whoever holds those keys now could have made another."""

    async def check(client: Client) -> None:
        assert await refusal(client.header_at(2)) == "audit.before_pin"
        assert client.distrusted == {}

    asked(network, check, pin=late(network))


def test_validators_of_the_pin_certify_nothing_before_it(network: Network) -> None:
    """They rule that height too; what is pinned is a history, and not only who rules."""
    first = network.chain.epochs[2].first
    pin = pin_of(certified(network, first + 1).header)

    async def check(client: Client) -> None:
        assert await refusal(client.header_at(first)) == "audit.before_pin"
        assert (await ask.block(client, first)).later is not None

    asked(network, check, pin=pin)


def test_a_neighbours_record_is_refused(network: Network) -> None:
    """A sound proof of another key."""
    key = state_key(Dataset.KIND, ("hospital-2.opt",))
    other = prove_key(network.chain, newest(network.chain), key)
    server = liar(network, PATH, forging(RecordProof, lambda _: other))

    async def check(client: Client) -> None:
        assert await refusal(ask.proof(client, record(None))) == "audit.key"

    asked(network, check, server)


def forged(proof: RecordProof) -> RecordProof:
    """Another value than the state held."""
    return replace(proof, value=b"\x00")


def unfounded(proof: RecordProof) -> RecordProof:
    """As if it stood at a height that no node has."""
    header = replace(proof.certified.header, height=1_000)
    return replace(proof, certified=replace(proof.certified, header=header))


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("lie", [forged, unfounded])
@pytest.mark.parametrize("height", [None, 2])
def test_a_liar_who_answers_first_is_passed_over(
    network: Network,
    pinned: bool,
    lie: Callable[[RecordProof], RecordProof],
    height: int | None,
) -> None:
    """At any height, before the pin too: the next node is asked."""
    server = liar(network, PATH, forging(RecordProof, lie))

    async def check(client: Client) -> None:
        bad = client.urls[0]
        found = await ask.proof(client, record(height))
        assert isinstance(found, RecordProof)
        assert found.value not in (None, b"\x00")
        assert bad in client.distrusted or lie is unfounded
        assert client.urls[-1] == bad

    asked(network, check, server, honest(network), pin=late(network) if pinned else None)


def test_what_lies_below_a_pin_is_no_answer_for_now(network: Network) -> None:
    """A node that shows an old state as the newest is passed over."""
    view = network.chain.view(3)
    assert view is not None
    old = prove_key(network.chain, view, KEY)
    server = liar(network, PATH, forging(RecordProof, lambda _: old))

    async def check(client: Client) -> None:
        found = await ask.proof(client, record(None))
        assert found.certified.header.height == network.chain.head.height

    asked(network, check, server, honest(network), pin=late(network))


def test_where_all_nodes_fail_it_says_what_each_one_did(network: Network) -> None:
    """The code is that of the first; nobody has to guess which node did what."""
    server = liar(network, PATH, forging(RecordProof, forged))

    async def check(client: Client) -> None:
        bad, other = client.urls
        with pytest.raises(Refused) as caught:
            await ask.proof(client, record(2))
        assert caught.value.code == "audit.path.root"
        assert f"{bad}: audit.path.root" in caught.value.message
        assert f"{other}: audit.missing" in caught.value.message

    asked(network, check, server, lambda: lying({}), pin=late(network))


def test_a_client_knows_the_header_at_its_pin(network: Network) -> None:
    """The attack: another header there, by the very validators who rule it."""
    pin = late(network)
    ids = [f"hospital-{number}.validator" for number in (2, 3, 4)]
    server = liar(
        network,
        f"/v1/blocks/{pin.height}",
        forging(CertifiedHeader, lambda found: resigned(found, *ids, state=bytes(32))),
    )

    async def check(client: Client) -> None:
        assert await refusal(client.header_at(pin.height)) == "pin.header"

    asked(network, check, server, pin=pin)


def test_a_proof_of_another_height_is_refused(network: Network) -> None:
    """Sound, and not what was asked for."""

    async def check(client: Client) -> None:
        wanted = ask.Wanted(f"{PATH}?at=3", RecordProof, KEY, 2)
        assert await refusal(ask.proof(client, wanted)) == "audit.height"

    asked(network, check)


def test_what_a_node_does_not_prove_is_no_answer(network: Network) -> None:
    """A transaction that waits, and one that is unknown."""
    wanted = ask.Wanted("/v1/transactions/" + "0" * 64, TransactionProof, bytes(32), None)

    async def unknown(client: Client) -> None:
        assert await refusal(ask.proof(client, wanted)) == "transaction.missing"

    async def waiting(client: Client) -> None:
        assert await refusal(ask.proof(client, wanted)) == "audit.missing"

    asked(network, unknown)
    asked(network, waiting, lambda: lying({"status": "pending"}))


def test_a_pin_at_genesis_is_shown_by_a_later_history(network: Network) -> None:
    """No certificate is of height 0, nor of any height that a node was away for."""
    genesis = network.chain.store.header(0)
    assert genesis is not None

    async def check(client: Client) -> None:
        found = await ask.beginning(client, network.genesis, pin_of(genesis))
        assert found.newest is not None
        assert found.newest.header == genesis
        assert found.newest.later is not None

    asked(network, check)


def test_the_epoch_of_a_pin_has_to_be_the_one_that_it_names(network: Network) -> None:
    """A node that hides it, however long its list is made to be."""
    server = liar(network, "/v1/epochs", lambda body: {"items": [], "next": "1"})

    async def main() -> None:
        async with serve_app(server()) as url, Client(network.genesis, [url]) as client:
            beginning = ask.beginning(client, network.genesis, late(network))
            assert await refusal(beginning) == "pin.epoch"

    asyncio.run(main())


def test_the_newest_record_is_not_older_than_what_was_followed(network: Network) -> None:
    """A node that lags, or hides, is asked again and then left."""

    async def check(client: Client) -> None:
        client.proven.height = network.chain.head.height + 1
        assert await refusal(ask.proof(client, record(None))) == "client.stale"

    asked(network, check, lagging(network))

"""Submitting through the client: until a receipt is proven, or nothing can come any more."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from node.api import pool
from node.api.pool import READS_MAX
from node.audit.prove import prove_transaction
from node.client import client as client_module
from node.client.client import Client
from tests.harness import as_read
from tests.node.client.asking import DEAD, encoded, lying, refusal, run
from tests.node.network import HOSPITALS, Network, open_network, register_dataset
from tests.node.serving import Node, serve, serve_app
from vm.record import Standing
from vm.refusal import Refused
from vm.registry import SetStanding


def test_a_transaction_is_sent_until_its_receipt_is_proven(network: Network) -> None:
    """The receipt comes from a certified block."""
    transaction = register_dataset(network, HOSPITALS[1])

    async def check(client: Client, node: Node) -> None:
        node.prompt = True
        receipt = await client.submit_and_wait(transaction)
        assert receipt.transaction == transaction.id
        assert receipt.height == 2
        assert await client.receipt(transaction.id) == receipt

    run(network, check, DEAD)


def test_a_receipt_comes_with_its_block(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node is asked to wait for it: nobody sleeps over it."""
    monkeypatch.setattr(client_module, "RESEND_S", 2.0)
    monkeypatch.setattr(client_module, "POLL_S", 1_000)
    transaction = register_dataset(network, HOSPITALS[1])

    async def check(client: Client, node: Node) -> None:
        submitting = asyncio.create_task(client.submit_and_wait(transaction))
        await node.asked.acquire()
        node.execute()
        async with asyncio.timeout(30):
            assert (await submitting).height == 2

    run(network, check)


def test_a_transaction_sent_again_gives_the_same_receipt(network: Network) -> None:
    """A client that lost the answer asks again and gets it, also where the node refuses repeats."""
    transaction = register_dataset(network, HOSPITALS[1])
    network.block(transaction)

    async def check(client: Client, node: Node) -> None:
        def refuse(_: object) -> None:
            raise Refused("transaction.expired", "too late for this one")

        node.judge = refuse
        assert (await client.submit_and_wait(transaction)).height == 2

    run(network, check)


def test_a_failed_transaction_raises_its_receipts_code(network: Network) -> None:
    """What execution refused is refused to the caller, with the same words."""
    transaction = register_dataset(network, HOSPITALS[0])  # the id is taken

    async def check(client: Client, node: Node) -> None:
        node.prompt = True
        assert await refusal(client.submit_and_wait(transaction)) == "dataset.exists"

    run(network, check)


def test_what_every_node_refuses_is_refused_at_once(network: Network) -> None:
    """A refusal that no other try would end is not retried, dead nodes or not."""
    transaction = register_dataset(network, HOSPITALS[1])

    async def check(client: Client, node: Node) -> None:
        def refuse(_: object) -> None:
            raise Refused("access.role", "expected a steward, found a trainer")

        node.judge = refuse
        assert await refusal(client.submit_and_wait(transaction)) == "access.role"

    run(network, check, DEAD)


def test_one_nodes_refusal_does_not_outweigh_anothers_admission(network: Network) -> None:
    """A liar that refuses cannot make the client give up what an honest node has taken."""
    transaction = register_dataset(network, HOSPITALS[1])
    refusing = {"transactions": [{"id": None, "code": "access.role", "message": "never"}]}

    async def main() -> None:
        async with (
            serve_app(lying(refusing, 422)) as bad,
            serve(network) as (url, node),
            Client(network.genesis, [bad, url]) as client,
        ):
            offers = [0]

            def count(_: object) -> None:
                offers[0] += 1
                node.prompt = offers[0] == 3

            node.judge = count
            assert (await client.submit_and_wait(transaction)).height == 2

    asyncio.run(main())


def test_a_full_node_is_asked_again(network: Network) -> None:
    """A full mempool is no answer to a transaction: the client tries until there is room."""
    transaction = register_dataset(network, HOSPITALS[1])

    async def check(client: Client, node: Node) -> None:
        node.prompt = True
        left = [3]

        def refuse(_: object) -> None:
            left[0] -= 1
            if left[0]:
                raise Refused("mempool.full", "expected room, found none")

        node.judge = refuse
        assert (await client.submit_and_wait(transaction)).height == 2
        assert left == [0]

    run(network, check)


def test_nodes_too_busy_to_show_a_receipt_are_not_asked_without_pause(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They admit and then say 503: what is tried again at once only adds to that."""
    monkeypatch.setattr(client_module, "RETRY_S", 1_000)
    transaction = register_dataset(network, HOSPITALS[1])
    sleep, naps = asyncio.sleep, list[float]()

    async def noted(delay: float) -> None:
        if delay > 1:
            naps.append(delay)
        await sleep(0)

    async def check(client: Client, node: Node) -> None:
        monkeypatch.setattr(asyncio, "sleep", noted)
        left = [4]

        def admit(_: object) -> None:
            left[0] -= 1
            monkeypatch.setattr(pool, "READS_MAX", 0 if left[0] else READS_MAX)
            node.prompt = not left[0]

        node.judge = admit
        assert (await client.submit_and_wait(transaction)).height == 2

    run(network, check)
    assert len(naps) == 3


def test_a_silent_node_is_left_for_the_next(network: Network, tmp_path: Path) -> None:
    """A node that admits but never certifies does not hold the client for ever."""
    transaction = register_dataset(network, HOSPITALS[1])

    async def main() -> None:
        with open_network(tmp_path / "silent") as other:
            async with (
                serve(other) as (silent, admitted),
                serve(network) as (url, node),
                Client(network.genesis, [silent, url]) as client,
            ):
                node.prompt = True
                receipt = await client.submit_and_wait(transaction)
                assert receipt.height == 2
                assert transaction.id in admitted.waiting

    asyncio.run(main())


def test_an_expired_transaction_is_given_up(network: Network) -> None:
    """Once a certified header is past its last height and no node has a receipt, it is dead."""
    body = SetStanding("hospital-2.trainer", Standing.SUSPENDED)
    transaction = network.sign("hospital-2.admin", "member.standing", body, valid_until_height=1)
    network.block()

    async def check(client: Client, node: Node) -> None:
        node.waiting[transaction.id] = as_read(transaction)
        assert await refusal(client.submit_and_wait(transaction)) == "transaction.expired"

    run(network, check)


def test_another_transactions_receipt_is_not_accepted(network: Network) -> None:
    """A liar's sound proof of some other receipt does not acknowledge ours."""
    row = network.chain.store.row(1)
    assert row is not None
    proof = prove_transaction(network.chain, row.receipts[0].transaction)
    mine = register_dataset(network, HOSPITALS[1])
    body = {"status": "certified", "proof": encoded(proof)}

    async def main() -> None:
        async with serve_app(lying(body)) as bad, Client(network.genesis, [bad]) as client:
            assert await refusal(client.receipt(mine.id)) == "audit.key"
            assert client.distrusted[bad].code == "audit.key"

    asyncio.run(main())


def test_admissions_come_in_order(network: Network) -> None:
    """Several transactions of one request are judged one by one."""
    good = register_dataset(network, HOSPITALS[1])

    async def check(client: Client, node: Node) -> None:
        def refuse(transaction: Any) -> None:
            if transaction.intent.sender == "hospital-3.steward":
                raise Refused("access.standing", "expected enrolled, found suspended")

        node.judge = refuse
        bad = register_dataset(network, HOSPITALS[2])
        found = await client.submit([bad, good])
        assert [item.code for item in found] == ["access.standing", "admitted"]
        assert found[1].id == good.id
        (refused,) = await client.submit([bad])
        assert refused.code == "access.standing"

    run(network, check)

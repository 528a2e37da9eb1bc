"""The client, against honest, slow, lying and dead validators."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from node.audit.prove import newest, prove_key, prove_transaction
from node.client import client as client_module
from node.client.client import Client
from node.client.reply import ProofBody
from tests.node.network import HOSPITALS, Network, certificate, open_network, register_dataset
from tests.node.serving import Node, serve, serve_app
from vm.record import Dataset, Member, Standing
from vm.refusal import Refused
from vm.registry import SetStanding
from vm.shape import pack
from vm.state import state_key

NEWEST = "/v1/checkpoints"
DEAD = "http://127.0.0.1:1"  # nothing listens there
FIRST_EVENT = (
    b'id: 1\ndata: {"height": 1, "digest": "", "time_ms": 0, "transactions": [], "records": [], '
    b'"left_out": 0}\n\n'
)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain with one certified block."""
    with open_network(tmp_path) as made:
        made.block(register_dataset(made, HOSPITALS[0]))
        yield made


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here has to be waited for."""
    monkeypatch.setattr(client_module, "POLL_S", 0.001)
    monkeypatch.setattr(client_module, "RESEND_S", 0.02)
    monkeypatch.setattr(client_module, "RETRY_S", 0.001)


def run(network: Network, check: Callable[[Client, Node], Awaitable[None]], *before: str) -> None:
    """Check a client that knows `before`, then an honest node."""

    async def main() -> None:
        async with (
            serve(network) as (url, node),
            Client(network.genesis, [*before, url]) as client,
        ):
            await check(client, node)

    asyncio.run(main())


def lying(body: Any, status: int = 200) -> web.Application:
    """A server that answers everything with one body."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    return app


def encoded(proof: object) -> str:
    """A proof as the interface sends it."""
    return base64.b64encode(pack(proof)).decode()


async def refusal(awaitable: Awaitable[object]) -> str:
    """The code with which a call refuses."""
    with pytest.raises(Refused) as caught:
        await awaitable
    return caught.value.code


# Reading


def test_records_are_read_and_absence_too(network: Network) -> None:
    """A record comes back as itself; None means that its absence was proven."""

    async def check(client: Client, _: Node) -> None:
        found = await client.record(Dataset, "hospital-1.opt")
        assert found is not None
        assert found.organisation == "hospital-1"
        assert await client.record(Dataset, "nothing") is None
        assert (await client.header()).height == 1
        assert (await client.status()).name == "hospital-1.validator"

    run(network, check)


def test_a_header_is_read_by_its_height(network: Network) -> None:
    """A sound header of another height does not pass for it."""
    network.block()

    async def check(client: Client, _: Node) -> None:
        header = await client.header_at(1)
        assert header.height == 1
        proof = (await client.ask("/v1/blocks/2", lambda reply: reply.read(ProofBody))).proof
        async with (
            serve_app(lying({"proof": proof})) as bad,
            Client(network.genesis, [bad]) as deceived,
        ):
            assert await refusal(deceived.header_at(1)) == "audit.height"

    run(network, check)


def test_a_list_is_read_page_by_page(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """All members come, each once, whatever the size of a page."""
    monkeypatch.setattr(client_module, "LIMIT_MAX", 3)

    async def check(client: Client, _: Node) -> None:
        ids = [member.id async for member in client.records(Member)]
        assert len(ids) == 20
        assert len(set(ids)) == 20

    run(network, check)


def test_a_dead_validator_is_passed_over(network: Network) -> None:
    """The next one answers, and is asked first from then on."""

    async def check(client: Client, _: Node) -> None:
        assert await client.record(Member, "hospital-1.trainer") is not None
        assert client.urls[-1] == DEAD

    run(network, check, DEAD)


def test_a_node_that_went_silent_is_asked_last_from_then_on(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process takes connections and says nothing: one call waits for it, not each."""
    monkeypatch.setattr(client_module, "SILENCE_TIMEOUT_S", 0.2)
    asked: list[str] = []
    transaction = register_dataset(network, HOSPITALS[1])

    async def never(request: web.Request) -> web.Response:
        asked.append(request.path)
        await asyncio.Event().wait()
        return web.Response()

    async def main() -> None:
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", never)
        async with (
            serve_app(app) as silent,
            serve(network) as (url, node),
            asyncio.timeout(20),
            Client(network.genesis, [silent, url]) as client,
            Client(network.genesis, [silent, url]) as submitting,
        ):
            node.prompt = True
            for _ in range(3):
                assert await client.record(Member, "hospital-1.trainer") is not None
            assert asked == [NEWEST]
            assert (await submitting.submit_and_wait(transaction)).height == 2
            assert asked == [NEWEST, "/v1/transactions"]

    asyncio.run(main())


def test_without_an_answer_every_node_tried_is_named(network: Network) -> None:
    """The refusal lists who could not be reached."""

    async def main() -> None:
        async with Client(network.genesis, [DEAD, DEAD + "/", "http://127.0.0.1:2"]) as client:
            with pytest.raises(Refused) as caught:
                await client.header()
            assert caught.value.code == "client.unreachable"
            assert "127.0.0.1:1" in caught.value.message
            assert "127.0.0.1:2" in caught.value.message

    asyncio.run(main())


def test_urls_are_checked_before_anything_is_asked(network: Network) -> None:
    """No URL, or one of another scheme, is a mistake of the caller's configuration."""
    for urls in ([], ["ftp://a"], ["127.0.0.1:80"]):
        with pytest.raises(Refused, match=r"client\.urls"):
            Client(network.genesis, urls)


def test_a_neighbours_record_is_refused_and_the_next_node_asked(network: Network) -> None:
    """A sound proof of another key does not pass for an answer."""
    key = state_key(Member.KIND, ("hospital-2.trainer",))
    neighbour = prove_key(network.chain, newest(network.chain), key)

    async def main() -> None:
        async with (
            serve_app(lying({"proof": encoded(neighbour)})) as bad,
            serve(network) as (good, _),
            Client(network.genesis, [bad]) as alone,
            Client(network.genesis, [bad, good]) as client,
        ):
            assert await refusal(alone.record(Member, "hospital-1.trainer")) == "audit.key"
            found = await client.record(Member, "hospital-1.trainer")
            assert found is not None
            assert found.id == "hospital-1.trainer"
            assert client.distrusted[bad].code == "audit.key"

    asyncio.run(main())


def test_what_fewer_than_a_quorum_signed_is_refused_wherever_it_is_read(network: Network) -> None:
    """Record, list, header and receipt: no way of reading skips the certificate."""
    view, row = newest(network.chain), network.chain.store.row(1)
    assert row is not None
    weak = certificate(network.genesis, row.header, HOSPITALS[:2])
    record = prove_key(network.chain, view, state_key(Dataset.KIND, ("hospital-1.opt",)))
    receipt = prove_transaction(network.chain, row.receipts[0].transaction)
    assert receipt is not None
    header = replace(record.certified, certificate=weak)
    forged = encoded(replace(record, certified=header))
    records = {"proof": forged, "items": [{"proof": forged}], "next": None}
    receipts = {"status": "certified", "proof": encoded(replace(receipt, certified=header))}
    headers = {"items": [{"proof": encoded(header)}], "next": None, "proof": encoded(header)}

    async def main() -> None:
        async with (
            serve_app(lying(records)) as one,
            serve_app(lying(receipts)) as two,
            serve_app(lying(headers)) as three,
            Client(network.genesis, [one]) as of_records,
            Client(network.genesis, [two]) as of_receipts,
            Client(network.genesis, [three]) as of_headers,
        ):
            for asked in (
                of_records.record(Dataset, "hospital-1.opt"),
                anext(of_records.records(Dataset)),
                of_receipts.receipt(row.receipts[0].transaction),
                of_headers.header(),
                of_headers.header_at(1),
            ):
                assert await refusal(asked) == "audit.certificate.no_quorum"

    asyncio.run(main())


def test_absence_without_a_proof_is_not_believed(network: Network) -> None:
    """404 alone says nothing about a record."""
    problem = {"code": "record.missing", "detail": "none", "status": 404}

    async def main() -> None:
        async with (
            serve_app(lying(problem, 404)) as bad,
            Client(network.genesis, [bad]) as client,
        ):
            assert await refusal(client.record(Member, "hospital-1.trainer")) == "http.answer"

    asyncio.run(main())


@pytest.mark.parametrize("body", [[], {}, {"proof": 1}, {"proof": "?"}, {"proof": "AA=="}])
def test_an_answer_that_is_no_answer_is_refused(network: Network, body: Any) -> None:
    """Malformed JSON bodies and proofs end in a refusal, never in a traceback."""

    async def main() -> None:
        async with serve_app(lying(body)) as bad, Client(network.genesis, [bad]) as client:
            for asked in (client.record(Member, "hospital-1.trainer"), client.header()):
                assert await refusal(asked) in {"http.answer", "audit.base64", "shape.length"}

    asyncio.run(main())


def test_an_answer_above_the_bound_is_not_read(network: Network) -> None:
    """A server cannot fill the client's memory."""

    async def check(client: Client, _: Node) -> None:
        whole = await client.ask("/v1/members", lambda reply: reply.body)
        read = client.ask("/v1/members", lambda reply: reply.body, bytes_max=len(whole) - 1)
        assert await refusal(read) == "http.answer"
        assert await client.ask("/v1/members", lambda reply: reply.body, bytes_max=len(whole))

    run(network, check)


def test_a_page_that_repeats_itself_is_refused(network: Network) -> None:
    """A server that hands out one page for ever is found out at the second."""
    key = state_key(Dataset.KIND, ("hospital-1.opt",))
    proof = encoded(prove_key(network.chain, newest(network.chain), key))

    async def main() -> None:
        async with (
            serve_app(lying({"items": [{"proof": proof}], "next": "again"})) as bad,
            Client(network.genesis, [bad]) as client,
        ):
            records = client.records(Dataset)
            assert (await anext(records)).id == "hospital-1.opt"
            assert await refusal(anext(records)) == "audit.key"

    asyncio.run(main())


# Submitting


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
        node.waiting[transaction.id] = transaction
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


# Following


def test_events_go_on_at_another_node(network: Network) -> None:
    """Heights come once each, in order, past a dead node and a stream that repeats itself."""
    for _ in range(3):
        network.block()

    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(FIRST_EVENT * 2)
        return response

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/v1/events", broken)
        async with (
            serve_app(app) as bad,
            serve(network) as (url, node),
            Client(network.genesis, [DEAD, bad, url]) as client,
        ):
            found = []
            async for event in client.events(0):
                found.append(event.height)
                if event.height == 4:
                    node.waiting[b""] = register_dataset(network, HOSPITALS[1])
                    node.execute()
                if event.height == 5:
                    break
            assert found == [1, 2, 3, 4, 5]
            assert event.records[0].key == ["hospital-2.opt"]

    asyncio.run(main())


def test_an_event_beyond_the_chain_does_not_silence_the_next_stream(network: Network) -> None:
    """A node that claims height 2^53 would otherwise have us wait at the others for ever."""

    async def boast(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(FIRST_EVENT.replace(b'"height": 1', b'"height": %d' % 2**53))
        return response

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/v1/events", boast)
        async with (
            serve_app(app) as bad,
            serve(network) as (url, _),
            asyncio.timeout(20),
            Client(network.genesis, [bad, url]) as client,
        ):
            found = []
            async for event in client.events(0):
                found.append(event.height)
                if len(found) == 2:
                    break
            assert found == [2**53, 1]

    asyncio.run(main())


# Being shown the past


def test_a_node_that_was_cut_off_hides_nothing(network: Network, tmp_path: Path) -> None:
    """Its proofs hold, but of an old height: listed first, it would prove a new record absent."""
    with open_network(tmp_path / "cut") as cut:
        cut.block(register_dataset(cut, HOSPITALS[0]))
        for hospital in HOSPITALS[1:]:
            network.block(register_dataset(network, hospital))

        async def main() -> None:
            async with (
                serve(cut) as (stale, _),
                serve(network) as (url, _),
                Client(network.genesis, [stale, url]) as client,
            ):
                assert await client.record(Dataset, "hospital-2.opt") is not None
                client.urls = [stale, url]
                assert (await client.header()).height == 4
                assert client.distrusted == {}

        asyncio.run(main())


def test_reads_never_go_back(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a client saw proven, from whomever and whatever it was, it does not unsee."""
    monkeypatch.setattr(client_module, "CATCH_UP_TRIES", 2)
    block = network.block(register_dataset(network, HOSPITALS[1]))

    async def main(cut: Network) -> None:
        async with (
            serve(cut) as (stale, _),
            serve(network) as (url, _),
            Client(network.genesis, [url]) as client,
        ):
            assert await client.header_at(block.height) == block
            client.urls = [stale]
            assert await refusal(client.header()) == "client.stale"
            assert await refusal(client.record(Dataset, "hospital-2.opt")) == "client.stale"

    with open_network(tmp_path / "cut") as cut:
        cut.block(register_dataset(cut, HOSPITALS[0]))
        asyncio.run(main(cut))


def test_a_node_that_catches_up_is_waited_for(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next certificate is a moment away: behind is no reason to give up."""
    monkeypatch.setattr(client_module, "CATCH_UP_TRIES", 5_000)
    network.block(register_dataset(network, HOSPITALS[1]))

    async def main(late: Network) -> None:
        async with (
            serve(late) as (url, node),
            serve(network) as (ahead, _),
            Client(network.genesis, [ahead]) as client,
        ):
            assert (await client.header()).height == 2
            client.urls = [url]
            reading = asyncio.create_task(client.record(Dataset, "hospital-2.opt"))
            await asyncio.sleep(0)
            node.waiting[b""] = register_dataset(late, HOSPITALS[1])
            node.execute()
            assert await reading is not None

    with open_network(tmp_path / "late") as late:
        late.block(register_dataset(late, HOSPITALS[0]))
        asyncio.run(main(late))

"""The client, against honest, slow, lying and dead validators."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from node.audit.prove import newest, prove_key, prove_together, prove_transaction
from node.client import client as client_module
from node.client import connection
from node.client.client import Client
from node.client.listing import records
from node.client.proven import Asked
from node.client.reply import ProofBody
from tests.harness import as_read
from tests.node.client.asking import DEAD, NEWEST, encoded, lying, refusal, run
from tests.node.network import HOSPITALS, Network, certificate, open_network, register_dataset
from tests.node.serving import Node, serve, serve_app
from vm.record import Dataset, Member
from vm.refusal import Refused
from vm.state import state_key


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


def test_several_records_are_read_together_and_absence_too(network: Network) -> None:
    """One answer, one header, in the order in which they were asked for."""

    async def check(client: Client, _: Node) -> None:
        asked: list[Asked] = [(Member, ("nobody",)), (Dataset, ("hospital-1.opt",))]
        (none, found), header = await client.together(asked)
        assert none is None
        assert found == await client.record(Dataset, "hospital-1.opt")
        assert header.height == 1

    run(network, check)


def test_each_record_that_was_asked_for_is_proven_by_the_answer(network: Network) -> None:
    """An answer that leaves one out says nothing of it, however sound the rest is."""
    asked: list[Asked] = [(Member, ("nobody",)), (Dataset, ("hospital-1.opt",))]
    keys = [state_key(cls.KIND, key) for cls, key in asked]
    view = newest(network.chain)
    proof = prove_together(network.chain, view, keys[:1])
    weak = certificate(network.genesis, view.row.header, HOSPITALS[:2])
    forged = replace(proof, certified=replace(proof.certified, certificate=weak))

    async def main() -> None:
        async with (
            serve_app(lying({"proof": encoded(proof)})) as short,
            serve_app(lying({"proof": encoded(forged)})) as forger,
            Client(network.genesis, [short]) as of_some,
            Client(network.genesis, [forger]) as of_forged,
        ):
            assert await refusal(of_some.together(asked)) == "audit.key"
            assert await refusal(of_forged.together(asked)) == "audit.certificate.no_quorum"
            assert of_some.distrusted[short].code == "audit.key"

    asyncio.run(main())


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
    monkeypatch.setattr(connection, "SILENCE_TIMEOUT_S", 0.2)
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
    found = {"proof": forged, "items": [{"proof": forged}], "next": None}
    receipts = {"status": "certified", "proof": encoded(replace(receipt, certified=header))}
    headers = {"items": [{"proof": encoded(header)}], "next": None, "proof": encoded(header)}

    async def main() -> None:
        async with (
            serve_app(lying(found)) as one,
            serve_app(lying(receipts)) as two,
            serve_app(lying(headers)) as three,
            Client(network.genesis, [one]) as of_records,
            Client(network.genesis, [two]) as of_receipts,
            Client(network.genesis, [three]) as of_headers,
        ):
            for asked in (
                of_records.record(Dataset, "hospital-1.opt"),
                records(of_records, Dataset),
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
            node.waiting[b""] = as_read(register_dataset(late, HOSPITALS[1]))
            node.execute()
            assert await reading is not None

    with open_network(tmp_path / "late") as late:
        late.block(register_dataset(late, HOSPITALS[0]))
        asyncio.run(main(late))

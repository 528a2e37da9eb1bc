"""A member's blobs over real sockets: f + 1 copies, enrolled validators only, bounded downloads."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
from aiohttp import web

from node.client.client import Client
from node.client.proven import Proven
from node.home.config import Identity, Tls, ValidatorAddress
from node.wire import exchange as exchange_module
from node.wire import sources, transfer
from node.wire.blobs import BlobStore
from node.wire.cid import CHUNK_BYTES, summarise
from node.wire.exchange import Exchange
from node.wire.gate import build_peer_app
from node.wire.listen import listening
from node.wire.tls import server_context
from node.wire.transfer import BlobService
from tests.harness import genesis_of, organisation
from tests.node.parties import HOST, Consortium, Party
from vm.genesis import Genesis
from vm.record import Member, Role
from vm.refusal import Refused
from vm.trust import from_genesis

BLOB = b"an update"
ADDRESS, _ = summarise([BLOB])
LONG = bytes(CHUNK_BYTES) + b"more"
LONG_ADDRESS, _ = summarise([LONG[:CHUNK_BYTES], LONG[CHUNK_BYTES:]])


@dataclass
class Registry:
    """What an exchange reads of the chain: the validators as they are enrolled now."""

    genesis: Genesis
    members: dict[str, Member] = field(default_factory=dict)
    silent: bool = False
    reads: int = 0

    def __post_init__(self) -> None:
        self.members = {member.id: member for member in self.genesis.members}
        self.proven = Proven(from_genesis(self.genesis))

    async def record(self, cls: type[Member], id: str) -> Member | None:
        """One member."""
        self.reads += 1
        if self.silent:
            raise Refused("client.unreachable", "expected an answer, found none")
        return self.members.get(id)


def seat(number: int) -> str:
    """The id of validator `number`, from 0."""
    return f"{organisation(number + 1)}.validator"


class Members:
    """A trainer, and four validators of which only some are up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.consortium = Consortium(folder / "consortium")
        self.trainer = self.consortium.enrol("trainer", Role.TRAINER)
        self.validators = [self.consortium.enrol(f"validator-{n}") for n in range(4)]
        self.stores = [BlobStore(folder / f"store-{n}", 1024**3) for n in range(4)]
        self.allowed = [True] * 4

    def exchange(self, *order: int) -> Exchange:
        """The trainer's exchange with these validators, in this order."""
        files = self.trainer.files
        identity = Identity(
            id="trainer",
            key=self.folder / "none",
            tls_key=files.key,
            tls_certificate=files.certificate,
        )
        genesis = genesis_of(4)
        seats = [m for m in genesis.members if m.role is Role.VALIDATOR]
        enrolled = tuple(
            replace(seat, transport=party.spki)
            for seat, party in zip(seats, self.validators, strict=True)
        )
        self.chain = Registry(replace(genesis, members=enrolled))
        return Exchange(
            cast(Client, self.chain),
            identity,
            Tls(authority=files.authority),
            [self._address(number) for number in order],
            self.folder / "fetched",
        )

    def _address(self, number: int) -> ValidatorAddress:
        party = self.validators[number]
        return ValidatorAddress.model_validate(
            {
                "id": seat(number),
                "http": f"http://{HOST}:{party.port}",
                "peer": f"{HOST}:{party.port}",
            }
        )

    async def serve(self, stack: AsyncExitStack, *numbers: int) -> None:
        """Have these validators up."""
        for number in numbers:
            await self.serve_as(stack, number, self.validators[number])

    async def serve_as(self, stack: AsyncExitStack, number: int, party: Party) -> None:
        """Serve a validator's store at its port, with `party`'s certificate."""
        service = BlobService(
            self.stores[number],
            lambda member, address: True,
            lambda member, address, size: self.allowed[number],
        )
        app = build_peer_app(self.consortium.gate(), service.routes())
        port = self.validators[number].port
        await stack.enter_async_context(listening(app, HOST, port, server_context(party.files)))


@pytest.fixture
def members(tmp_path: Path) -> Members:
    """Nobody is up yet."""
    return Members(tmp_path)


def test_a_blob_is_brought_to_one_more_than_may_be_faulty(members: Members) -> None:
    """Of four validators two get it, so one of them is honest; the others need not."""

    async def scenario() -> str:
        async with AsyncExitStack() as stack:
            await members.serve(stack, 0, 1, 2, 3)
            async with members.exchange(0, 1, 2, 3) as exchange:
                return await exchange.bring(BLOB)

    assert asyncio.run(scenario()) == ADDRESS
    assert [store.has(ADDRESS) for store in members.stores] == [True, True, False, False]


def test_validators_that_are_down_or_refuse_are_passed_over(members: Members) -> None:
    """As long as enough others take it."""
    members.allowed[1] = False

    async def scenario() -> str:
        async with AsyncExitStack() as stack:
            await members.serve(stack, 1, 2, 3)
            async with members.exchange(0, 1, 2, 3) as exchange:
                return await exchange.bring(BLOB)

    assert asyncio.run(scenario()) == ADDRESS
    assert [store.has(ADDRESS) for store in members.stores] == [False, False, True, True]


def test_too_few_copies_are_refused_with_each_answer(members: Members) -> None:
    """One copy may lie with the one faulty validator: nothing is submitted for it."""

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await members.serve(stack, 2)
            async with members.exchange(0, 2) as exchange:
                await exchange.bring(BLOB)

    with pytest.raises(Refused, match=r"expected 2 validators to take the blob, found 1") as it:
        asyncio.run(scenario())
    assert it.value.code == "blob.too_few_copies"
    assert "blob.unreachable" in it.value.message


def test_a_rotated_key_is_read_from_the_chain(members: Members) -> None:
    """The key of genesis is worth nothing once the chain has another; no restart is needed."""
    rotated = members.consortium.enrol("rotated")
    exchange = members.exchange(0, 1)
    old = members.chain.members[seat(0)]
    members.chain.members[seat(0)] = replace(old, transport=rotated.spki)

    async def scenario() -> None:
        async with exchange:
            async with AsyncExitStack() as stack:
                await members.serve(stack, 0, 1)
                with pytest.raises(Refused, match=r"blob\.too_few_copies"):
                    await exchange.bring(BLOB)
            async with AsyncExitStack() as stack:
                await members.serve_as(stack, 0, rotated)
                await members.serve(stack, 1)
                await exchange.bring(BLOB)

    asyncio.run(scenario())
    assert [store.has(ADDRESS) for store in members.stores[:2]] == [True, True]


def test_without_an_answer_of_the_chain_the_validators_of_genesis_are_known(
    members: Members,
) -> None:
    """Blobs move while nobody can be asked who is who now."""
    exchange = members.exchange(0, 1)
    members.chain.silent = True

    async def scenario() -> str:
        async with AsyncExitStack() as stack:
            await members.serve(stack, 0, 1)
            async with exchange:
                return await exchange.bring(BLOB)

    assert asyncio.run(scenario()) == ADDRESS


@pytest.mark.parametrize(("soon_s", "reads"), [(0.0, 4), (1_000.0, 2)])
def test_keys_are_read_once_for_many_blobs(
    members: Members, monkeypatch: pytest.MonkeyPatch, soon_s: float, reads: int
) -> None:
    """Until a while has passed; a blob that could not be had makes it a shorter while."""
    monkeypatch.setattr(exchange_module, "LOOK_SOON_S", soon_s)
    exchange = members.exchange(0, 1)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await members.serve(stack, 0, 1)
            async with exchange:
                await exchange.bring(BLOB)
                await exchange.bring(LONG)
                assert members.chain.reads == 2
                with pytest.raises(Refused):
                    await exchange.fetch(summarise([b"nobody has it"])[0], 20)
                await exchange.bring(BLOB)

    asyncio.run(scenario())
    assert members.chain.reads == reads


def test_a_blob_that_nobody_has_does_not_have_the_keys_read_at_each_try(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer that withholds one must not turn each verifier's tries into reads of the chain."""
    monkeypatch.setattr(exchange_module, "LOOK_SOON_S", 1_000.0)
    exchange = members.exchange(0, 1)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await members.serve(stack, 0, 1)
            async with exchange:
                for _ in range(5):
                    with pytest.raises(Refused, match=r"blob\.unavailable"):
                        await exchange.fetch(ADDRESS, len(BLOB))

    asyncio.run(scenario())
    assert members.chain.reads == 2


def test_an_impostor_gets_nothing(members: Members) -> None:
    """A server at a validator's address with a certificate of another member is not sent a byte."""
    impostor = members.consortium.enrol("mallory", Role.AUDITOR)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await members.serve_as(stack, 0, impostor)
            await members.serve(stack, 1)
            async with members.exchange(0, 1) as exchange:
                await exchange.bring(BLOB)

    with pytest.raises(Refused, match=r"blob\.too_few_copies"):
        asyncio.run(scenario())
    assert not members.stores[0].has(ADDRESS)


def test_a_blob_is_fetched_once_until_it_is_forgotten(members: Members) -> None:
    """From the first validator that has it; then from our own folder."""
    members.stores[2].add(BLOB)

    async def scenario() -> list[object]:
        found: list[object] = []
        async with members.exchange(0, 1, 2) as exchange:
            async with AsyncExitStack() as stack:
                await members.serve(stack, 1, 2)
                found.append(await exchange.fetch(ADDRESS, len(BLOB)))
            found.append(await exchange.fetch(ADDRESS, len(BLOB)))
            await exchange.forget(ADDRESS)
            with pytest.raises(Refused, match=r"blob\.unavailable"):
                await exchange.fetch(ADDRESS, len(BLOB))
        return found

    assert asyncio.run(scenario()) == [BLOB, BLOB]


@pytest.mark.parametrize(("content", "address"), [(BLOB, ADDRESS), (LONG, LONG_ADDRESS)])
def test_a_blob_larger_than_its_record_says_is_not_kept(
    members: Members, content: bytes, address: str
) -> None:
    """A trainer and a validator together cannot fill a verifier's disk under a small claim."""
    members.stores[0].add(content)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await members.serve(stack, 0)
            async with members.exchange(0) as exchange:
                await exchange.fetch(address, len(content) - 1)

    with pytest.raises(Refused, match=r"blob\.unavailable.*blob\.too_large"):
        asyncio.run(scenario())
    kept = [path for path in (members.folder / "fetched").rglob("*") if path.is_file()]
    assert kept == []


def test_a_validator_that_went_silent_holds_up_no_blob(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process takes connections and says nothing: it is left at once, then asked last."""
    monkeypatch.setattr(transfer, "CONNECT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(sources, "SPARE_S", 60)
    connected = 0

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        await reader.read()
        writer.close()

    async def scenario() -> bytes:
        async with AsyncExitStack() as stack:
            await members.serve(stack, 1, 2)
            port = members.validators[0].port
            await stack.enter_async_context(await asyncio.start_server(never, HOST, port))
            async with members.exchange(0, 1, 2) as exchange, asyncio.timeout(20):
                await exchange.bring(BLOB)
                await exchange.bring(LONG)
                await exchange.forget(ADDRESS)
                return await exchange.fetch(ADDRESS, len(BLOB))

    assert asyncio.run(scenario()) == BLOB
    assert connected == 1
    assert members.stores[2].has(LONG_ADDRESS)


def test_a_validator_that_stops_within_an_answer_is_left(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence between two parts of an answer counts, not only the first answer."""
    monkeypatch.setattr(transfer, "SILENCE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(sources, "SPARE_S", 60)
    members.stores[1].add(BLOB)

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(BLOB))})
        await response.prepare(request)
        await response.write(BLOB[:1])
        await asyncio.Event().wait()
        return response

    async def scenario() -> bytes:
        async with AsyncExitStack() as stack:
            await members.serve(stack, 1)
            routes = [web.get("/blobs/{address}", half)]
            app = build_peer_app(members.consortium.gate(), routes)
            party = members.validators[0]
            tls = server_context(party.files)
            await stack.enter_async_context(listening(app, HOST, party.port, tls))
            async with members.exchange(0, 1) as exchange, asyncio.timeout(20):
                return await exchange.fetch(ADDRESS, len(BLOB))

    assert asyncio.run(scenario()) == BLOB


@pytest.mark.parametrize(("content", "address"), [(BLOB, ADDRESS), (LONG, LONG_ADDRESS)])
def test_a_damaged_copy_is_replaced(members: Members, content: bytes, address: str) -> None:
    """A bad sector in the folder of what was fetched is not the end of it."""
    members.stores[0].add(content)

    async def scenario() -> bytes:
        async with AsyncExitStack() as stack:
            await members.serve(stack, 0)
            async with members.exchange(0) as exchange:
                await exchange.fetch(address, len(content))
                for file in (members.folder / "fetched" / "whole" / address).iterdir():
                    file.write_bytes(bytes(len(file.read_bytes())))
                return await exchange.fetch(address, len(content))

    assert asyncio.run(scenario()) == content

"""Answers that go on: event streams and exports end with the standing of their reader."""

import aiohttp
import pytest

from node.api import events, export
from tests.node.network import HOSPITALS, Network, agree, say
from tests.node.readers.reading import TRAINER, run, set_standing, token
from tests.node.serving import Node
from tests.vm.council import propose, rotation
from vm.record import Standing

VALIDATOR = f"{HOSPITALS[0]}.validator"


@pytest.mark.parametrize("standing", [Standing.SUSPENDED, Standing.REVOKED])
def test_an_event_stream_ends_with_its_reader_s_standing(
    network: Network, standing: Standing
) -> None:
    """The block that says so is not sent any more; a token at the door is not enough."""

    async def check(url: str, node: Node) -> None:
        mine = await token(url, TRAINER)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/events", headers=mine) as stream,
        ):
            assert (await stream.content.readline()).startswith(b": ")
            node.feed.publish(network.block().height)
            await stream.content.readuntil(b"event: block\ndata: ")
            set_standing(network, TRAINER, standing)
            node.feed.publish(network.chain.head.height)
            assert b"id: " not in await stream.content.read()

    run(network, check)


def test_a_silent_stream_ends_with_its_reader_s_standing(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no certificate comes, a heartbeat asks."""
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.01)

    async def check(url: str, node: Node) -> None:
        mine = await token(url, TRAINER)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/events", headers=mine) as stream,
        ):
            await stream.content.readuntil(b"heartbeat")
            set_standing(network, TRAINER, Standing.REVOKED)
            assert b"id: " not in await stream.content.read()

    run(network, check)


def test_a_stream_ends_with_the_key_that_opened_it(network: Network) -> None:
    """As a token does: whoever holds the old key has no more of it."""

    async def check(url: str, node: Node) -> None:
        mine = await token(url, VALIDATOR)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/events", headers=mine) as stream,
        ):
            assert (await stream.content.readline()).startswith(b": ")
            say(network, [propose(1, "rotate", rotation(1))])
            agree(network, ("rotate",), (2, 3))
            node.feed.publish(network.chain.head.height)
            assert b"id: " not in await stream.content.read()

    run(network, check)


def test_an_export_is_cut_when_its_reader_s_standing_ends(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the next page: what was begun is not a right to the rest."""
    monkeypatch.setattr(export, "LIMIT_MAX", 3)
    pages = 0

    async def check(url: str, node: Node) -> None:
        write = export._Writer.body

        def body(*arguments: object) -> bytes:
            nonlocal pages
            pages += 1
            if pages == 2:
                set_standing(network, TRAINER, Standing.REVOKED)
            return write(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(export._Writer, "body", body)
        mine = await token(url, TRAINER)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/members?format=csv", headers=mine) as answer,
        ):
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        assert pages == 2

    run(network, check)

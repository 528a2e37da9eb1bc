"""Event streams and exports: one reader holds a share of them, and the others have theirs."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import BaseModel

from node.api import events, export
from node.api.answer import Answer, Read
from node.api.routes import READS
from node.api.views import LIMIT_MAX
from node.wire.places import Places
from tests.node.api.asking import assert_problem
from tests.node.readers.reading import AUDITOR, TRAINER, private_network, run, signed
from tests.node.serving import Node, get

EVENTS, EXPORT = "/v1/events", "/v1/blocks?format=csv"


class Row(BaseModel):
    """An item of the endless list."""

    text: str


class Page(BaseModel):
    """A page of it."""

    items: list[Row]
    next: str | None


@pytest.fixture(autouse=True)
def _endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that has no end, so that its export lasts; streams whose heart beats fast."""

    def page(*_: Any) -> Answer:
        return Answer(Page(items=[Row(text="x" * 100_000)] * LIMIT_MAX, next="more"))

    blocks = next(read for read in READS if read.path == "/v1/blocks")
    read = Read("/v1/blocks", blocks.query, page, "Endless", Page, columns=("text",))
    monkeypatch.setattr("node.api.app.READS", (read,))
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.01)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Places]:
    """The places of event streams and of exports, once a node is served."""
    made: list[Places] = []

    def make(*bounds: Any) -> Places:
        made.append(Places(*bounds))
        return made[-1]

    monkeypatch.setattr(events, "Places", make)
    monkeypatch.setattr(export, "Places", make)
    return made


@asynccontextmanager
async def holding(
    url: str, member: str | None, count: int
) -> AsyncIterator[list[aiohttp.ClientResponse]]:
    """Open so many of `url` as this member, or as a stranger, and do not read them."""
    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        held = []
        for _ in range(count):
            headers = None if member is None else signed(url, member)
            held.append(await stack.enter_async_context(session.get(url, headers=headers)))
            assert held[-1].status == 200
        yield held


@pytest.mark.parametrize(
    ("path", "share", "things", "code"),
    [
        (EVENTS, events.STREAMS_OF_READER_MAX, "event streams", "events.full"),
        (EXPORT, export.EXPORTS_OF_READER_MAX, "exports", "api.busy"),
    ],
)
def test_one_reader_does_not_hold_all(
    tmp_path: Path, path: str, share: int, things: str, code: str
) -> None:
    """Beyond its share it is refused, whatever credential it shows; others at its address are not.

    A stranger has the share of its address.
    """

    async def check(url: str, _: Node) -> None:
        url += path
        async with holding(url, TRAINER, share):
            refused = await get(url, headers=signed(url, TRAINER))
            assert_problem(refused, 503, code)
            assert f"at most {share} {things} of member {TRAINER}" in refused.body["detail"]
            async with holding(url, AUDITOR, 1), holding(url, None, share):
                refused = await get(url)
                assert_problem(refused, 503, code)
                assert f"{things} of address 127.0.0.1" in refused.body["detail"]

    with private_network(tmp_path, public=True) as network:
        run(network, check)


@pytest.mark.parametrize("path", [EVENTS, EXPORT])
@pytest.mark.parametrize("abrupt", [False, True])
def test_places_come_back_however_a_reader_leaves(
    tmp_path: Path, path: str, abrupt: bool, given: list[Places]
) -> None:
    """Closed or reset; nothing is remembered of who had them."""

    async def check(node: str, _: Node) -> None:
        url = node + path
        async with holding(url, TRAINER, 2) as held:
            assert sum(places.taken for places in given) == 2
            for response in held:
                assert response.connection is not None
                transport = response.connection.transport
                assert transport is not None
                (transport.abort if abrupt else transport.close)()
        while any(places.taken for places in given):
            await get(f"{node}/livez")
        assert [places.holders for places in given] == [0, 0]

    with private_network(tmp_path) as network:
        run(network, check)

"""Whole lists as CSV and NDJSON: chosen by name or Accept, exact, guarded, never cut short."""

import asyncio
import csv
import io
import json
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request
from pydantic import BaseModel

from node.api import export
from node.api.answer import Answer, Read
from node.api.context import ApiContext
from node.api.export import Exports, csv_row, flat
from node.api.pool import Pool
from node.api.routes import READS
from node.api.views import LIMIT_MAX
from tests.node.api.asking import assert_problem, run
from tests.node.network import MODEL, Network
from tests.node.serving import Got, Node, call, get
from vm.refusal import Refused


def rows(got: Got) -> list[dict[str, str]]:
    """The rows of a CSV answer by its columns."""
    assert got.headers["Content-Type"] == "text/csv; charset=utf-8; header=present", got.body
    return list(csv.DictReader(io.StringIO(got.body.decode(), newline=""), strict=True))


def lines(got: Got) -> list[Any]:
    """The items of an NDJSON answer."""
    assert got.headers["Content-Type"] == "application/x-ndjson", got.body
    return [json.loads(line) for line in got.body.decode().splitlines()]


def test_every_list_is_written_whole_in_both_formats(learned: Network) -> None:
    """NDJSON has the items of all pages of JSON; CSV a row for each, under the named columns."""
    lists = [read for read in READS if read.columns and "{" not in read.path]

    async def check(url: str, _: Node) -> None:
        for read in lists:
            items, query = [], "?"
            while query:
                page = (await get(f"{url}{read.path}{query}")).body
                items += page["items"]
                query = page["next"] and f"?{read.turn}={page['next']}"

            assert lines(await get(f"{url}{read.path}?format=ndjson")) == items, read.path
            got = rows(await get(f"{url}{read.path}?format=csv"))
            assert len(got) == len(items), read.path
            assert all(tuple(row) == read.columns for row in got), read.path
            assert all(set(flat(item)) - {"proof"} <= set(read.columns) for item in items), read

    run(learned, check)
    assert len(lists) >= 14


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/csv", "text/csv"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("application/json, text/csv;q=0.9", "application/json"),
        ("text/csv;q=0.4, application/x-ndjson;q=0.5", "application/x-ndjson"),
        ("TEXT/CSV; q=0.4, */*;q=0.1", "text/csv"),
        ("text/*", "text/csv"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        ("*/*", "application/json"),
        ("text/csv;q=x", "application/json"),
        ("image/png", "application/json"),
    ],
)
def test_accept_chooses_the_format(learned: Network, accept: str, kind: str) -> None:
    """The kind liked best is sent, JSON where two are liked alike or none is known."""

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/blocks", headers={"Accept": accept})
        assert got.headers["Content-Type"].partition(";")[0] == kind
        assert got.headers["Vary"] == "Accept, Authorization"
        named = await get(f"{url}/v1/blocks?format=ndjson", headers={"Accept": accept})
        assert len(lines(named)) == 10
        one = await get(f"{url}/v1/blocks/1", headers={"Accept": accept})
        assert one.headers["Content-Type"].startswith("application/json")  # it is no list

    run(learned, check)


def test_a_stream_has_as_many_items_as_are_asked_for(learned: Network) -> None:
    """`limit` bounds it in all, `cursor` begins it, filters hold."""

    async def check(url: str, _: Node) -> None:
        path = f"{url}/v1/transactions"
        assert len(lines(await get(f"{path}?format=ndjson&limit=3"))) == 3
        page = (await get(f"{path}?limit=48")).body
        rest = lines(await get(f"{path}?format=ndjson&cursor={page['next']}"))
        assert len(rest) == 2
        kept = rows(await get(f"{path}?format=csv&kind=learning.proof&model={MODEL}"))
        assert {row["kind"] for row in kept} == {"learning.proof"}
        assert len(kept) == 8

    run(learned, check)


def test_a_refused_list_is_a_problem_in_every_format(learned: Network) -> None:
    """What is wrong shows before the first byte of a stream."""

    async def check(url: str, _: Node) -> None:
        for query in ("cursor=AAAA", "format=xml", "limit=0"):
            got = await get(f"{url}/v1/blocks?{query}", headers={"Accept": "text/csv"})
            assert got.status == 400
            assert_problem(got, 400, got.body["code"])

    run(learned, check)


def test_the_head_of_a_stream_has_no_body(learned: Network) -> None:
    """HEAD tells what GET would send, without reading the list."""

    async def check(url: str, _: Node) -> None:
        got = await call("HEAD", f"{url}/v1/members?format=csv")
        assert (got.status, got.body) == (200, b"")
        assert got.headers["Content-Disposition"] == 'attachment; filename="members.csv"'

    run(learned, check)


def test_a_stream_that_cannot_go_on_is_cut_and_never_ends_as_if_whole(
    learned: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that reads to the end is told that the end did not come."""
    given = Pool.go_on
    asked = 0

    async def fail_second(self: Any, *args: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise Refused("api.busy", "expected room, found none")
        return await given(self, *args)

    monkeypatch.setattr(Pool, "go_on", fail_second)
    monkeypatch.setattr(export, "LIMIT_MAX", 2)

    async def check(url: str, _: Node) -> None:
        with pytest.raises(aiohttp.ClientError):
            await get(f"{url}/v1/blocks?format=csv")

    run(learned, check)


def test_a_client_that_dawdles_loses_its_place(
    learned: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream has so much time in all, and then is cut."""
    monkeypatch.setattr(export, "EXPORT_S_MAX", 0.0)
    monkeypatch.setattr(export, "LIMIT_MAX", 2)

    async def check(url: str, _: Node) -> None:
        with pytest.raises(aiohttp.ClientError):
            await get(f"{url}/v1/blocks?format=csv")

    run(learned, check)


def test_streams_beyond_the_bound_are_turned_away(
    learned: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each holds a connection and a thread in turn: there are so many and no more."""
    monkeypatch.setattr(export, "EXPORTS_MAX", 0)

    async def check(url: str, _: Node) -> None:
        assert_problem(await get(f"{url}/v1/blocks?format=csv"), 503, "api.busy")

    run(learned, check)


def test_a_client_that_does_not_read_holds_up_the_stream_and_not_the_node(
    learned: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are read as the client takes them: the node holds no more than its buffers."""
    pages = 0

    class Row(BaseModel):
        text: str

    class Page(BaseModel):
        items: list[Row]
        next: str | None

    def endless(*_: Any) -> Answer:
        nonlocal pages
        pages += 1
        return Answer(Page(items=[Row(text="x" * 100_000)] * LIMIT_MAX, next="more"))

    blocks = next(read for read in READS if read.path == "/v1/blocks")
    read = Read("/v1/blocks", blocks.query, endless, "Endless", Page, columns=("text",))
    monkeypatch.setattr("node.api.app.READS", (read,))

    async def check(url: str, node: Node) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/blocks?format=csv") as response,
        ):
            await response.content.readexactly(1_000_000)
            for _ in range(1_000):  # whatever would be read ahead is read by now
                await asyncio.sleep(0)
            assert pages < 10  # 10 MB each: a connection's buffers hold a few

    run(learned, check)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", "'\tx"),
        ("\rx", '"\'\rx"'),
        ('=HYPERLINK("http://x","y")', '"\'=HYPERLINK(""http://x"",""y"")"'),
        ("plain", "plain"),
        ("a,b", '"a,b"'),
        ('say "a"', '"say ""a"""'),
        ("two\nlines", '"two\nlines"'),
        (-5, "-5"),
        (None, ""),
        (True, "true"),
        ({"a": [1]}, '"{""a"": [1]}"'),
        (["=1"], '"[""=1""]"'),
    ],
)
def test_a_cell_is_quoted_and_no_formula(value: Any, written: str) -> None:
    """RFC 4180 quotes; text that a spreadsheet would run gets an apostrophe, a number does not."""
    assert csv_row([value, "z"]) == f"{written},z\r\n".encode()


def test_an_export_whose_reader_has_left_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it owes would keep its place for a minute, and all places with a few names."""
    request = make_mocked_request("GET", "/v1/blocks")
    looks: list[object] = []

    async def leave(_: float) -> None:
        cast(Any, request)._protocol.transport = None

    monkeypatch.setattr(export, "_pause", leave)
    desk = SimpleNamespace(debt_s=lambda _: 60.0, look_again=looks.append)
    exports = Exports(cast(ApiContext, SimpleNamespace(desk=desk)), cast(Pool, None))

    asyncio.run(exports._wait(request))

    assert looks == [request]

"""HTTP itself: methods, odd bytes, caches. What the router or we refuse is a problem document."""

import asyncio
import json
from typing import Any

import pytest

from node.api.answer import CHANGING, IMMUTABLE
from tests.node.api.asking import assert_problem, run
from tests.node.network import Network
from tests.node.serving import Node, call, get

LIST = "/v1/blocks?limit=2"
SECONDS_MAX = 10


async def send(url: str, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to raw bytes, after which the connection is closed."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        async with asyncio.timeout(SECONDS_MAX):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    first, *lines = head.decode().split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, body


def asked(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    """A request of HTTP/1.1 that ends its connection."""
    lines = (line + b" HTTP/1.1", b"Host: node", b"Connection: close", *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (asked(b"TRACE /v1/blocks"), 405, "method.unknown"),
        (asked(b"PUT /v1/blocks/1"), 405, "method.unknown"),
        (asked(b"POST /v1/transactions/" + b"0" * 64), 405, "method.unknown"),
        (asked(b"OPTIONS *"), 404, "route.unknown"),
        (asked(b"GET /v1/blocks%00"), 404, "route.unknown"),
        (asked(b"GET /v1/blocks/../blocks"), 404, "route.unknown"),
        (asked(b"GET //v1//blocks"), 404, "route.unknown"),
        (asked(b"GET /v1/members/%ff%fe"), 400, "id.invalid"),
        (asked(b"GET /v1/members/%00"), 400, "id.invalid"),
        (asked(b"GET /v1/members?cursor=%ff%fe"), 400, "cursor.invalid"),
        (asked(b"GET /v1/members?limit=%zz"), 400, "query.invalid"),
        (asked(b"GET /v1/members?limit"), 400, "query.invalid"),
        (asked(b"GET /v1/events", b"Last-Event-ID: \xff"), 400, "id.invalid"),
        (asked(b"GET /v1/events", b"Last-Event-ID: -1"), 400, "id.invalid"),
        (
            asked(
                b"POST /v1/transactions",
                b"Content-Type: application/json",
                b"Content-Encoding: gzip",
                b"Content-Length: 3",
                body=b"abc",
            ),
            400,
            "body.invalid",
        ),
    ],
)
def test_odd_requests_are_problems(
    learned: Network, request_: bytes, status: int, code: str
) -> None:
    """Whatever the router can read is answered by a problem; 405 says which methods there are."""

    async def check(url: str, _: Node) -> None:
        found, headers, body = await send(url, request_)
        assert (found, json.loads(body)["code"]) == (status, code)
        assert headers["content-type"] == "application/problem+json"
        assert headers["cache-control"] == "no-store"
        assert ("allow" in headers) == (status == 405)

    run(learned, check)


@pytest.mark.parametrize(
    "line",
    [
        b"GET /v1/members?cursor=" + b"a" * 9_000,
        b"GET /v1/blo\x00cks",
        b"GET /v1/members/\xc3\xa9",
        b"BREW /v1/blocks",
        b"GET http://[bad/v1/blocks",
    ],
)
def test_what_is_no_http_is_refused_by_the_server(learned: Network, line: bytes) -> None:
    """400 in plain text, before any route, and the node goes on."""

    async def check(url: str, _: Node) -> None:
        status, headers, body = await send(url, asked(line))
        assert body
        assert status == 400
        assert headers["content-type"].startswith("text/plain")
        assert (await get(f"{url}/livez")).status == 200

    run(learned, check)


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        (LIST, CHANGING),
        ("/v1/blocks/3", IMMUTABLE),
        ("/v1/checkpoints/3", IMMUTABLE),
        ("/v1/members/hospital-1.admin", CHANGING),
        ("/v1/status", CHANGING),
        ("/v1/problems/api.busy", IMMUTABLE),
        ("/openapi.json", CHANGING),
        ("/docs", CHANGING),
    ],
)
def test_every_answer_has_a_strong_tag_by_which_it_is_not_sent_twice(
    learned: Network, path: str, kept: str
) -> None:
    """304 to who holds it, with the same headers; finalized data need not be asked for again."""

    async def check(url: str, _: Node) -> None:
        got = await get(url + path)
        tag = got.headers["ETag"]
        assert got.headers["Cache-Control"] == kept
        for held in (tag, f'"other", {tag}', f"W/{tag}", "*"):
            again = await get(url + path, headers={"If-None-Match": held})
            assert (again.status, again.body) == (304, b""), held
            for name in ("ETag", "Cache-Control", "Vary"):
                assert again.headers[name] == got.headers[name]
        for held in ('"other"', 'garbage,,"'):
            assert (await get(url + path, headers={"If-None-Match": held})).status == 200
        head = await call("HEAD", url + path)
        assert (head.status, head.headers["ETag"], head.body) == (200, tag, b"")
        assert head.headers["Content-Length"] == got.headers["Content-Length"]

    run(learned, check)


def test_what_changes_has_another_tag_afterwards(learned: Network) -> None:
    """A list that grew is sent again to who holds the one before."""

    async def check(url: str, node: Node) -> None:
        before = await get(url + LIST)
        learned.block()
        after = await get(url + LIST, headers={"If-None-Match": before.headers["ETag"]})
        assert after.status == 200
        assert after.headers["ETag"] != before.headers["ETag"]

    run(learned, check)


def test_a_problem_is_kept_by_no_cache(learned: Network) -> None:
    """What is missing now may be there in a second."""

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/members/nobody", headers={"If-None-Match": "*"})
        assert_problem(got, 404, "record.missing")
        assert got.headers["Cache-Control"] == "no-store"
        assert "ETag" not in got.headers

    run(learned, check)


def test_every_answer_is_guarded(learned: Network) -> None:
    """Nothing is sniffed or told on, and no release of what we run on is named."""

    async def check(url: str, _: Node) -> None:
        answers: list[Any] = [await get(url + path) for path in (LIST, "/docs", "/v1/none")]
        answers.append(await get(f"{url}/v1/blocks?format=csv"))
        for got in answers:
            assert got.headers["X-Content-Type-Options"] == "nosniff"
            assert got.headers["Referrer-Policy"] == "no-referrer"
            assert got.headers["Server"] == "concilium"

    run(learned, check)

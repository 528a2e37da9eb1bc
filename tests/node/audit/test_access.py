"""Access logs by an auditor: all lines under the digest on chain, and no lie of a node's."""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from node.audit import access
from node.audit.access import NOTHING, Known, new_lines, reach, validator_of
from node.client.client import Client
from node.client.credentials import Credentials
from tests.harness import key_of
from tests.node.network import HOSPITALS, Network, learn
from tests.node.readers.reading import AUDITOR, ask, private_network
from tests.node.readers.test_shown import VERDICT
from tests.node.serving import serve, serve_app
from vm import tree
from vm.accesslog import AccessLine, AccessLog, DigestLog, Via
from vm.refusal import Refused
from vm.shape import pack

VALIDATOR = f"{HOSPITALS[0]}.validator"
READER = Credentials(AUDITOR, key_of(AUDITOR))
LOG = bytes(range(16))
LINES = [AccessLine(bytes(16), n, AUDITOR, Via.TOKEN, "verdict", bytes(32), n) for n in range(450)]
PACKED = [pack(line) for line in LINES]


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain whose readers are its members, with verdicts."""
    with private_network(tmp_path) as made:
        learn(made, 1)
        yield made


def test_an_auditor_verifies_what_was_read(network: Network) -> None:
    """From the first line on, and later only what has come since."""

    async def main() -> None:
        async with (
            serve(network, known=False) as (url, node),
            Client(network.genesis, [url], READER) as client,
        ):
            known, sizes = NOTHING, []
            for reads in (3, 2):
                for _ in range(reads):
                    await ask(url + VERDICT)
                frontier = node.logbook.frontier
                path = node.logbook.consistency(known.size, frontier.size)
                body = DigestLog(node.logbook.identity, frontier.size, frontier.root, path)
                height = network.block(network.sign(VALIDATOR, "access.digest", body)).height
                node.feed.publish(height)
                digest = await client.record(AccessLog, VALIDATOR)
                assert digest is not None
                assert await validator_of(client) == VALIDATOR
                whole = Known(digest.log, digest.size, digest.root)
                found = [line async for line in new_lines(client, whole, known)]
                assert {line.reader for line in found} == {AUDITOR}
                known = whole
                sizes.append((digest.size, len(found)))
            assert sizes == [(3, 3), (5, 2)]

    asyncio.run(main())


Page = dict[str, Any]


def page(after: int, size: int, lines: list[bytes]) -> Page:
    """A true page of these lines' log."""
    nodes: dict[tuple[int, int], bytes] = {}
    frontier = tree.EMPTY
    for line in lines:
        frontier, made = tree.append(frontier, line)
        nodes |= {(level, index): digest for level, index, digest in made}

    def read(level: int, index: int) -> bytes:
        return nodes[level, index]

    return {
        "validator": VALIDATOR,
        "root": tree.root(lines[:size]).hex(),
        "consistency": [d.hex() for d in tree.consistency_path_at(read, after, size)],
        "items": [
            {
                "line": base64.b64encode(lines[place]).decode(),
                "path": [d.hex() for d in tree.inclusion_path_at(read, place, size)],
            }
            for place in range(after, min(after + 200, size))
        ],
    }


def read_through(
    network: Network,
    known: Known = NOTHING,
    size: int = len(PACKED),
    lines: list[bytes] = PACKED,
    lie: Callable[[Page], Page] = lambda page: page,
) -> int:
    """How many lines an auditor takes from a node that lies about a log of `lines`."""
    return len(read_to(network, known, size, lines, lie)[1])


def read_to(
    network: Network,
    known: Known = NOTHING,
    size: int = len(PACKED),
    lines: list[bytes] = PACKED,
    lie: Callable[[Page], Page] = lambda page: page,
) -> tuple[Known, list[AccessLine]]:
    """How far one run comes, and the lines that it takes."""
    digest = Known(LOG, size, tree.root(PACKED[:size]))

    async def answer(request: web.Request) -> web.Response:
        after, asked = int(request.query["after"]), int(request.query["size"])
        return web.json_response(lie(page(after, asked, lines)))

    async def main() -> tuple[Known, list[AccessLine]]:
        app = web.Application()
        app.router.add_get("/v1/access-log", answer)
        async with serve_app(app) as url, Client(network.genesis, [url]) as client:
            part = await reach(client, digest, known)
            return part, [line async for line in new_lines(client, part, known)]

    return asyncio.run(main())


def code_of(network: Network, **options: Any) -> str:
    """The code with which an auditor refuses a log."""
    with pytest.raises(Refused) as refused:
        read_through(network, **options)
    return refused.value.code


@pytest.mark.parametrize("before", [0, 1, 199, 256, 449, 450])
def test_a_long_log_is_read_page_by_page(network: Network, before: int) -> None:
    """Whatever is known already, and however it stands to the pages."""
    known = Known(LOG, before, tree.root(PACKED[:before]))

    assert read_through(network, known) == 450 - before


def test_one_run_reads_so_many_new_lines_and_the_next_goes_on(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to a root that is shown to begin the chain's: what was read is verified for good."""
    monkeypatch.setattr(access, "LINES_NEW_MAX", 200)
    known, runs = NOTHING, []
    for _ in range(4):
        known, found = read_to(network, known)
        assert known.root == tree.root(PACKED[: known.size])
        runs.append((known.size, len(found)))

    assert runs == [(200, 200), (400, 200), (450, 50), (450, 0)]


def test_a_log_without_end_is_read_no_further(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest log that a chain could hold, all of one line: an audit is over all the same."""
    monkeypatch.setattr(access, "LINES_NEW_MAX", 400)
    nodes = [tree.root(PACKED[:1])]
    for _ in range(50):
        nodes.append(hashlib.sha256(b"\1" + nodes[-1] + nodes[-1]).digest())
    asked: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        after, size = int(request.query["after"]), int(request.query["size"])
        asked.append(after)
        read = lambda level, index: nodes[level]  # noqa: E731 - all nodes of a level are one
        return web.json_response(
            {
                "validator": VALIDATOR,
                "root": tree.frontier_at(read, size).root.hex(),
                "consistency": [d.hex() for d in tree.consistency_path_at(read, after, size)],
                "items": [
                    {
                        "line": base64.b64encode(PACKED[0]).decode(),
                        "path": [d.hex() for d in tree.inclusion_path_at(read, place, size)],
                    }
                    for place in range(after, min(after + 200, size))
                ],
            }
        )

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/v1/access-log", answer)
        async with serve_app(app) as url, Client(network.genesis, [url]) as client:
            part = await reach(client, Known(LOG, 2**50, nodes[50]), NOTHING)
            assert part.size == len([line async for line in new_lines(client, part, NOTHING)])

    asyncio.run(main())
    assert asked == [400, 400, 0, 200]


@pytest.mark.parametrize("name", ["root", "consistency"])
def test_a_part_that_does_not_begin_the_log_is_refused(
    network: Network, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Or a node would show a part of its own making, and be believed later."""
    monkeypatch.setattr(access, "LINES_NEW_MAX", 200)
    lie = altered(root="00" * 32) if name == "root" else altered(consistency=[])

    assert code_of(network, lie=lie) == "audit.access"


def altered(**changes: Any) -> Callable[[Page], Page]:
    """A lie about the page as a whole."""
    return lambda page: page | changes


def item(number: int, name: str, change: Callable[[Any], Any]) -> Callable[[Page], Page]:
    """A lie about one item."""

    def lie(page: Page) -> Page:
        items = [dict(found) for found in page["items"]]
        if number < len(items):
            items[number][name] = change(items[number][name])
        return page | {"items": items}

    return lie


LIES: dict[str, Callable[[Page], Page]] = {
    "no lines": altered(items=[]),
    "the first line left out": lambda page: page | {"items": page["items"][1:]},
    "two lines in the wrong order": lambda page: page | {"items": page["items"][::-1]},
    "a line twice": lambda page: page | {"items": [page["items"][0], *page["items"][:-1]]},
    "another line": item(3, "line", lambda text: "AAAA" + text[4:]),
    "a path cut short": item(3, "path", lambda path: path[:-1]),
    "a path too long": item(3, "path", lambda path: [*path, "00" * 32]),
    "a digest that is none": item(3, "path", lambda path: ["xy", *path[1:]]),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_found(network: Network, name: str) -> None:
    """Every line has one place, and stands there under the digest of the chain."""
    assert code_of(network, lie=LIES[name]) == "audit.access"


def test_where_nothing_is_new_the_last_line_is_shown(network: Network) -> None:
    """Or who has no line of the log would pass for it by what was verified before."""
    known = Known(LOG, len(PACKED), tree.root(PACKED))

    assert code_of(network, known=known, lie=altered(items=[])) == "audit.access"
    assert code_of(network, known=known, lie=item(0, "path", lambda path: [])) == "audit.access"
    assert read_through(network, known) == 0


def test_a_log_that_was_written_anew_is_found(network: Network) -> None:
    """The digest that the auditor kept is no beginning of this one."""
    others = [pack(line) for line in reversed(LINES[:100])]

    known = Known(LOG, 100, tree.root(others))

    assert code_of(network, known=known) == "audit.access"
    assert code_of(network, known=known, lie=altered(consistency=[])) == "audit.access"


def test_a_log_that_has_shrunk_is_found(network: Network) -> None:
    """The chain would refuse it; an auditor does not rely on that."""
    assert code_of(network, known=Known(LOG, 451, bytes(32))) == "audit.access"
    assert code_of(network, known=Known(LOG, 450, bytes(32))) == "audit.access"


def test_a_log_that_was_begun_anew_is_found(network: Network) -> None:
    """What was read under the one before is gone, whatever the node says of it."""
    assert code_of(network, known=Known(bytes(16), 10, tree.root(PACKED[:10]))) == "audit.access"

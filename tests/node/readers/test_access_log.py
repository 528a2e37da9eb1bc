"""The access log over HTTP: auditors read it, line by line, with proof."""

import base64

import pytest

from node.api.problem import find_problem
from tests.node.api.asking import assert_problem
from tests.node.network import HOSPITALS, Network
from tests.node.readers.reading import AUDITOR, TRAINER, ask, noted, run, token
from tests.node.readers.test_shown import VERDICT
from tests.node.serving import Node, get
from vm import tree
from vm.accesslog import DigestLog

VALIDATOR = f"{HOSPITALS[0]}.validator"


def digests(texts: list[str]) -> tuple[bytes, ...]:
    """Digests as JSON has them."""
    return tuple(bytes.fromhex(text) for text in texts)


def test_an_auditor_reads_lines_with_proof(learned: Network) -> None:
    """Each line has its place in the tree, and the tree that was known before is its beginning."""

    async def check(url: str, node: Node) -> None:
        mine = await token(url)
        for _ in range(5):
            await get(url + VERDICT, headers=mine)
        old = node.logbook.root(2)
        page = (await get(f"{url}/v1/access-log?after=2&size=5&limit=2", headers=mine)).body
        root = bytes.fromhex(page["root"])
        assert (page["validator"], page["after"], page["size"]) == (VALIDATOR, 2, 5)
        assert tree.verify_consistency(2, 5, old, root, digests(page["consistency"]))
        lines = [base64.b64decode(item["line"]) for item in page["items"]]
        for place, (line, item) in enumerate(zip(lines, page["items"], strict=True), start=2):
            assert tree.verify_inclusion(line, place, 5, digests(item["path"]), root)
        assert len(lines) == 2

    run(learned, check)


def test_without_a_size_it_is_what_the_chain_has(learned: Network) -> None:
    """An auditor who has the digest of the chain asks for nothing beyond it."""

    async def check(url: str, node: Node) -> None:
        mine = await token(url)
        for _ in range(3):
            await get(url + VERDICT, headers=mine)
        assert (await get(f"{url}/v1/access-log", headers=mine)).body["items"] == []
        digest = DigestLog(node.logbook.identity, 2, node.logbook.root(2), ())
        learned.block(learned.sign(VALIDATOR, "access.digest", digest))
        page = (await get(f"{url}/v1/access-log", headers=mine)).body
        assert (page["size"], len(page["items"])) == (2, 2)

    run(learned, check)


def test_it_is_for_auditors(learned: Network) -> None:
    """Who reads what is nobody else's business."""

    async def check(url: str, node: Node) -> None:
        got = await ask(f"{url}/v1/access-log", TRAINER)
        assert_problem(got, 403, "reader.role")
        assert (await ask(f"{url}/v1/access-log", AUDITOR)).status == 200

    run(learned, check)


def test_reading_the_log_is_not_a_line_in_it(learned: Network) -> None:
    """Else no auditor would come to its end."""

    async def check(url: str, node: Node) -> None:
        await ask(f"{url}/v1/access-log")
        assert noted(node) == []

    run(learned, check)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("size=1", "access_log.range"),
        ("after=1", "access_log.range"),
        ("after=-1", "query.invalid"),
        ("limit=201", "query.invalid"),
        ("page=1", "query.unknown"),
    ],
)
def test_lines_that_are_not_there_are_refused(network: Network, query: str, code: str) -> None:
    """An empty log has no first line."""

    async def check(url: str, node: Node) -> None:
        assert_problem(await ask(f"{url}/v1/access-log?{query}"), find_problem(code).status, code)

    run(network, check)

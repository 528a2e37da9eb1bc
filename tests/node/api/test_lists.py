"""Lists over HTTP: pages that join into the whole, and bounds that are refused."""

import pytest

from node.api import scan
from tests.node.api.asking import assert_problem, run
from tests.node.network import MODEL, TASK, Network
from tests.node.serving import Node, get


def test_pages_of_a_list_join_into_the_whole(learned: Network) -> None:
    """Following `next` gives each item once, in order, and ends."""

    async def check(url: str, _: Node) -> None:
        whole = (await get(f"{url}/v1/members?limit=100")).body
        assert whole["next"] is None
        pages, query = [], "?limit=7"
        while True:
            page = (await get(f"{url}/v1/members{query}")).body
            assert len(page["items"]) == 7 or page["next"] is None
            pages += page["items"]
            if page["next"] is None:
                break
            query = f"?limit=7&cursor={page['next']}"

        assert [item["record"] for item in pages] == [item["record"] for item in whole["items"]]
        assert len(pages) == 20

    run(learned, check)


def test_a_list_whose_last_page_is_full_ends_there(learned: Network) -> None:
    """No cursor to an empty page is handed out."""

    async def check(url: str, _: Node) -> None:
        assert (await get(f"{url}/v1/datasets?limit=4")).body["next"] is None
        assert (await get(f"{url}/v1/datasets?limit=3")).body["next"] is not None

    run(learned, check)


@pytest.mark.parametrize(
    ("path", "count"), [("blocks", 10), ("transactions", 50), ("checkpoints", 9)]
)
def test_newest_first_lists_join_into_the_whole(learned: Network, path: str, count: int) -> None:
    """Blocks, transactions and checkpoints go down to the oldest, each once."""

    async def check(url: str, _: Node) -> None:
        found, query = [], "?limit=3"
        while True:
            page = (await get(f"{url}/v1/{path}{query}")).body
            assert len(page["items"]) <= 3
            found += page["items"]
            if page["next"] is None:
                break
            query = f"?limit=3&cursor={page['next']}"

        assert len(found) == count
        heights = [
            item["checkpoint"]["header"]["height"] if path == "checkpoints" else item["height"]
            for item in found
        ]
        assert heights == sorted(heights, reverse=True)
        assert len({str(item) for item in found}) == count

    run(learned, check)


def test_transactions_of_one_block_may_fill_several_pages(learned: Network) -> None:
    """A page ends inside a block and the next goes on there, newest transaction first."""

    async def check(url: str, _: Node) -> None:
        first = (await get(f"{url}/v1/transactions?limit=3")).body
        rest = (await get(f"{url}/v1/transactions?limit=1&cursor={first['next']}")).body

        receipts = learned.chain.store.row(learned.chain.head.height)
        assert receipts is not None
        ids = [receipt.transaction.hex() for receipt in reversed(receipts.receipts)]
        assert [item["id"] for item in first["items"] + rest["items"]] == ids[:4]

    run(learned, check)


def test_a_page_looks_through_a_bounded_number_of_blocks(
    learned: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many empty blocks make a short page with a cursor, not a long read."""
    for _ in range(5):
        learned.block()
    monkeypatch.setattr(scan, "SCAN_BLOCKS_MAX", 3)

    async def check(url: str, _: Node) -> None:
        page = (await get(f"{url}/v1/transactions")).body
        assert page["items"] == []
        assert page["next"] is not None

    run(learned, check)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "1.0", " 1", "1_0", "٣", "x", ""])
def test_a_limit_out_of_bounds_is_refused_rather_than_clamped(learned: Network, limit: str) -> None:
    """Only plain digits from 1 to 100 are a limit."""

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/members", params={"limit": limit})
        assert_problem(got, 400, "query.invalid")

    run(learned, check)


def test_unknown_and_repeated_parameters_are_refused(learned: Network) -> None:
    """A misspelt parameter is an error, not ignored."""

    async def check(url: str, _: Node) -> None:
        for path in ("members", "members/nobody", "status", "events", "blocks/1"):
            assert_problem(await get(f"{url}/v1/{path}?limits=3"), 400, "query.unknown")
        assert_problem(await get(f"{url}/v1/members?limit=3&limit=4"), 400, "query.invalid")

    run(learned, check)


def test_a_cursor_that_was_changed_or_borrowed_is_refused(learned: Network) -> None:
    """Every altered character, a cut cursor, and another list's cursor: all refused."""

    async def check(url: str, _: Node) -> None:
        cursor = (await get(f"{url}/v1/members?limit=1")).body["next"]
        other = (await get(f"{url}/v1/datasets?limit=1")).body["next"]
        block = (await get(f"{url}/v1/blocks?limit=1")).body["next"]
        altered = [
            cursor[:i] + ("A" if cursor[i] != "A" else "B") + cursor[i + 1 :]
            for i in range(0, len(cursor), 5)
        ]
        for bad in (*altered, cursor[:-1], cursor + "A", other, block, "!", "ä"):
            got = await get(f"{url}/v1/members", params={"cursor": bad})
            assert_problem(got, 400, "cursor.invalid")
        got = await get(f"{url}/v1/transactions", params={"cursor": block})
        assert_problem(got, 400, "cursor.invalid")
        assert_problem(await get(f"{url}/v1/members?cursor={'A' * 600}"), 400, "query.invalid")

    run(learned, check)


@pytest.mark.parametrize(
    "path",
    [
        "members/UPPER",
        "members/" + "a" * 65,
        "members/-a",
        "members/%00",
        "blocks/-1",
        "blocks/01",
        "blocks/9007199254740993",
        "blocks/1e3",
        "checkpoints/x",
        "transactions/abc",
        "transactions/" + "A" * 64,
        f"models/{MODEL}/versions/x",
        f"tasks/{TASK}/rounds/-1",
        "models/UPPER/versions",
    ],
)
def test_a_malformed_id_is_refused(learned: Network, path: str) -> None:
    """Ids are checked before anything is looked up."""

    async def check(url: str, _: Node) -> None:
        assert_problem(await get(f"{url}/v1/{path}"), 400, "id.invalid")

    run(learned, check)

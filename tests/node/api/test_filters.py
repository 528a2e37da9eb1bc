"""Lists by sender, kind, result, subject, time and prefix: just what a look at all would find."""

from collections.abc import Callable
from typing import Any

import pytest

from node.api import scan
from tests.harness import START_MS
from tests.node.api.asking import assert_problem, run
from tests.node.network import HOSPITALS, MODEL, Network, register_dataset
from tests.node.serving import Node, get

Item = dict[str, Any]


async def everything(url: str, query: str = "") -> list[Item]:
    """The items of all pages of a list."""
    found: list[Item] = []
    following: str | None = ""
    while following is not None:
        got = await get(f"{url}{'&' if '?' in url else '?'}limit=7{query}{following}")
        assert got.status == 200, got.body
        found += got.body["items"]
        following = got.body["next"] and f"&cursor={got.body['next']}"
    return found


@pytest.mark.parametrize(
    ("query", "wanted", "count"),
    [
        ("sender=hospital-2.steward", lambda item: item["sender"] == "hospital-2.steward", 1),
        ("kind=learning.proof", lambda item: item["kind"] == "learning.proof", 8),
        ("result=applied", lambda item: item["result"] == "applied", 50),
        ("result=failed", lambda item: False, 0),
        ("since=4&until=5", lambda item: 4 <= item["height"] <= 5, 16),
        ("id=4", lambda item: item["id"].startswith("4"), None),
        ("dataset=hospital-2.opt", None, 4),
        ("dataset=nowhere", None, 0),
        (f"model={MODEL}&kind=learning.commit", lambda item: item["kind"] == "learning.commit", 8),
        ("organisation=hospital-3&kind=learning.proof", None, 2),
    ],
)
def test_a_filter_keeps_what_it_describes(
    learned: Network, query: str, wanted: Callable[[Item], bool] | None, count: int | None
) -> None:
    """In order and over all pages, as a filter of the whole list would."""

    async def check(url: str, _: Node) -> None:
        found = await everything(f"{url}/v1/transactions?{query}")
        whole = await everything(f"{url}/v1/transactions")
        if wanted is not None:
            assert found == [item for item in whole if wanted(item)]
        else:
            assert [item for item in whole if item in found] == found
        assert count is None or len(found) == count
        blocks = await everything(f"{url}/v1/blocks?{query}") if "id=" not in query else []
        if found and blocks:
            assert {item["height"] for item in blocks} == {item["height"] for item in found}

    run(learned, check)


def test_times_and_heights_bound_a_list_alike(learned: Network) -> None:
    """A time means the blocks from it on, or up to it; both ends are included."""

    async def check(url: str, _: Node) -> None:
        def heights(items: list[Item]) -> list[int]:
            return [item["height"] for item in items]

        path = f"{url}/v1/blocks"
        for first in ("2023-11-14T22:13:24Z", "2023-11-14T23:13:23.001%2B01:00", "4"):
            assert heights(await everything(f"{path}?since={first}&until=6")) == [6, 5, 4]
        for last in ("2023-11-14T22:13:24.999Z", "2023-11-14t22:13:24z", "4"):
            assert heights(await everything(f"{path}?until={last}&since=3")) == [4, 3]
        assert await everything(f"{path}?since=2099-01-01T00:00:00Z") == []
        assert await everything(f"{path}?until=1999-01-01T00:00:00Z") == []
        assert await everything(f"{path}?since=6&until=5") == []
        found = await everything(f"{url}/v1/checkpoints?since=3&until=5")
        assert [item["checkpoint"]["header"]["height"] for item in found] == [5, 4, 3]

    assert START_MS == 1_700_000_000_000  # 2023-11-14T22:13:20Z
    run(learned, check)


@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday",
        "since=2023-02-30T00:00:00Z",
        "since=2023-11-14T22:13:24",  # without an offset
        "until=-1",
        "kind=NO",
        "result=fine",
        "id=xyz",
        "organisation=-",
    ],
)
def test_a_filter_that_means_nothing_is_refused(learned: Network, query: str) -> None:
    """It is never taken for no filter."""

    async def check(url: str, _: Node) -> None:
        assert_problem(await get(f"{url}/v1/transactions?{query}"), 400, "query.invalid")

    run(learned, check)


def test_records_are_listed_by_what_they_name(learned: Network) -> None:
    """By organisation, dataset or model, however deep in the record; only where it may name one."""

    async def check(url: str, _: Node) -> None:
        members = await everything(f"{url}/v1/members?organisation=hospital-2")
        assert {item["record"]["organisation"] for item in members} == {"hospital-2"}
        assert len(members) == 5
        versions = f"{url}/v1/models/{MODEL}/versions"
        made = await everything(f"{versions}?dataset=hospital-2.opt")
        assert [item["record"]["version"] for item in made] == [1, 2]  # version 0 is of no data
        assert len(await everything(f"{url}/v1/tasks?model={MODEL}&dataset=hospital-1.opt")) == 1
        assert await everything(f"{url}/v1/tasks?model=other") == []
        assert_problem(await get(f"{url}/v1/members?model={MODEL}"), 400, "query.unknown")

    run(learned, check)


def test_a_cursor_belongs_to_its_filters(learned: Network) -> None:
    """Brought to other filters it would skip or repeat; the format and the limit do not matter."""

    async def check(url: str, _: Node) -> None:
        for path, filters, other in (
            ("transactions", "kind=learning.proof", "kind=learning.seal"),
            ("members", "organisation=hospital-1", "organisation=hospital-2"),
            ("blocks", "since=1", "since=2"),
        ):
            page = (await get(f"{url}/v1/{path}?{filters}&limit=2")).body
            cursor = page["next"]
            for bad in (other, ""):
                got = await get(f"{url}/v1/{path}?{bad}&cursor={cursor}")
                assert_problem(got, 400, "cursor.invalid")
            good = await get(f"{url}/v1/{path}?{filters}&cursor={cursor}&limit=9&format=json")
            assert good.status == 200

    run(learned, check)


def test_a_page_opens_a_bounded_number_of_transactions(
    learned: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter that nothing matches makes short pages with cursors, and no long read."""
    monkeypatch.setattr(scan, "SCAN_TRANSACTIONS_MAX", 5)

    async def check(url: str, _: Node) -> None:
        page = (await get(f"{url}/v1/transactions?sender=nobody")).body
        assert page["items"] == []
        assert page["next"] is not None
        assert await everything(f"{url}/v1/transactions?sender=nobody") == []
        assert len(await everything(f"{url}/v1/transactions?kind=task.open")) == 1

    run(learned, check)


def test_a_transaction_that_failed_is_found_by_its_result(learned: Network) -> None:
    """And by whom it names, though no record came of it."""
    header = learned.block(register_dataset(learned, HOSPITALS[0]))

    async def check(url: str, _: Node) -> None:
        found = await everything(f"{url}/v1/transactions?result=failed&dataset=hospital-1.opt")
        assert [item["height"] for item in found] == [header.height]
        blocks = await everything(f"{url}/v1/blocks?digest={header.digest.hex()[:9]}")
        assert [item["height"] for item in blocks] == [header.height]

    run(learned, check)

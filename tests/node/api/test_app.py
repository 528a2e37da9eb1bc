"""The HTTP interface, over a real chain with certificates by the validators' keys."""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from node.api import answer as answering
from node.api import blocks, events, transactions
from node.api.problem import PROBLEMS
from node.validator.prune import Pruner
from tests.node.network import (
    HOSPITALS,
    MODEL,
    POISONER,
    TASK,
    Network,
    certificate,
    learn,
    open_network,
    register_dataset,
)
from tests.node.serving import Got, Node, call, get, proof_of, serve
from vm.block import Result
from vm.encoding import encode
from vm.inclusion import (
    CertifiedHeader,
    LineageProof,
    RecordProof,
    TransactionProof,
    read_record,
    verify_header,
    verify_lineage,
    verify_transaction,
)
from vm.record import Dataset, Member, Role
from vm.registry import EnrolMember
from vm.shape import pack

Check = Callable[[str, Node], Awaitable[None]]


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain at its genesis."""
    with open_network(tmp_path) as made:
        yield made


@pytest.fixture
def learned(network: Network) -> Network:
    """A chain on which a task of two rounds ran."""
    learn(network, 2)
    return network


def run(network: Network, check: Check) -> None:
    """Serve the network and check what it answers."""

    async def main() -> None:
        async with serve(network) as (url, node):
            await check(url, node)

    asyncio.run(main())


def assert_problem(got: Got, status: int, code: str) -> None:
    """The answer is the problem document of this code."""
    assert (got.status, got.body["code"]) == (status, code), got.body
    assert got.headers["Content-Type"].startswith("application/problem+json")
    assert got.body["status"] == status
    assert got.body["type"] == f"/v1/problems/{code}"
    assert got.body["title"]
    assert got.body["detail"]


# Records


def test_a_record_comes_with_a_proof_that_verifies(learned: Network) -> None:
    """The base64 proof alone shows the record; what is beside it is the same, decoded."""

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/datasets/hospital-1.opt")

        proof = proof_of(RecordProof, got.body)
        chain = learned.chain
        found = read_record(proof, Dataset, ("hospital-1.opt",), chain.id, (chain.epoch,))
        assert found is not None
        assert got.body["record"]["id"] == found.id
        assert got.body["record"]["root"] == found.root.hex()
        assert got.body["checkpoint"]["header"]["height"] == chain.head.height
        assert len(got.body["checkpoint"]["certificate"]["votes"]) == 3
        assert got.headers["Cache-Control"] == "no-store"

    run(learned, check)


@pytest.mark.parametrize(
    "path",
    [
        "organisations/hospital-1",
        "members/hospital-1.trainer",
        "datasets/hospital-1.opt",
        f"models/{MODEL}",
        f"models/{MODEL}/versions/2",
        f"tasks/{TASK}",
        f"tasks/{TASK}/rounds/1",
        f"tasks/{TASK}/rounds/1/updates/hospital-1",
        f"tasks/{TASK}/rounds/1/updates/hospital-1/verdicts/hospital-2",
    ],
)
def test_each_kind_of_record_has_a_path_and_a_list(learned: Network, path: str) -> None:
    """A record is found under its path, and in the list one level up."""

    async def check(url: str, _: Node) -> None:
        one = await get(f"{url}/v1/{path}")
        many = await get(f"{url}/v1/{path.rpartition('/')[0]}?limit=100")

        assert one.status == 200
        assert many.status == 200
        assert one.body["record"] in [item["record"] for item in many.body["items"]]

    run(learned, check)


def test_a_missing_record_is_refused_with_a_proof_of_its_absence(learned: Network) -> None:
    """404 carries the state path that shows that nothing is there."""

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/members/nobody")

        assert_problem(got, 404, "record.missing")
        proof = proof_of(RecordProof, got.body)
        chain = learned.chain
        assert read_record(proof, Member, ("nobody",), chain.id, (chain.epoch,)) is None

    run(learned, check)


def test_what_is_not_certified_is_not_shown(network: Network) -> None:
    """A record that an executed but uncertified block wrote is absent from item and list."""
    network.block()
    network.block(register_dataset(network, HOSPITALS[0]), certified=False)

    async def check(url: str, _: Node) -> None:
        assert_problem(await get(f"{url}/v1/datasets/hospital-1.opt"), 404, "record.missing")
        assert (await get(f"{url}/v1/datasets")).body["items"] == []
        assert (await get(f"{url}/v1/blocks")).body["items"][0]["height"] == 1
        assert_problem(await get(f"{url}/v1/blocks/2"), 404, "block.missing")
        assert_problem(await get(f"{url}/v1/checkpoints/2"), 404, "checkpoint.missing")

    run(network, check)


def test_what_is_pruned_is_gone_and_says_whom_to_ask(network: Network) -> None:
    """410 for its block, its transactions and events from it on; lists end, checkpoints stay."""
    item = register_dataset(network, HOSPITALS[0])
    for height in range(1, 13):
        network.block(*([item] if height == 7 else []))
    store = network.chain.store
    pruner = Pruner(store, snapshot_blocks=8, window=2)
    list(pruner.steps(pruner.target(3)))

    async def check(url: str, _: Node) -> None:
        for path in ("blocks/3", "blocks/7", f"transactions/{item.id.hex()}", "events?since=4"):
            got = await get(f"{url}/v1/{path}")
            assert_problem(got, 410, "block.pruned")
            assert "retain_blocks = 0" in got.body["detail"]
        heights = [block["height"] for block in (await get(f"{url}/v1/blocks")).body["items"]]
        assert heights == [12, 11, 10]
        assert (await get(f"{url}/v1/blocks/10")).status == 200
        assert_problem(await get(f"{url}/v1/checkpoints/3"), 404, "checkpoint.missing")
        assert (await get(f"{url}/v1/datasets/hospital-1.opt")).status == 200

    assert store.row(7) is not None
    run(network, check)


def test_a_certificate_above_what_is_executed_changes_nothing(network: Network) -> None:
    """A node that lags serves the newest height that it has both executed and certified."""
    header = network.block()
    network.chain.store.write_certificate(
        certificate(network.genesis, replace(header, height=9), HOSPITALS[:3])
    )

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/members/hospital-1.trainer")
        assert got.body["checkpoint"]["header"]["height"] == 1

    run(network, check)


def test_a_node_without_a_certificate_serves_nothing(network: Network) -> None:
    """Before the first certified block every read is answered 503, with when to come again."""

    async def check(url: str, _: Node) -> None:
        for path in ("members", "blocks", "transactions", "checkpoints"):
            got = await get(f"{url}/v1/{path}")
            assert_problem(got, 503, "node.not_ready")
            assert got.headers["Retry-After"] == "1"

    run(network, check)


def test_a_round_shows_updates_verdicts_and_reasons(learned: Network) -> None:
    """One answer tells who was accepted, who was rejected, why, and by whose verdicts."""

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/tasks/{TASK}/rounds/2")

        outcomes = {item["organisation"]: item for item in got.body["record"]["outcomes"]}
        assert outcomes["hospital-1"]["status"] == "accepted"
        assert outcomes[POISONER]["status"] == "rejected"
        assert outcomes[POISONER]["code"] == "update.norm"
        assert outcomes[POISONER]["reason"] == "norm above three times the median"
        assert len(got.body["updates"]) == 4
        assert len(got.body["verdicts"]) == 12
        for item in (*got.body["updates"], *got.body["verdicts"]):
            verify_header(
                proof_of(RecordProof, item).certified, learned.chain.id, (learned.chain.epoch,)
            )

    run(learned, check)


def test_a_lineage_comes_whole_under_one_header(learned: Network) -> None:
    """The answer's proof holds the versions, rounds, updates, verdicts, datasets and members."""

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/models/{MODEL}/versions/2/lineage")

        proof = proof_of(LineageProof, got.body)
        chain = learned.chain
        assert len(verify_lineage(proof, chain.id, (chain.epoch,))) == got.body["records"]
        assert_problem(
            await get(f"{url}/v1/models/{MODEL}/versions/3/lineage"), 404, "lineage.missing"
        )

    run(learned, check)


def test_a_lineage_is_bounded(learned: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lineage of more records than the bound is refused, not cut."""
    monkeypatch.setattr("node.audit.prove.LINEAGE_RECORDS_MAX", 10)

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/models/{MODEL}/versions/2/lineage")
        assert_problem(got, 413, "lineage.too_large")

    run(learned, check)


# Lists


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
    ("path", "count"), [("blocks", 10), ("transactions", 46), ("checkpoints", 9)]
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
    monkeypatch.setattr(blocks, "SCAN_BLOCKS_MAX", 3)

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


# Blocks


def test_a_block_is_final_and_its_proof_verifies(learned: Network) -> None:
    """A block with a certificate of its own may be kept for ever, and is not sent twice."""

    async def check(url: str, _: Node) -> None:
        for path in ("blocks/3", "checkpoints/3"):
            got = await get(f"{url}/v1/{path}")
            proof = proof_of(CertifiedHeader, got.body)
            verify_header(proof, learned.chain.id, (learned.chain.epoch,))
            assert proof.header.height == 3
            assert "immutable" in got.headers["Cache-Control"]
            tag = got.headers["ETag"]
            again = await get(f"{url}/v1/{path}", headers={"If-None-Match": f'"x", {tag}'})
            assert (again.status, again.body) == (304, b"")
            assert again.headers["ETag"] == tag

    run(learned, check)


def test_a_block_without_a_certificate_of_its_own_stands_under_a_later_one(
    network: Network,
) -> None:
    """A node that caught up proves what it missed through the newest header's history."""
    for _ in range(5):
        network.block(certified=False)
    transaction = register_dataset(network, HOSPITALS[0])
    network.block(transaction, certified=False)
    network.block()

    async def check(url: str, _: Node) -> None:
        for height in range(7):
            got = await get(f"{url}/v1/blocks/{height}")
            proof = proof_of(CertifiedHeader, got.body)
            verify_header(proof, network.chain.id, (network.chain.epoch,))
            assert (proof.header.height, proof.certificate.height) == (height, 7)
            assert got.body["checkpoint"]["later"]["height"] == 7
            assert "ETag" not in got.headers  # another later one may stand here tomorrow
        got = await get(f"{url}/v1/transactions/{transaction.id.hex()}")
        found = proof_of(TransactionProof, got.body)
        verify_transaction(found, network.chain.id, (network.chain.epoch,))
        assert got.headers["Cache-Control"] == "no-store"

    run(network, check)


# Transactions


def test_a_certified_transaction_shows_intent_receipt_and_proof(learned: Network) -> None:
    """Its body is decoded for people, and the proof shows transaction and receipt."""
    failed = register_dataset(learned, HOSPITALS[0])  # the id is taken
    learned.block(failed)

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/transactions/{failed.id.hex()}")

        proof = proof_of(TransactionProof, got.body)
        found = verify_transaction(proof, learned.chain.id, (learned.chain.epoch,))
        assert found == failed
        assert proof.receipt.result is Result.FAILED
        assert got.body["status"] == "certified"
        assert got.body["receipt"]["code"] == "dataset.exists"
        assert got.body["intent"]["kind"] == "dataset.register"
        assert got.body["intent"]["body"]["id"] == "hospital-1.opt"
        assert "immutable" in got.headers["Cache-Control"]

    run(learned, check)


def test_a_body_that_is_none_of_its_kind_is_shown_as_null(network: Network) -> None:
    """A failed transaction with a foreign body does not fail its page."""
    odd = network.sign(
        "hospital-1.steward", "dataset.register", EnrolMember("a", Role.AUDITOR, bytes(32), None)
    )
    network.block(odd)

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/transactions/{odd.id.hex()}")
        assert got.status == 200
        assert got.body["intent"]["body"] is None

    run(network, check)


def test_a_transaction_is_unknown_then_pending_then_certified(network: Network) -> None:
    """Pending covers waiting and executed alike, until the certificate is there."""
    network.block()
    transaction = register_dataset(network, HOSPITALS[0])

    async def check(url: str, node: Node) -> None:
        path = f"{url}/v1/transactions/{transaction.id.hex()}"
        assert_problem(await get(path), 404, "transaction.missing")

        accepted = await post(url, [pack(transaction)])
        assert accepted.status == 202
        assert (await get(path)).body["status"] == "pending"

        node.waiting.clear()
        header = network.block(transaction, certified=False)
        assert (await get(path)).body["status"] == "pending"

        network.certify(header)
        assert (await get(path)).body["status"] == "certified"

    run(network, check)


async def post(url: str, packed: list[bytes]) -> Got:
    """Submit as canonical msgpack."""
    headers = {"Content-Type": "application/msgpack"}
    return await call("POST", f"{url}/v1/transactions", data=encode(tuple(packed)), headers=headers)


def test_a_request_is_judged_one_transaction_at_a_time(network: Network) -> None:
    """One bad transaction does not take the others with it; each has its outcome, in order."""
    good, bad = register_dataset(network, HOSPITALS[0]), b"\xc1"

    async def check(url: str, _: Node) -> None:
        by_msgpack = await post(url, [bad, pack(good)])
        texts = [base64.b64encode(item).decode() for item in (bad, pack(good))]
        by_json = await call("POST", f"{url}/v1/transactions", json={"transactions": texts})

        for got in (by_msgpack, by_json):
            assert got.status == 202
            first, second = got.body["transactions"]
            assert (first["id"], first["code"]) == (None, "encoding.malformed")
            assert (second["id"], second["code"]) == (good.id.hex(), "admitted")

    run(network, check)


def test_a_request_of_which_nothing_is_admitted_is_refused(network: Network) -> None:
    """202 would promise admission; 422 carries the same outcomes."""

    async def check(url: str, _: Node) -> None:
        got = await post(url, [b"\xc1"])
        assert_problem(got, 422, "submission.refused")
        assert got.body["transactions"][0]["code"] == "encoding.malformed"

    run(network, check)


@pytest.mark.parametrize(
    ("kind", "data", "status", "code"),
    [
        ("application/msgpack", b"", 400, "encoding.malformed"),
        ("application/msgpack", encode(()), 400, "body.invalid"),
        ("application/msgpack", encode((b"x",) * 101), 400, "encoding.too_many"),
        ("application/msgpack", encode((((0,) * 9,) * 9,) * 9), 400, "encoding.too_many"),
        ("application/msgpack", encode(("x",)), 400, "body.invalid"),
        ("application/msgpack", encode(b"x"), 400, "body.invalid"),
        ("application/json", b"{", 400, "body.invalid"),
        ("application/json", b"[]", 400, "body.invalid"),
        ("application/json", b'{"transactions": []}', 400, "body.invalid"),
        ("application/json", b'{"transactions": ["?"]}', 400, "body.invalid"),
        ("application/json", b'{"transactions": ["eA=="], "x": 1}', 400, "body.invalid"),
        ("application/json", b"[" * 100_000, 400, "body.invalid"),
        ("text/plain", b"x", 415, "body.media_type"),
    ],
)
def test_a_malformed_body_is_refused(
    network: Network, kind: str, data: bytes, status: int, code: str
) -> None:
    """The body is checked before the node hears of it."""

    async def check(url: str, _: Node) -> None:
        headers = {"Content-Type": kind}
        got = await call("POST", f"{url}/v1/transactions", data=data, headers=headers)
        assert_problem(got, status, code)

    run(network, check)


def test_a_body_above_the_bound_is_refused(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than the bound is read."""
    monkeypatch.setattr(transactions, "SUBMIT_BYTES_MAX", 1_000)

    async def check(url: str, _: Node) -> None:
        got = await post(url, [bytes(2_000)])
        assert_problem(got, 413, "body.too_large")

    run(network, check)


def test_bodies_beyond_the_bound_are_turned_away(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes megabytes while it arrives, so only so many may; the next has its turn later."""
    monkeypatch.setattr(transactions, "SUBMISSIONS_MAX", 1)

    async def check(url: str, node: Node) -> None:
        item = pack(register_dataset(network, HOSPITALS[0]))
        arrived, answer = asyncio.Event(), asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            data = encode((item,))
            yield data[:1]
            arrived.set()
            await answer.wait()
            yield data[1:]

        headers = {"Content-Type": "application/msgpack"}
        held = call("POST", f"{url}/v1/transactions", data=body(), headers=headers)
        first = asyncio.create_task(held)
        await arrived.wait()
        while (await post(url, [b"x"])).status == 422:  # until the first's head has arrived
            pass
        assert_problem(await post(url, [item]), 503, "api.busy")
        answer.set()
        assert (await first).status == 202
        assert (await post(url, [item])).status == 202

    run(network, check)


def test_a_body_that_never_ends_loses_its_place(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attacker who sends bodies byte by byte does not shut the others out."""
    monkeypatch.setattr(transactions, "BODY_TIMEOUT_S", 0.05)

    async def check(url: str, _: Node) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b"\x91"
            await asyncio.Event().wait()

        headers = {"Content-Type": "application/msgpack"}
        got = await call("POST", f"{url}/v1/transactions", data=body(), headers=headers)
        assert_problem(got, 408, "body.slow")

    run(network, check)


def test_a_large_body_is_decoded_off_the_event_loop(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Consensus runs on the loop; what a stranger sends is read in a thread."""
    threads: list[threading.Thread] = []
    read_body = transactions._read_body

    def noted(media_type: str, body: bytes) -> Sequence[bytes]:
        threads.append(threading.current_thread())
        return read_body(media_type, body)

    monkeypatch.setattr(transactions, "_read_body", noted)

    async def check(url: str, _: Node) -> None:
        await post(url, [b"x"])

    run(network, check)

    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


# Errors


def test_paths_and_methods_that_are_not_there_are_problems(network: Network) -> None:
    """Also what the router refuses is a problem document."""

    async def check(url: str, _: Node) -> None:
        assert_problem(await get(f"{url}/v1/nothing"), 404, "route.unknown")
        got = await call("DELETE", f"{url}/v1/blocks")
        assert_problem(got, 405, "method.unknown")
        assert "GET" in got.headers["Allow"]

    run(network, check)


def test_a_bug_of_ours_is_answered_without_its_traceback(network: Network) -> None:
    """The client learns that the node failed, and nothing of how."""

    async def check(url: str, node: Node) -> None:
        node.judge = lambda transaction: 1 / 0  # type: ignore[assignment]
        got = await post(url, [pack(register_dataset(network, HOSPITALS[0]))])
        assert_problem(got, 500, "internal")
        assert "ZeroDivision" not in str(got.body)

    run(network, check)


def test_every_problem_type_resolves(network: Network) -> None:
    """The `type` of each listed problem is a path that says what it means."""

    async def check(url: str, _: Node) -> None:
        for code, known in PROBLEMS.items():
            got = await get(f"{url}/v1/problems/{code}")
            assert got.body == {"code": code, "title": known.title, "status": known.status}
        assert_problem(await get(f"{url}/v1/problems/none"), 404, "problem.missing")

    run(network, check)


def test_reads_beyond_the_bound_are_turned_away(
    learned: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full pool answers 503 at once instead of queueing without end."""
    monkeypatch.setattr(answering, "READS_MAX", 0)

    async def check(url: str, _: Node) -> None:
        assert_problem(await get(f"{url}/v1/members"), 503, "api.busy")

    run(learned, check)


# Health


def test_health_and_status(network: Network) -> None:
    """Liveness depends on nothing; readiness says why not; status is the node's own word."""

    async def check(url: str, node: Node) -> None:
        node.ready = (False, "catching up")
        assert (await get(f"{url}/livez")).status == 200
        got = await get(f"{url}/readyz")
        assert (got.status, got.body["reason"]) == (503, "catching up")
        node.ready = (True, "")
        assert (await get(f"{url}/readyz")).status == 200
        status = (await get(f"{url}/v1/status")).body
        assert status["chain"] == network.chain.id.hex()
        assert status["peers"] == 3

    run(network, check)


# Events


async def lines(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """The lines of a stream."""
    async for line in response.content:
        yield line.decode().rstrip("\n")


async def heights(response: aiohttp.ClientResponse, count: int) -> list[int]:
    """The ids of the next `count` events."""
    found: list[int] = []
    async for line in lines(response):
        if line.startswith("id: "):
            found.append(int(line[4:]))
            if len(found) == count:
                break
    return found


def test_events_resume_by_height_and_follow_the_chain(network: Network) -> None:
    """Past blocks come first, each once, then new ones as they are certified."""
    for _ in range(4):
        network.block()

    async def check(url: str, node: Node) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/v1/events?since=1") as response:
                assert response.content_type == "text/event-stream"
                assert await heights(response, 3) == [2, 3, 4]
                node.waiting[b""] = register_dataset(network, HOSPITALS[0])
                node.execute()
                assert await heights(response, 1) == [5]
            headers = {"Last-Event-ID": "3"}
            async with session.get(f"{url}/v1/events?since=1", headers=headers) as response:
                assert await heights(response, 2) == [4, 5]

    run(network, check)


def test_an_event_names_transactions_and_changed_records(network: Network) -> None:
    """A reader learns what to ask for."""
    network.block(register_dataset(network, HOSPITALS[0]))

    async def check(url: str, _: Node) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/events?since=0") as response,
        ):
            async for line in lines(response):
                if line.startswith("data: "):
                    break
        event = json.loads(line.removeprefix("data: "))
        assert event["transactions"][0]["kind"] == "dataset.register"
        assert event["records"] == [{"kind": "dataset", "key": ["hospital-1.opt"]}]
        assert event["left_out"] == 0

    run(network, check)


def test_an_event_names_a_bounded_number_of_records(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit is counted."""
    network.block(*(register_dataset(network, hospital) for hospital in HOSPITALS))
    monkeypatch.setattr(events, "EVENT_RECORDS_MAX", 1)

    async def check(url: str, node: Node) -> None:
        event = events._event(node.context, 1)
        assert event is not None
        assert (len(event.records), event.left_out) == (1, 3)

    run(network, check)


def test_an_idle_stream_sends_heartbeats_and_event_streams_are_bounded(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence is broken before proxies cut the line; one reader too many is turned away."""
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.001)
    monkeypatch.setattr(events, "STREAMS_MAX", 1)
    network.block()

    async def check(url: str, _: Node) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/events") as response,
        ):
            async for line in lines(response):
                if line == ": heartbeat":
                    break
            assert_problem(await get(f"{url}/v1/events"), 503, "events.full")

    run(network, check)


def test_an_announced_block_that_is_not_executed_here_waits(network: Network) -> None:
    """A certificate may come before its block: the event follows when the block does."""
    network.block()

    async def check(url: str, node: Node) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/events?since=0") as response,
        ):
            node.feed.publish(3)
            assert await heights(response, 1) == [1]
            network.block()
            network.block()
            node.feed.publish(4)
            assert await heights(response, 2) == [2, 3]

    run(network, check)

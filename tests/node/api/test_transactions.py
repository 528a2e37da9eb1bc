"""Transactions over HTTP: shown, submitted one by one, and bounded."""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from node.api import transactions
from node.api.admission import ON_LOOP_BYTES_MAX
from tests.harness import as_read
from tests.node.api.asking import assert_problem, post, run
from tests.node.network import HOSPITALS, Network, register_dataset
from tests.node.serving import Node, call, get, proof_of
from vm.block import Result
from vm.encoding import encode
from vm.inclusion import TransactionProof, verify_transaction
from vm.record import Role
from vm.registry import EnrolMember
from vm.shape import pack


def test_a_certified_transaction_shows_intent_receipt_and_proof(learned: Network) -> None:
    """Its body is decoded for people, and the proof shows transaction and receipt."""
    failed = register_dataset(learned, HOSPITALS[0])  # the id is taken
    learned.block(failed)

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/transactions/{failed.id.hex()}")

        proof = proof_of(TransactionProof, got.body)
        found = verify_transaction(proof, learned.chain.id, (learned.chain.epoch,))
        assert found == as_read(failed)
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
    """Consensus runs on the loop; what a stranger sends at length is read in a thread."""
    threads: list[threading.Thread] = []
    read_body = transactions._read_body

    def noted(media_type: str, body: bytes) -> Sequence[bytes]:
        threads.append(threading.current_thread())
        return read_body(media_type, body)

    monkeypatch.setattr(transactions, "_read_body", noted)

    async def check(url: str, _: Node) -> None:
        await post(url, [b"x"])
        await post(url, [b"x" * ON_LOOP_BYTES_MAX])

    run(network, check)

    small, large = threads
    assert small is threading.main_thread()
    assert large is not threading.main_thread()

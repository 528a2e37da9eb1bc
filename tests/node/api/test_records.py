"""Records over HTTP: with proof, with proof of absence, only what is certified."""

import base64
from dataclasses import replace

import pytest

from node.api.keys import KEYS_MAX, write_keys
from node.validator.prune import Pruner
from tests.node.api.asking import assert_problem, run
from tests.node.network import (
    HOSPITALS,
    MODEL,
    POISONER,
    TASK,
    Network,
    certificate,
    register_dataset,
)
from tests.node.serving import Node, get, proof_of
from vm.encoding import encode
from vm.inclusion import MultiProof, RecordProof, read_record, verify_header, verify_multiproof
from vm.learning import Round, Task
from vm.record import Dataset, Member
from vm.shape import pack
from vm.sparse import KEY_BYTES_MAX
from vm.state import state_key


def _text(data: bytes) -> str:
    """As a query has it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


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
        assert got.headers["Cache-Control"] == "private, no-cache"

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


def test_several_records_come_in_one_proof(learned: Network) -> None:
    """Of whatever kinds and whether there or not, all under the newest certified header."""
    keys = [
        state_key(Task.KIND, (TASK,)),
        state_key(Round.KIND, (TASK, 2)),
        state_key(Member.KIND, ("nobody",)),
        state_key("training_part", (TASK, HOSPITALS[0])),
    ]

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/records?keys={write_keys(keys)}")

        proof = proof_of(MultiProof, got.body)
        values = verify_multiproof(proof, learned.chain.id, (learned.chain.epoch,))
        state = learned.chain.state()
        assert got.body.keys() == {"proof"}
        assert values.keys() == set(keys)
        assert values[keys[0]] == pack(state.require(Task, TASK))
        assert values[keys[1]] == pack(state.require(Round, TASK, 2))
        assert values[keys[2]] is None
        assert values[keys[3]] is not None
        assert got.headers["Cache-Control"] == "private, no-cache"

    run(learned, check)


@pytest.mark.parametrize(
    "keys",
    [
        "",
        "?",
        write_keys([]),
        write_keys([b"a", b"a"]),
        write_keys([b"a", b""]),
        write_keys([b"a" * 257]),
        _text(encode(tuple(bytes([65 + number]) for number in range(KEYS_MAX + 1)))),
        _text(encode((1,))),
        _text(encode(b"a")),
    ],
)
def test_keys_that_are_none_are_refused(network: Network, keys: str) -> None:
    """Too many, repeated, empty, too long, or something else."""
    network.block()

    async def check(url: str, _: Node) -> None:
        assert_problem(await get(f"{url}/v1/records?keys={keys}"), 400, "query.invalid")

    run(network, check)


def test_the_most_and_longest_keys_fit_a_request(network: Network) -> None:
    """So a reader need not count bytes."""
    network.block()
    keys = [bytes([65 + number]) * KEY_BYTES_MAX for number in range(KEYS_MAX)]

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/records?keys={write_keys(keys)}")
        assert got.status == 200
        assert len(proof_of(MultiProof, got.body).records) == KEYS_MAX

    run(network, check)


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

        proof = proof_of(MultiProof, got.body)
        chain = learned.chain
        assert len(verify_multiproof(proof, chain.id, (chain.epoch,))) == got.body["records"]
        assert_problem(
            await get(f"{url}/v1/models/{MODEL}/versions/3/lineage"), 404, "lineage.missing"
        )

    run(learned, check)


def test_a_lineage_is_bounded(learned: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lineage of more records than the bound is refused, not cut."""
    monkeypatch.setattr("node.audit.prove.RECORDS_MAX", 10)

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/models/{MODEL}/versions/2/lineage")
        assert_problem(got, 413, "lineage.too_large")

    run(learned, check)

"""Records at any height that a node keeps, proven under that height's own header."""

from collections.abc import Awaitable

import pytest

from node.api.keys import write_keys
from node.validator.prune import Pruner
from tests.node.api.asking import assert_problem, run
from tests.node.network import HOSPITALS, MODEL, TASK, Network, learn, register_dataset
from tests.node.serving import Got, Node, get, proof_of
from vm.inclusion import MultiProof, RecordProof, read_record, verify_multiproof, verify_records
from vm.record import Dataset, ModelHead
from vm.shape import unpack
from vm.sparse import DamagedNode
from vm.state import state_key

HEAD = state_key(ModelHead.KIND, (MODEL,))
LINEAGE = f"models/{MODEL}/versions/1/lineage"


def version_at(network: Network, got: Got, height: int) -> int | None:
    """The model's newest version that an answer proves at a height; None for no model."""
    trusted = (network.chain.id, network.chain.epochs)
    proof = proof_of(RecordProof, got.body)
    found = read_record(proof, ModelHead, (MODEL,), *trusted)
    assert proof.certified.header.height == height
    return None if found is None else found.version


def test_a_record_is_read_as_it_was_at_any_height(learned: Network) -> None:
    """From its absence over every version, each under the header of that height."""
    chain = learned.chain

    async def check(url: str, _: Node) -> None:
        told = []
        for height in range(chain.head.height + 1):
            got = await get(f"{url}/v1/models/{MODEL}?at={height}")
            told.append(version_at(learned, got, height))
            keys = write_keys([HEAD])
            several = proof_of(
                MultiProof, (await get(f"{url}/v1/records?keys={keys}&at={height}")).body
            )
            values = verify_records(several, [HEAD], chain.id, chain.epochs)
            assert several.certified.header.height == height
            value = values[HEAD]
            assert (None if value is None else unpack(ModelHead, value).version) == told[-1]
        assert told == sorted(told, key=lambda version: -1 if version is None else version)
        assert set(told) == {None, 0, 1, 2}

    run(learned, check)


def test_a_height_without_a_certificate_of_its_own_stands_under_a_later_one(
    network: Network,
) -> None:
    """The header of the height is what the state is proven under, and the later one holds it."""
    register_dataset_in(network, certified=False)
    for _ in range(3):
        network.block()

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/datasets/hospital-1.opt?at=1")
        proof = proof_of(RecordProof, got.body)
        chain = network.chain
        found = read_record(proof, Dataset, ("hospital-1.opt",), chain.id, chain.epochs)
        assert found is not None
        assert (proof.certified.header.height, proof.certified.certificate.height) == (1, 4)
        assert got.body["checkpoint"]["later"]["height"] == 4

    run(network, check)


def register_dataset_in(network: Network, *, certified: bool) -> None:
    """A block with a dataset."""
    network.block(register_dataset(network, HOSPITALS[0]), certified=certified)


def test_lineages_rounds_and_lists_are_read_at_a_height_too(learned: Network) -> None:
    """Version 1 has a lineage from the height that made it on, and no round 2 by then."""
    chain = learned.chain

    async def check(url: str, _: Node) -> None:
        got = await get(f"{url}/v1/models/{MODEL}/versions/1")
        made = got.body["record"]["created_height"]
        assert_problem(await get(f"{url}/v1/{LINEAGE}?at={made - 1}"), 404, "lineage.missing")
        lineage = proof_of(MultiProof, (await get(f"{url}/v1/{LINEAGE}?at={made}")).body)
        assert lineage.certified.header.height == made
        verify_multiproof(lineage, chain.id, chain.epochs)
        one = await get(f"{url}/v1/tasks/{TASK}/rounds/1?at={made}")
        assert one.body["record"]["phase"] == "closed"
        assert one.body["checkpoint"]["header"]["height"] == made
        many = await get(f"{url}/v1/models/{MODEL}/versions?at={made}")
        assert [item["record"]["version"] for item in many.body["items"]] == [0, 1]
        before = await get(f"{url}/v1/models/{MODEL}/versions?at={made - 1}")
        assert [item["record"]["version"] for item in before.body["items"]] == [0]

    run(learned, check)


PATHS = (
    f"models/{MODEL}",
    "models",
    f"tasks/{TASK}/rounds/1",
    LINEAGE,
    f"records?keys={write_keys([HEAD])}",
)


@pytest.mark.parametrize("path", PATHS)
def test_a_height_that_is_not_here_is_refused(network: Network, path: str) -> None:
    """Not certified yet, pruned, or none at all: alike everywhere, with whom to ask."""
    learn(network, 1)
    for _ in range(6):
        network.block()
    top = network.chain.head.height
    network.block(certified=False)
    pruner = Pruner(network.chain.store, 10, 4)
    for _ in pruner.steps(pruner.target(6)):
        pass
    joint = "&" if "?" in path else "?"

    async def check(url: str, _: Node) -> None:
        def ask(at: object) -> Awaitable[Got]:
            return get(f"{url}/v1/{path}{joint}at={at}")

        assert (await ask(top)).status == 200
        assert (await ask(top - 5)).status == 200
        assert_problem(await ask(top + 1), 404, "height.future")
        assert_problem(await ask(2**53), 404, "height.future")
        got = await ask(3)
        assert_problem(got, 410, "height.pruned")
        assert "retain_blocks = 0" in got.body["detail"]
        for text in ("-1", "x", "01", ""):
            assert_problem(await ask(text), 400, "query.invalid")

    run(network, check)


def test_a_height_that_is_pruned_while_it_is_read_is_refused_as_pruned(
    learned: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes may go under a long read; only where the block is still here is it the disk's fault."""
    chain = learned.chain

    def missing(key: bytes) -> bytes:
        raise DamagedNode(f"state node {key.hex()} is missing")

    monkeypatch.setattr(chain.store, "node", missing)

    async def check(url: str, _: Node) -> None:
        assert (await get(f"{url}/v1/{LINEAGE}?at=5")).status == 500
        monkeypatch.setattr(chain.store, "block", lambda _: None)
        assert_problem(await get(f"{url}/v1/{LINEAGE}?at=5"), 410, "height.pruned")

    run(learned, check)

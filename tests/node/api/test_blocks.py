"""Blocks over HTTP are final, and their proofs verify."""

from tests.node.api.asking import run
from tests.node.network import HOSPITALS, Network, register_dataset
from tests.node.serving import Node, get, proof_of
from vm.inclusion import CertifiedHeader, TransactionProof, verify_header, verify_transaction


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
            assert "immutable" not in got.headers["Cache-Control"]  # tomorrow another later one
        got = await get(f"{url}/v1/transactions/{transaction.id.hex()}")
        found = proof_of(TransactionProof, got.body)
        verify_transaction(found, network.chain.id, (network.chain.epoch,))
        assert got.headers["Cache-Control"] == "private, no-cache"

    run(network, check)

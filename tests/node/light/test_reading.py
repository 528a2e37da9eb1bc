"""Against a malicious server: each forged answer is refused with the step that failed named.

Over HTTP, first from the liar alone, then beside a node that does not lie, whose answer is taken.
"""

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from node.audit.prove import newest, prove_key, prove_transaction
from node.client.client import Client
from node.client.proven import Proven
from tests.node.light.liar import (
    IDS,
    Forge,
    certified,
    cut,
    forging,
    held_at,
    honest,
    liar,
    resigned,
    top,
    votes,
)
from tests.node.network import Network
from tests.node.serving import serve_app
from vm.inclusion import CertifiedHeader, RecordProof, TransactionProof
from vm.record import Dataset
from vm.refusal import Refused
from vm.state import state_key

pytestmark = pytest.mark.usefixtures("impatient")

DATASET = "hospital-1.opt"


def receipt_id(network: Network, index: int = 0) -> bytes:
    """The id of a transaction of block 1."""
    row = network.chain.store.row(1)
    assert row is not None
    return row.receipts[index].transaction


def neighbour(network: Network, _: object) -> RecordProof:
    """A sound proof of the record beside the one that was asked for."""
    key = state_key(Dataset.KIND, ("hospital-2.opt",))
    return prove_key(network.chain, newest(network.chain), key)


def stale(network: Network, _: object) -> RecordProof:
    """That the record was not there, as was true before block 1."""
    view = network.chain.view(1)
    assert view is not None
    return prove_key(network.chain, view, state_key(Dataset.KIND, (DATASET,)))


def another(network: Network, _: object) -> TransactionProof:
    """A sound proof of the transaction beside the one that was asked for."""
    found = prove_transaction(network.chain, receipt_id(network, 1))
    assert found is not None
    return found


def weakly(_: Network, proof: Any) -> Any:
    """A certificate of two votes."""
    certified = proof.certified
    weak = replace(certified.certificate, votes=certified.certificate.votes[:2])
    return replace(proof, certified=replace(certified, certificate=weak))


def failed(_: Network, proof: TransactionProof) -> TransactionProof:
    """Another outcome of the same transaction."""
    return replace(proof, receipt=replace(proof.receipt, code="state.other"))


RECORD_ATTACKS: dict[str, tuple[Forge, str]] = {
    "a neighbouring key": (neighbour, "audit.key"),
    "forged value": (
        lambda _, proof: replace(proof, value=proof.value[:-1] + b"\x00"),
        "audit.path.root",
    ),
    "forged absence": (lambda _, proof: replace(proof, value=None), "audit.path.root"),
    "truncated path": (
        lambda _, proof: replace(
            proof, path=replace(proof.path, siblings=proof.path.siblings[:-1])
        ),
        "audit.path.root",
    ),
    "reordered path": (
        lambda _, proof: replace(
            proof, path=replace(proof.path, siblings=proof.path.siblings[::-1])
        ),
        "audit.path.root",
    ),
    "another height's root": (
        lambda network, proof: replace(proof, certified=certified(network, 4)),
        "audit.path.root",
    ),
    "stale": (stale, "client.stale"),
    "sub-quorum": (weakly, "audit.certificate.no_quorum"),
    "truncated": (cut, "encoding.malformed"),
}
TRANSACTION_ATTACKS: dict[str, tuple[Forge, str]] = {
    "a neighbouring transaction": (another, "audit.key"),
    "wrong place": (lambda _, proof: replace(proof, index=1), "audit.transaction"),
    "wrong size": (lambda _, proof: replace(proof, size=9), "audit.transaction"),
    "forged receipt": (failed, "audit.receipt"),
    "another block": (
        lambda network, proof: replace(proof, certified=certified(network, 4)),
        "audit.transaction",
    ),
    "sub-quorum": (weakly, "audit.certificate.no_quorum"),
    "truncated": (cut, "encoding.malformed"),
}
BLOCK_ATTACKS: dict[str, tuple[Forge, str]] = {
    "wrong height": (lambda network, _: certified(network, 4), "audit.height"),
    "sub-quorum": (votes(lambda held: held[:2]), "audit.certificate.no_quorum"),
    "an old validator set": (
        lambda network, _: resigned(top(network), *IDS[:3], height=3),
        "audit.validators",
    ),
}


async def read_record(client: Client) -> object:
    """A record that is there."""
    found = await client.record(Dataset, DATASET)
    assert found is not None
    return found.id


READS: dict[str, tuple[str, type[Any], dict[str, tuple[Forge, str]]]] = {
    "record": ("/v1/datasets/", RecordProof, RECORD_ATTACKS),
    "transaction": ("/v1/transactions/", TransactionProof, TRANSACTION_ATTACKS),
    "block": ("/v1/blocks/3", CertifiedHeader, BLOCK_ATTACKS),
}
CASES = [(read, name) for read, (_, _, attacks) in READS.items() for name in attacks]


@pytest.mark.parametrize(("read", "name"), CASES)
def test_a_forged_answer_is_refused_and_the_next_node_asked(
    network: Network, read: str, name: str
) -> None:
    """The step that failed is named; beside an honest node the answer is the true one."""
    path, cls, attacks = READS[read]
    forge, code = attacks[name]
    server = liar(network, path, forging(cls, partial(forge, network)))
    id = receipt_id(network)

    async def ask(client: Client) -> object:
        match read:
            case "record":
                return await read_record(client)
            case "transaction":
                found = await client.receipt(id)
                return None if found is None else found.transaction
            case _:
                return (await client.header_at(3)).digest

    expected = {
        "record": DATASET,
        "transaction": id,
        "block": certified(network, 3).header.digest,
    }[read]
    held = held_at(network, network.chain.head.height)

    def proven() -> Proven:
        made = Proven(held.trust, held.steps)
        made.height = network.chain.head.height
        return made

    async def main() -> None:
        async with serve_app(server()) as bad, serve_app(honest(network)()) as good:
            async with Client(network.genesis, [bad], proven=proven()) as client:
                with pytest.raises(Refused) as caught:
                    await ask(client)
                assert caught.value.code == code, caught.value.message
            async with Client(network.genesis, [bad, good], proven=proven()) as client:
                assert await ask(client) == expected
                assert client.urls[0] == good

    asyncio.run(main())

"""Bytes by chance: no changed proof verifies to something else than it was made for."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.audit.check import Audit
from node.audit.file import Version, verify_file, write_file
from node.audit.prove import newest, prove_key, prove_lineage, prove_steps, prove_transaction
from node.light.conflict import audit_conflict, find, read_conflict, write_conflict
from node.light.history import begin
from tests.node.light.liar import certified, forked, under
from tests.node.network import MODEL, Network, grow, learn, open_network
from vm import tree
from vm.genesis import Genesis
from vm.inclusion import BlockProof, ConsistencyProof
from vm.record import Member
from vm.refusal import Refused
from vm.state import state_key
from vm.trust import from_genesis

PLACES = 2**20  # taken modulo the length: a proof of any size is hit anywhere


class Case:
    """A file, and what it proves."""

    def __init__(self, data: str, verify: Callable[[str], Audit]) -> None:
        self.document = json.loads(data)
        self.verify = verify
        self.audit = verify(data)

    def changed(self, place: int, mask: int) -> str:
        """The file with one byte of its proof, or of a step, changed."""
        texts = list(_texts(self.document))
        sizes = [len(base64.b64decode(holder[key])) for holder, key in texts]
        place %= sum(sizes)
        for (holder, key), size in zip(texts, sizes, strict=True):
            if place < size:
                kept = holder[key]
                raw = bytearray(base64.b64decode(kept))
                raw[place] ^= mask
                holder[key] = base64.b64encode(raw).decode()
                text = json.dumps(self.document)
                holder[key] = kept
                return text
            place -= size
        raise AssertionError("the place is within the proofs")


def _texts(document: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Every proof and step of a file, as what holds it and its place in there."""
    for side in document.get("sides", [document]):
        yield side, "proof"
        yield from ((side["steps"], place) for place in range(len(side["steps"])))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """A file of each kind, over a change of validators."""
    folder: Path = tmp_path_factory.mktemp("bytes")
    with open_network(folder / "a") as one, forked(folder / "b", 3) as two:
        learn(one, 1)
        grow(one)
        return {
            **{name: _proof(one.genesis, text) for name, text in _files(one).items()},
            "conflict": _conflict(one, two),
        }


def _files(network: Network) -> dict[str, str]:
    chain, view = network.chain, newest(network.chain)
    steps = prove_steps(chain, 0, 9)
    row = chain.store.row(1)
    assert row is not None
    transaction = prove_transaction(chain, row.receipts[0].transaction)
    assert transaction is not None
    top = chain.head.height
    consistency = ConsistencyProof(
        certified(network, 2),
        certified(network, top),
        tree.inclusion_path_at(chain.store.history_node, 2, top),
        tree.consistency_path_at(chain.store.history_node, 2, top),
    )
    record = prove_key(chain, view, state_key(Member.KIND, ("hospital-5.validator",)))
    absent = prove_key(chain, view, state_key(Member.KIND, ("nobody",)))
    lineage = prove_lineage(chain, view, MODEL, 1)
    return {
        "record": write_file(record, steps),
        "absence": write_file(absent, steps),
        "transaction": write_file(transaction, steps),
        "block": write_file(BlockProof(under(network, 2, top)), steps),
        "consistency": write_file(consistency, steps),
        "lineage": write_file(lineage, steps, lineage=Version(MODEL, 1)),
    }


def _proof(genesis: Genesis, text: str) -> Case:
    return Case(text, lambda data: verify_file(from_genesis(genesis), data))


def _conflict(one: Network, two: Network) -> Case:
    begun = begin(one.genesis)
    first, second = (begun.see(certified(network, 3)) for network in (one, two))
    return Case(
        write_conflict(find(first, second)).decode(),
        lambda data: audit_conflict(read_conflict(one.genesis, None, data.encode())),
    )


@settings(max_examples=300)
@given(
    name=st.sampled_from(
        ["record", "absence", "transaction", "block", "consistency", "lineage", "conflict"]
    ),
    place=st.integers(0, PLACES),
    mask=st.integers(1, 255),
)
def test_a_changed_byte_never_proves_something_else(
    cases: dict[str, Case], name: str, place: int, mask: int
) -> None:
    """It is refused; nothing else than a refusal is ever raised."""
    case = cases[name]

    try:
        found = case.verify(case.changed(place, mask))
    except Refused:
        return
    assert found == case.audit

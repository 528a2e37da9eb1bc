"""What proofs tell of restricted records that lie beside what was asked for."""

import json
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest

from fl.body import RevealVerdicts
from fl.challenge import seal
from node.api.resource import RESOURCES, Resource
from node.audit.prove import executed
from tests.node.api.asking import assert_problem
from tests.node.case.made import run_case
from tests.node.network import HOSPITALS, MODEL, TASK, Network, learn
from tests.node.readers.reading import ask, noted, private_network, run
from tests.node.serving import Node, get
from vm.access import ACCESS, RESTRICTED
from vm.digest import BLIND, STATE_KEY, STATE_VALUE, digest
from vm.encoding import decode
from vm.inclusion import RecordProof
from vm.learning import Commitment, Verdict
from vm.record import Member
from vm.shape import pack, unpack
from vm.state import state_key
from vm.transaction import Transaction
from vm.usage import Action, ModelUsage, Purpose, UseBatch, hours

BITS = 12  # more than divide the places of so few records
SCORE_BP_MAX, SCORE_STEP_BP = 1_000_000, 100
BLINDED = [item for item in RESOURCES if item.record.KIND in RESTRICTED]
SIGNED = [item for item in BLINDED if item.record not in (Verdict, ModelUsage)]
VERDICT_KEY = (TASK, 1, HOSPITALS[0], HOSPITALS[1])


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Network]:
    """A chain with records of every restricted kind."""
    with private_network(tmp_path) as network:
        run_case(network)
        yield network


def records_of(network: Network, resource: Resource) -> list[Any]:
    """All records of a kind."""
    state, kind = network.chain.state(), resource.record.KIND
    keys = network.chain.store.keys(kind, (), len(resource.parts))
    return [state.require(resource.record, *as_parts(key)) for key in keys]


def as_parts(key: bytes) -> tuple[str | int, ...]:
    """The parts of a state key behind its kind."""
    found = decode(key)
    assert isinstance(found, tuple | list)
    return tuple(cast(Any, found[1:]))


def transactions_of(network: Network) -> dict[bytes, Transaction]:
    """All that was executed, by id."""
    found = {}
    for height in range(1, network.chain.head.height + 1):
        row = network.chain.store.row(height)
        assert row is not None
        for packed in executed(network.chain, row):
            transaction = unpack(Transaction, packed)
            found[transaction.id] = transaction
    return found


@pytest.mark.parametrize("resource", SIGNED, ids=lambda item: item.record.KIND)
def test_a_restricted_record_is_blinded_by_the_signature_that_wrote_it(
    case: Network, resource: Resource
) -> None:
    """Of a restricted transaction, which is shown to those who are shown the record."""
    sent = transactions_of(case)
    found = records_of(case, resource)
    assert found

    for record in found:
        by = sent[record.transaction]
        assert ACCESS[by.intent.kind].restricted
        assert record.blind == blind_of(by, record)


def blind_of(by: Transaction, record: Any, before: bytes = b"") -> bytes:
    """As docs/protocol.md has it."""
    return digest(BLIND, before + by.signature + state_key(record.KIND, record.key))


def test_no_two_restricted_records_have_one_blind(case: Network) -> None:
    """Who is shown one of a transaction's verdicts cannot try out the others."""
    found = [record.blind for item in BLINDED for record in records_of(case, item)]

    assert len(set(found)) == len(found)


def neighbour_of(place: bytes) -> str:
    """A name that no member has, whose place in the state tree lies beside this one."""
    for number in count():
        name = f"x{number}"
        mine = digest(STATE_KEY, state_key(Member.KIND, (name,)))
        if int.from_bytes(mine) >> (256 - BITS) == int.from_bytes(place) >> (256 - BITS):
            return name
    raise AssertionError


def test_a_stranger_cannot_try_out_a_verdict_beside_an_absent_member(tmp_path: Path) -> None:
    """The proof that a member is absent holds the verdict's digest, and no score fits it.

    Before, one of the ten thousand and one rounded scores did, and no line was written.
    """
    place = digest(STATE_KEY, state_key(Verdict.KIND, VERDICT_KEY))
    with private_network(tmp_path, public=True) as network:
        learn(network, 1)
        truth = network.chain.state().require(Verdict, *VERDICT_KEY)

        async def check(url: str, node: Node) -> None:
            path = f"{url}/v1/tasks/{TASK}/rounds/1/updates/{HOSPITALS[0]}/verdicts/{HOSPITALS[1]}"
            assert_problem(await get(path), 401, "reader.required")
            got = await get(f"{url}/v1/members/{neighbour_of(place)}")
            leaf = unpack(RecordProof, b64decode(got.body["proof"])).path.leaf
            assert leaf is not None
            assert leaf.path == place
            assert noted(node) == []

            scores = (None, *range(0, SCORE_BP_MAX + 1, SCORE_STEP_BP))
            guesses = [
                replace(truth, score_bp=score, blind=blind)
                for score in scores
                for blind in (bytes(32), truth.transaction, place)
            ]
            assert leaf.value not in {digest(STATE_VALUE, pack(guess)) for guess in guesses}
            assert leaf.value == digest(STATE_VALUE, pack(truth))  # the attack aims well

        run(network, check)


def test_a_stranger_cannot_try_out_judgements_on_the_seal(tmp_path: Path) -> None:
    """Secret and seal are open after the reveal, and no scores fit them."""
    with private_network(tmp_path, public=True) as network:
        learn(network, 1)
        state = network.chain.state()
        (told,) = (
            item
            for item in transactions_of(network).values()
            if item.intent.kind == "learning.verdict"
            and item.intent.sender == f"{HOSPITALS[1]}.verifier"
        )
        truth = unpack(RevealVerdicts, told.intent.body).judgements

        async def check(url: str, node: Node) -> None:
            got = await get(f"{url}/v1/tasks/{TASK}/rounds/1/commitments/{HOSPITALS[1]}")
            bound = unpack(RecordProof, b64decode(got.body["proof"]))
            assert bound.value is not None
            open_one = unpack(Commitment, bound.value)
            assert open_one == state.require(Commitment, TASK, 1, HOSPITALS[1])
            assert open_one.secret is not None
            key = (TASK, 1, open_one.verifier, open_one.secret)

            guesses = [
                [pack(replace(item, blind=blind)) for item in truth]
                for blind in (bytes(32), open_one.secret, open_one.commitment)
            ]
            assert open_one.seal not in [seal(*key, guess) for guess in guesses]
            assert open_one.seal == seal(*key, [pack(item) for item in truth])
            assert noted(node) == []

        run(network, check)


def test_what_became_of_a_restricted_transaction_is_listed_without_its_words(
    case: Network,
) -> None:
    """A refusal quotes the body and the records that it met: here, how many uses there were."""
    times = hours((case.chain.head.time_ms,))
    body = UseBatch(MODEL, 1, Purpose.CARE, Action.INFERENCE, 1, 4_711, bytes(32), *times)
    known = case.sign(f"{HOSPITALS[0]}.trainer", "model.use", body)
    case.block(known, case.sign(f"{HOSPITALS[0]}.steward", "model.decide", body))

    async def check(url: str, node: Node) -> None:
        for path in ("/v1/transactions?limit=2", f"/v1/blocks/{case.chain.head.height}"):
            listed = json.dumps((await ask(url + path)).body)
            assert "4711" not in listed
            assert "use.count" in listed
            assert "expected" in listed  # of the other, which is not restricted
        assert "4711" in (await ask(f"{url}/v1/transactions/{known.id.hex()}")).body["message"]

    run(case, check)

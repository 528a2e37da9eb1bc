"""Commands of an auditor who has followed on, and a server that is honest only while he follows."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.audit.file import verify_file, write_file
from node.audit.prove import prove_block, prove_key, prove_transaction
from node.commands import audit
from node.commands.proofs import _fetch
from node.commands.source import Source, sync
from node.light import ask
from node.light.store import Store
from tests.node.client.asking import encoded
from tests.node.light.liar import answering, forked, honest, rotated
from tests.node.network import Network
from tests.node.serving import serve_app
from vm.inclusion import RecordProof
from vm.record import Dataset
from vm.refusal import Refused
from vm.state import state_key
from vm.trust import from_genesis

KEY = state_key(Dataset.KIND, ("hospital-2.opt",))  # registered in the forged history alone
PATH = "/v1/datasets/hospital-2.opt?at=2"
WANTED = ask.Wanted(PATH, RecordProof, KEY, 2)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain whose first validators have other keys by now."""
    with rotated(tmp_path / "true") as made:
        yield made


@pytest.fixture
def forgery(tmp_path: Path) -> Iterator[Network]:
    """Another beginning of it, certified by whoever has stolen the first keys."""
    with forked(tmp_path / "forged", 6) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "followed")


def with_source(
    network: Network,
    store: Store | None,
    answers: Callable[[str, Any], Any],
    check: Callable[[Source], Awaitable[None]],
) -> None:
    """Check a source that has followed, of a node with these answers and an honest one."""

    async def main() -> None:
        async with (
            serve_app(answering(network, answers)()) as bad,
            serve_app(honest(network)()) as good,
        ):
            source = Source(network.genesis, (bad, good), None, None, store)
            if store is not None:
                await sync(source)
            await check(source)

    asyncio.run(main())


def forged_record(forgery: Network) -> RecordProof:
    """A dataset that the chain never had, proven by certificates of the first validators."""
    view = forgery.chain.view(2)
    assert view is not None
    return prove_key(forgery.chain, view, KEY)


def test_a_record_of_a_forged_past_is_not_verified(
    network: Network, forgery: Network, store: Store, tmp_path: Path
) -> None:
    """The attack: `audit record --at 2` by a store that has followed past the rotation."""
    proof, save = encoded(forged_record(forgery)), tmp_path / "proof.json"

    async def check(source: Source) -> None:
        found = await _fetch(source, WANTED, save)
        assert found.subject == "absence of dataset hospital-2.opt"
        again = audit._verify_file(source, save.read_bytes())
        assert (again.subject, again.height) == (found.subject, 2)

    with_source(network, store, lambda path, _: {"proof": proof} if path == PATH else None, check)


def test_a_file_by_validators_who_were_retired_is_refused_by_whoever_followed_on(
    network: Network, forgery: Network, store: Store
) -> None:
    """The attack: a file by stolen keys. From genesis alone nothing tells it from a true one."""
    row = forgery.chain.store.row(1)
    assert row is not None
    receipt = prove_transaction(forgery.chain, row.receipts[0].transaction)
    assert receipt is not None
    files = [
        write_file(forged_record(forgery)),
        write_file(receipt),
        write_file(prove_block(forgery.chain, 1, 6)),
    ]

    async def check(source: Source) -> None:
        for file in files:
            with pytest.raises(Refused) as caught:
                audit._verify_file(source, file.encode())
            assert caught.value.code == "audit.before_pin"

    with_source(network, store, lambda path, _: None, check)
    for file in files:
        assert verify_file(from_genesis(network.genesis), file).height in (1, 2)


def test_whoever_goes_by_genesis_alone_reads_any_height(network: Network, tmp_path: Path) -> None:
    """By the certificate of that height, which the file brings."""
    save = tmp_path / "proof.json"

    async def check(source: Source) -> None:
        found = await _fetch(source, WANTED, save)
        assert found.height == 2

    with_source(network, None, lambda path, _: None, check)
    assert json.loads(save.read_text())["steps"] == []


def test_a_store_that_knows_the_next_epoch_takes_files_of_its_newest_height(
    network: Network, store: Store
) -> None:
    """Who rules the next height is known a step before anything stands under it."""
    first = network.chain.epochs[-1].first
    view = network.chain.view(first - 1)
    assert view is not None
    proof = prove_key(network.chain, view, KEY)

    async def check(source: Source) -> None:
        held = source.held()
        assert held is not None
        assert held.reached == held.trust
        before = held.see(proof.certified)
        assert before.reached.epochs == held.trust.epochs[:-1]
        steps = tuple(step for step in held.steps if step.epoch.first < first)
        assert verify_file(before.reached, write_file(proof, steps)).height == first - 1

    with_source(network, store, lambda path, _: None, check)

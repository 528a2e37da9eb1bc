"""Pruning: what is kept serves as before, everything else goes, and no crash is in its way."""

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.api.feed import Feed
from node.validator import prune as module
from node.validator import store as storing
from node.validator.prune import RETAIN_BLOCKS_MIN, SNAPSHOT_BLOCKS, Pruner, keep_pruned
from node.validator.store import (
    CERTIFICATE,
    HEADER,
    HISTORY,
    KEY,
    NODE,
    TRANSACTION,
    BlockRow,
    Kept,
    Store,
)
from tests.node.network import Network, open_network
from vm import sparse, tree
from vm.block import Header
from vm.record import Member, Role, Standing
from vm.refusal import Refused
from vm.registry import EnrolMember, SetStanding
from vm.shape import pack
from vm.state import state_key
from vm.transaction import TX_LIFETIME_BLOCKS_MAX

SNAPSHOT = 8  # blocks between two snapshots
WINDOW = 4  # blocks in which repeats are looked for
RETAIN = 6
BLOCKS = 30

Rows = dict[bytes, bytes]


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a short chain is pruned in many steps."""
    monkeypatch.setattr(module, "STEP_ROWS_MAX", 5)
    monkeypatch.setattr(module, "STEP_HEIGHTS_MAX", 2)
    monkeypatch.setattr(storing, "STALE_KEYS_MAX", 3)


def pruner(store: Store) -> Pruner:
    """A pruner for short chains."""
    return Pruner(store, SNAPSHOT, WINDOW)


def prune(store: Store, retain: int = RETAIN) -> Kept:
    """Prune to the end."""
    target = pruner(store).target(retain)
    assert [*pruner(store).steps(target)][-1:] in ([], [1.0])
    return target


def grow(network: Network, blocks: int = BLOCKS) -> None:
    """Blocks that enrol somebody and write the same member again and again."""
    for _ in range(blocks):
        height = network.chain.head.height + 1
        standing = Standing.ENROLLED if height % 2 else Standing.SUSPENDED
        network.block(
            network.sign(
                "hospital-1.admin",
                "member.standing",
                SetStanding("hospital-1.trainer", standing),
            ),
            network.sign(
                "hospital-2.admin",
                "member.enrol",
                EnrolMember(f"auditor-{height}", Role.AUDITOR, height.to_bytes(32, "big"), None),
            ),
            certified=height % 5 != 0,
        )


def everything(store: Store) -> Rows:
    """All rows."""
    with store.database.iterator() as rows:
        return {bytes(key): bytes(value) for key, value in rows}


def count(rows: Rows, prefix: bytes) -> int:
    """How many rows there are of a kind."""
    return sum(key.startswith(prefix) for key in rows)


def rows_of(store: Store) -> list[BlockRow]:
    """The row of every height, before anything is pruned."""
    found = [store.row(height) for height in range(BLOCKS + 1)]
    return [row for row in found if row is not None]


def content(store: Store, row: BlockRow) -> dict[bytes, bytes | None]:
    """What every key holds at a height."""
    return {key: store.read(row.root, key) for key in store.keys(Member.KIND, (), 1)}


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """An old chain that was never pruned."""
    with open_network(tmp_path) as network:
        grow(network)
        yield network


def test_what_is_kept_serves_as_before(network: Network) -> None:
    """Values and paths at every height within retention and at both snapshots, on an old chain."""
    store = network.chain.store
    rows = rows_of(store)
    before = {row.header.height: content(store, row) for row in rows}

    kept = prune(store)

    assert kept == store.kept() == Kept(24, (16, 24), 0)  # the second is within retention
    for height in (16, *range(24, BLOCKS + 1)):
        row = store.row(height)
        assert row == rows[height]
        assert row is not None
        assert content(store, row) == before[height]
        for key, value in before[height].items():
            path = sparse.prove(store.node, row.root, key)
            sparse.verify(path, row.header.state, key, value)


def test_what_is_not_kept_is_gone(network: Network) -> None:
    """Blocks, receipts, places, certificates, stale rows, and exactly the nodes of other roots."""
    store = network.chain.store
    rows = rows_of(store)

    prune(store)

    left = everything(store)
    retained = {*range(13, 17), *range(21, BLOCKS + 1)}
    assert {h for h in range(BLOCKS + 1) if store.row(h) is not None} == retained
    assert {h for h in range(BLOCKS + 1) if store.block(h) is not None} == set(range(24, 31))
    assert count(left, TRANSACTION) == sum(len(rows[h].receipts) for h in retained)
    assert count(left, CERTIFICATE) == 1 + sum(h % 5 != 0 for h in range(24, BLOCKS + 1))
    reached: set[bytes] = set()

    def read(key: sparse.NodeKey) -> bytes:
        reached.add(NODE + key)
        return store.node(key)

    keys = [key[1:] for key in left if key.startswith(KEY)]
    for height in (16, *range(24, BLOCKS + 1)):
        for key in keys:
            sparse.get(read, rows[height].root, key)
    assert {key for key in left if key.startswith(NODE)} == reached


def test_headers_and_history_stay_for_ever(network: Network) -> None:
    """Any header is still proven by any later one."""
    store = network.chain.store
    headers = [row.header for row in rows_of(store)]

    prune(store)

    left = everything(store)
    assert [store.header(height) for height in range(BLOCKS + 1)] == headers
    assert count(left, HEADER) == BLOCKS + 1
    assert count(left, HISTORY) > BLOCKS
    for height in range(BLOCKS):
        path = tree.inclusion_path_at(store.history_node, height, BLOCKS)
        root = headers[BLOCKS].history
        assert tree.verify_inclusion(headers[height].digest, height, BLOCKS, path, root)


def test_certificates_at_the_ends_of_epochs_stay(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A light client follows the validators from genesis, however much is pruned."""
    store = network.chain.store
    true = store.header

    def header(height: int) -> Header | None:
        found = true(height)
        assert found is not None
        return replace(found, next_validators=bytes(32)) if height in (3, 11) else found

    monkeypatch.setattr(store, "header", header)
    prune(store)

    kept = [h for h in range(24) if store.certificate(h) is not None]
    assert kept == [3, 11, 16]  # the last is the snapshot's


@settings(max_examples=15)
@given(prunings=st.lists(st.tuples(st.integers(1, 12), st.sampled_from([4, 6, 9, 20])), max_size=4))
def test_it_does_not_matter_when_one_prunes(
    tmp_path_factory: pytest.TempPathFactory, prunings: list[tuple[int, int]]
) -> None:
    """Pruned along the way, however often, or for the first time when it is old: equal rows."""
    folder = tmp_path_factory.mktemp("prune")
    with open_network(folder / "often") as often, open_network(folder / "late") as late:
        for blocks, retain in prunings:
            grow(often, blocks)
            prune(often.chain.store, retain)
        grow(often, BLOCKS - often.chain.head.height if often.chain.head.height < BLOCKS else 0)
        grow(late, often.chain.head.height)
        before = often.chain.store.kept()

        prune(often.chain.store, 4)
        prune(late.chain.store, 4)

        assert before.below <= often.chain.store.kept().below
        assert everything(often.chain.store) == everything(late.chain.store)


def test_a_crash_at_any_step_costs_nothing(tmp_path: Path) -> None:
    """Killed after any number of steps, pruning comes to the same end, and the chain goes on."""
    with open_network(tmp_path / "steady") as network:
        grow(network)
        steps = len(
            [*pruner(network.chain.store).steps(pruner(network.chain.store).target(RETAIN))]
        )
        grow(network, 3)
        done = everything(network.chain.store)
    with open_network(tmp_path / "old") as network:
        grow(network)
    assert steps > 20

    for survived in range(0, steps, 3):
        shutil.copytree(tmp_path / "old", tmp_path / "crashed")
        with open_network(tmp_path / "crashed") as network:
            going = pruner(network.chain.store).steps(pruner(network.chain.store).target(RETAIN))
            for _ in range(survived):
                next(going)
            del going
        with open_network(tmp_path / "crashed") as network:
            network._nonce = 2 * BLOCKS
            prune(network.chain.store)
            grow(network, 3)
            assert everything(network.chain.store) == done
        shutil.rmtree(tmp_path / "crashed")


def test_pruning_takes_small_steps(network: Network) -> None:
    """No step deletes more rows than it may, so the node is never held up."""
    store = network.chain.store
    sizes = [len(everything(store))]

    for _ in pruner(store).steps(pruner(store).target(RETAIN)):
        sizes.append(len(everything(store)))

    steps = [one - other for one, other in pairwise(sizes)]
    # a step's keys, those of one row more, and the rows that named them
    assert max(steps) <= 4 * module.STEP_ROWS_MAX
    assert sum(steps) > 150


def test_nothing_to_prune_writes_nothing(network: Network) -> None:
    """Asked again, or told to keep all, it leaves the store as it is."""
    store = network.chain.store
    before = everything(store)

    assert [*pruner(store).steps(pruner(store).target(0))] == []
    assert everything(store) == before
    prune(store)
    after = everything(store)
    assert [*pruner(store).steps(pruner(store).target(RETAIN))] == []
    assert everything(store) == after


def test_keeping_more_than_is_left_brings_nothing_back(network: Network) -> None:
    """What is pruned stays pruned, and is not claimed."""
    store = network.chain.store
    prune(store)

    kept = prune(store, 20)

    assert kept == Kept(24, (16, 24), 0)


def test_retention_counts_from_what_is_certified(network: Network) -> None:
    """Blocks without a certificate are on top: the newest certified state never goes."""
    store = network.chain.store
    for _ in range(5):
        network.block(certified=False)

    kept = prune(store)

    newest = store.certified(network.chain.head.height)
    assert newest is not None
    assert kept.below == newest.height - RETAIN + 1
    assert network.chain.view() is not None


def test_a_certificate_above_the_head_counts_for_nothing(network: Network) -> None:
    """A sync that was cut off has left one: of what was executed, some is not certified yet."""
    store = network.chain.store
    for _ in range(5):
        network.block(certified=False)
    newest = store.certified()
    assert newest is not None
    store.write_certificate(replace(newest, height=network.chain.head.height + 10))

    kept = prune(store)

    assert kept.below == newest.height - RETAIN + 1


def test_the_replay_window_is_never_pruned(network: Network) -> None:
    """Execution looks back that far; fewer blocks are refused."""
    assert RETAIN_BLOCKS_MIN == TX_LIFETIME_BLOCKS_MAX
    with pytest.raises(Refused, match=r"prune\.retain: expected to keep 0 \(all\) or at least 4"):
        pruner(network.chain.store).target(WINDOW - 1)
    with pytest.raises(Refused, match=r"at least 1024"):
        Pruner(network.chain.store).target(1023)


def test_the_real_numbers_keep_a_short_chain_whole(network: Network) -> None:
    """Nothing is old enough to go."""
    store = network.chain.store
    before = everything(store)

    assert [*Pruner(store).steps(Pruner(store).target(RETAIN_BLOCKS_MIN))] == []
    assert everything(store) == before
    assert SNAPSHOT_BLOCKS >= TX_LIFETIME_BLOCKS_MAX


def test_a_chain_goes_on_over_a_pruned_store(tmp_path: Path) -> None:
    """The same blocks give the same headers whether what is below was pruned or not."""
    with open_network(tmp_path / "whole") as whole, open_network(tmp_path / "pruned") as pruned:
        for network in (whole, pruned):
            grow(network)
        prune(pruned.chain.store)

        for network in (whole, pruned):
            grow(network, 5)

        assert whole.chain.head == pruned.chain.head
        key = state_key(Member.KIND, ("hospital-1.trainer",))
        assert pack(whole.chain.head.root) == pack(pruned.chain.head.root)
        assert pruned.chain.state().get(Member, "hospital-1.trainer") is not None
        assert pruned.chain.store.read(pruned.chain.head.root, key) is not None


def test_a_running_node_prunes_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its start, and again whenever it has come so many blocks further."""
    monkeypatch.setattr(module, "EVERY_BLOCKS", 3)
    monkeypatch.setattr(module, "PAUSE_S", 0)

    class Watched(Feed):
        """Tells when it is waited for: then a round of pruning is over."""

        def __init__(self, height: int) -> None:
            super().__init__(height)
            self.waits: asyncio.Queue[int] = asyncio.Queue()

        async def wait(self, beyond: int) -> int:
            self.waits.put_nowait(beyond)
            return await super().wait(beyond)

    async def main() -> None:
        with open_network(tmp_path) as network:
            grow(network, 14)
            executed, store = Watched(14), network.chain.store
            running = asyncio.create_task(keep_pruned(pruner(store), RETAIN, executed))
            assert [await executed.waits.get(), await executed.waits.get()] == [0, 16]
            first = store.kept().below
            grow(network, 4)
            executed.publish(16)
            executed.publish(18)
            assert await executed.waits.get() == 20
            assert (first, store.kept().below) == (9, 13)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 30))

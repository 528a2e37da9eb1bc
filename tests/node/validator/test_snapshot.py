"""The core of state sync: a whole sync, cut off or not, and when one begins."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from node.validator import snapshot as module
from node.validator.install import Sync
from node.validator.prune import Pruner
from node.validator.serve import Source
from node.validator.snapshot import (
    AskRange,
    AskSnapshot,
    Gap,
    Offer,
    left_behind,
    verify_snapshot,
)
from node.validator.store import Database, Store
from tests.node.network import Network, open_network
from tests.node.validator.dialogue import (
    SNAPSHOT,
    WINDOW,
    Dialogue,
    Killed,
    Mortal,
    core,
    source_of,
)
from tests.node.validator.test_prune import everything, grow
from vm import tree
from vm.epoch import epochs
from vm.range import FIRST_PATH, LAST_PATH
from vm.refusal import Refused

# A whole sync


def test_a_synced_store_is_the_chain_at_the_snapshot(network: Network, tmp_path: Path) -> None:
    """It goes on with the same blocks to the same headers, and is pruned and synced from."""
    store = Store(tmp_path / "joining")
    talk = Dialogue(core(network), source_of(network), store)

    assert talk.run()
    Sync(store).install()

    head = store.head()
    row = network.chain.store.row(24)
    assert head is not None
    assert row is not None
    assert (head.height, head.header, head.root.digest) == (24, row.header.digest, row.root.digest)
    assert Sync(store).kept() is None
    joined = Network(store, network.genesis)
    assert (view := joined.chain.view()) is not None
    assert view.height == 24
    for block in network.chain.store.blocks(25, 30):
        height = joined.chain.head.height + 1
        header = joined.chain.execute(height, block.payload, block.certificate)
        joined.certify(header)
    assert joined.chain.head.header == network.chain.head.header
    for height in range(21, 30):
        path = tree.inclusion_path_at(store.history_node, height, 30)
        found = store.header(height)
        assert found is not None
        assert found == network.chain.store.header(height)
        last = store.header(30)
        assert last is not None
        assert tree.verify_inclusion(found.digest, height, 30, path, last.history)
    pruner = Pruner(store, SNAPSHOT, WINDOW)
    list(pruner.steps(pruner.target(4)))
    again = Store(tmp_path / "again")
    assert Dialogue(core(network), Source(store, SNAPSHOT, WINDOW), again).run()
    Sync(again).install()
    assert again.head() == head
    again.close()
    store.close()


def test_replays_are_known_after_a_sync(network: Network, store: Store) -> None:
    """The ids of the window's transactions are there, each at its place."""
    assert Dialogue(core(network), source_of(network), store).run()
    Sync(store).install()

    for height in range(21, 25):
        row = network.chain.store.row(height)
        assert row is not None
        for receipt in row.receipts:
            place = store.place(receipt.transaction)
            assert place == network.chain.store.place(receipt.transaction)
            assert place is not None


def test_a_long_absent_node_syncs_over_its_old_chain(network: Network, tmp_path: Path) -> None:
    """Until the head changes its own chain is as it was; what it no longer needs is pruned."""
    with open_network(tmp_path) as old:
        grow(old, 5)
        store, head = old.chain.store, old.chain.head
        store.sync()  # as fetching does, which notes the height
        before = everything(store)
        talk = Dialogue(core(network, executed=5), source_of(network), store)

        assert talk.run()
        kept = everything(store)
        assert store.head() == head
        assert {key: kept[key] for key in before} == before
        Sync(store).install()
        pruner = Pruner(store, SNAPSHOT, WINDOW)
        list(pruner.steps(pruner.target(0)))

        fresh = Store(tmp_path / "fresh")
        assert Dialogue(core(network), source_of(network), fresh).run()
        Sync(fresh).install()
        pruner = Pruner(fresh, SNAPSHOT, WINDOW)
        list(pruner.steps(pruner.target(0)))
        fresh.sync()
        store.sync()  # both note the height
        wanted, found = everything(fresh), everything(store)
        extra = {key[:1] for key in found.keys() - wanted.keys()}
        assert {key: found[key] for key in wanted} == wanted
        assert extra <= {b"h", b"d", b"y", b"m"}  # headers and history of what it had executed
        fresh.close()


@pytest.mark.parametrize("survived", range(2, 40, 3))
def test_a_sync_goes_on_where_it_was(network: Network, tmp_path: Path, survived: int) -> None:
    """Killed after any reply, what was kept is not asked for again."""
    first = Store(tmp_path / "joining")
    talk = Dialogue(core(network), source_of(network), first)
    talk.run(survived)
    first.close()

    again = Store(tmp_path / "joining")
    kept = Sync(again).kept()
    more = Dialogue(core(network, kept=kept), source_of(network), again)
    assert more.run()
    Sync(again).install()

    assert (kept is None) == (not talk.sync.snapshot)
    ranges = [ask.request for ask in more.asked if isinstance(ask.request, AskRange)]
    if kept is not None:
        assert not any(isinstance(ask.request, AskSnapshot) for ask in more.asked)
        known = [gap for gap in kept[1].gaps if gap == Gap(FIRST_PATH, LAST_PATH)]
        assert known or all(request.gap.start != FIRST_PATH for request in ranges)
    row = network.chain.store.row(24)
    head = again.head()
    assert row is not None
    assert head is not None
    assert head.root.digest == row.root.digest
    again.close()


def test_an_install_is_whole_or_not_at_all(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any batch of it, the head is the old one, and installing again is enough."""
    monkeypatch.setattr("node.validator.install.BATCH_ROWS", 7)
    with open_network(tmp_path) as old:
        grow(old, 3)
        store, head = old.chain.store, old.chain.head
        assert Dialogue(core(network, executed=3), source_of(network), store).run()
        database, writes = store.database, 0
        while True:
            store.database = cast(Database, Mortal(database, writes))
            try:
                Sync(store).install()
                break
            except Killed:
                found = store.head()
                assert found is not None
                if found != head:
                    break  # what is left is to forget the sync
            writes += 1
        store.database = database

        assert writes > 20
        assert found is not None
        assert found.height == 24


# When


def test_who_is_left_behind() -> None:
    """Enough peers have pruned our next block, or are very far ahead, and have a snapshot."""
    near, pruned = Offer((1024, 2048), 2100, 1), Offer((1024, 2048), 2100, 1000)
    far = Offer((9216, 10240), 10_300, 1)

    assert not left_behind(0, [near] * 3, 2)
    assert not left_behind(0, [near, near, pruned], 2)
    assert left_behind(0, [near, pruned, pruned], 2)
    assert not left_behind(999, [pruned] * 3, 2)
    assert not left_behind(2048, [replace(pruned, first=2060)] * 3, 2)  # no snapshot helps
    assert left_behind(0, [far] * 2, 2)
    assert not left_behind(10_300 - module.AHEAD_BLOCKS_MAX, [far] * 3, 2)


def test_a_snapshot_of_another_chain_is_refused(network: Network) -> None:
    """Its certificate says nothing of ours."""
    found = source_of(network).snapshot(24)

    with pytest.raises(Refused, match=r"audit\.chain"):
        verify_snapshot(found, 24, bytes(32), epochs(network.chain.state()), WINDOW)
    verify_snapshot(found, 24, network.genesis.chain, epochs(network.chain.state()), WINDOW)

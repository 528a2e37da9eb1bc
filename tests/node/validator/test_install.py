"""How a snapshot becomes the head: what a crash in the middle of it must not leave behind."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import aiohttp
import pytest

from node.home.config import ValidatorConfig, load
from node.home.testnet import write_testnet
from node.validator.install import LEAF, SYNC_ROWS, Sync
from node.validator.journal import FOLDER, Journal
from node.validator.keyring import Keyring
from node.validator.prune import Pruner
from node.validator.recover import check_journal
from node.validator.serve import Source
from node.validator.snapshot import Ask, Begin, Effect, Offer
from node.validator.store import Database, Store
from node.validator.sync import Peers, run
from tests.harness import genesis_of
from tests.node.network import Network, open_network
from tests.node.network import grow as change_seats
from tests.node.validator.test_prune import grow
from tests.node.validator.test_snapshot import (
    SNAPSHOT,
    WINDOW,
    Dialogue,
    Killed,
    Mortal,
    core,
    source_of,
)
from vm.block import Header
from vm.sparse import DamagedNode
from vm.succession import Step


@dataclass
class Following(Dialogue):
    """A dialogue that keeps the steps to the snapshot's epoch too, as the shell does."""

    steps: tuple[Step, ...] = field(default=())

    def _perform(self, rows: Sync, effect: Effect, waiting: list[Ask]) -> None:
        if isinstance(effect, Begin):
            rows.begin(effect.snapshot, effect.missing, self.steps)
        else:
            super()._perform(rows, effect, waiting)


def sync_across_epochs(folder: Path, store: Store) -> None:
    """Keep all of a snapshot at 24 of a chain on which an epoch has ended at 10."""
    with open_network(folder) as served:
        change_seats(served)
        grow(served, 30 - served.chain.head.height)
        source = Source(served.chain.store, SNAPSHOT, WINDOW)
        talk = Following(core(served), source, store, steps=source.steps(0).steps)
        assert talk.steps
        assert talk.run()


def test_a_crash_in_an_install_never_makes_a_sound_journal_look_lost(tmp_path: Path) -> None:
    """Certificates at ends of epochs come before the head: the key would be barred for ever."""
    net = write_testnet(tmp_path / "net", now=datetime(2026, 3, 1, tzinfo=UTC))
    config = load(ValidatorConfig, net.home("hospital-1", "validator"), {})
    folder, writes = config.store.folder, 0
    with Journal(folder / FOLDER) as journal:
        keyring = Keyring(config.member, folder, journal.identity)
        store = Store(tmp_path / "joining")
        store.bind_journal(journal.identity)
        sync_across_epochs(tmp_path, store)
        database = store.database

        while store.head() is None:
            store.database = cast(Database, Mortal(database, writes))
            with pytest.raises(Killed):
                Sync(store).install()
            store.database = database
            check_journal(keyring, journal.identity, journal.entries, store)
            writes += 1

        certified = store.certified()
        assert certified is not None
        assert certified.height == 24
        assert writes > 5
        store.close()


def test_a_snapshot_that_was_installed_never_takes_the_head_back(tmp_path: Path) -> None:
    """Killed before it was forgotten: blocks that were executed on it since stay."""
    store = Store(tmp_path / "joining")
    sync_across_epochs(tmp_path, store)
    database, writes = store.database, 0
    while store.head() is None:
        store.database = cast(Database, Mortal(database, writes))
        with pytest.raises(Killed):
            Sync(store).install()
        store.database, writes = database, writes + 1
    joined = Network(store, genesis_of(4))
    joined.block()

    async def work() -> None:
        async with aiohttp.ClientSession() as session:
            await run(store, joined.genesis, Peers(session, {}), WINDOW)

    asyncio.run(work())

    assert store.head() == joined.chain.head
    assert joined.chain.head.height == 25
    assert _rows_of_a_sync(store) == []
    store.close()


def test_what_a_crash_left_of_a_sync_is_forgotten(tmp_path: Path) -> None:
    """Killed while it was given up: its leaves, a copy of all the state, would stay on disk."""
    store = Store(tmp_path / "joining")
    sync_across_epochs(tmp_path, store)
    database = store.database
    store.database = cast(Database, Mortal(database, 1))
    with pytest.raises(Killed):
        Sync(store).forget()
    store.database = database
    assert _rows_of_a_sync(store)

    async def work() -> None:
        async with aiohttp.ClientSession() as session:
            with open_network(tmp_path / "genesis") as network:
                await run(store, network.genesis, Peers(session, {}), WINDOW)

    asyncio.run(work())

    assert _rows_of_a_sync(store) == []
    store.close()


def test_who_synced_offers_what_it_has_before_it_was_ever_pruned(tmp_path: Path) -> None:
    """Not the snapshot before its own, of which it has no state, and no block below."""
    store = Store(tmp_path / "joining")
    sync_across_epochs(tmp_path, store)
    Sync(store).install()

    assert Source(store, SNAPSHOT, WINDOW).offer() == Offer((24,), newest=24, first=25)
    store.close()


def test_leaves_that_the_disk_has_changed_are_not_installed(tmp_path: Path) -> None:
    """Each was verified as it came; what was kept of it since is a state that nobody certified."""
    store = Store(tmp_path / "joining")
    sync_across_epochs(tmp_path, store)
    with store.database.iterator(prefix=LEAF) as rows:
        row, data = next(rows)
    store.database.put(row, data[:-1] + bytes((data[-1] ^ 1,)))

    with pytest.raises(DamagedNode):
        Sync(store).install()

    assert store.head() is None
    store.close()


def test_what_the_store_knows_of_a_block_outlives_a_sync_over_it(tmp_path: Path) -> None:
    """It executed some blocks of the replay window itself: it still proves their transactions."""
    with open_network(tmp_path / "served") as served, open_network(tmp_path / "near") as near:
        for network in (served, near):
            grow(network, 22)
        grow(served, 8)
        store, before = near.chain.store, near.chain.store.row(22)
        assert Dialogue(core(served, executed=22), source_of(served), store).run()
        Sync(store).install()

        assert before is not None
        assert before.positions
        assert store.row(22) == before


def test_pruning_a_new_store_looks_only_at_heights_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain may be millions of blocks high below the snapshot with which a store began."""
    store = Store(tmp_path / "joining")
    sync_across_epochs(tmp_path, store)
    Sync(store).install()
    looked = list[int]()
    header = Store.header

    def counted(self: Store, height: int) -> Header | None:
        looked.append(height)
        return header(self, height)

    monkeypatch.setattr(Store, "header", counted)
    pruner = Pruner(store, SNAPSHOT, WINDOW)
    list(pruner.steps(pruner.target(0)))

    assert looked == [10]  # the epoch's last, whose header others follow
    store.close()


def _rows_of_a_sync(store: Store) -> list[bytes]:
    start, stop = SYNC_ROWS
    with store.database.iterator(start=start, stop=stop, include_value=False) as rows:
        return [bytes(row) for row in rows]

"""How a snapshot becomes the head: what a crash in the middle of it must not leave behind."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar, cast

import aiohttp
import pytest

from node.home.config import ValidatorConfig, load
from node.home.testnet import write_testnet
from node.validator.install import LEAF, RECEIPTS, SYNC_ROWS, Sync
from node.validator.journal import FOLDER, Journal
from node.validator.keyring import Keyring
from node.validator.prune import Pruner
from node.validator.recover import check_journal
from node.validator.serve import Source
from node.validator.snapshot import Ask, Begin, Effect, Missing, Offer
from node.validator.store import Database, Store
from node.validator.sync import Peers, run
from tests.harness import genesis_of
from tests.node.network import Network, open_network
from tests.node.network import grow as change_seats
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
from tests.simulation.disk import Batch, MemoryDatabase
from vm.block import Header
from vm.sparse import DamagedNode
from vm.succession import Step

D = TypeVar("D", bound=MemoryDatabase)


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


class Logs(MemoryDatabase):
    """LevelDB at its worst: each batch in a log of its own, of which `sync` says nothing of others.

    It syncs the log that it writes. One that it has just left may be lost in part at a power cut,
    though what was written later is there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDatabase()  # what a power cut leaves

    @contextmanager
    def write_batch(self, *, sync: bool = False) -> Iterator[Batch]:
        """A batch that is on disk if it is synced itself."""
        with super().write_batch() as batch:
            yield batch
        if sync:
            with self.disk.write_batch() as again:
                again.changes = batch.changes

    def sync_logs(self) -> None:
        """What `Store.sync` does: everything is on disk."""
        self.disk = _copy(MemoryDatabase(), self)

    def cut(self) -> "Logs":
        """What is there after a power cut."""
        left = _copy(Logs(), self.disk)
        left.sync_logs()
        return left


def _copy(copy: D, database: MemoryDatabase) -> D:
    with database.iterator() as rows, copy.write_batch() as batch:
        for key, value in rows:
            batch.put(key, value)
    return copy


class Logged(Store):
    """A store over such logs; `alive` is what stands before them."""

    def __init__(self, logs: Logs, alive: Database | None = None) -> None:
        super().__init__(alive or logs)
        self._logs = logs

    def sync(self) -> None:
        """Everything is on disk."""
        self._logs.sync_logs()


def test_a_power_cut_in_an_install_loses_neither_snapshot_nor_head(tmp_path: Path) -> None:
    """Either all that was fetched is there and installed again, or the head with all beneath it."""
    fetched, writes, head = Logs(), 0, None
    sync_across_epochs(tmp_path, Logged(fetched))
    whole = Logged(fetched.cut())
    Sync(whole).install()

    while head is None:
        database = fetched.cut()
        with pytest.raises(Killed):
            Sync(Logged(database, cast(Database, Mortal(database, writes)))).install()
        left = Logged(database.cut())
        head, writes = left.head(), writes + 1
        if Sync(left).resume() is not None:
            Sync(left).install()

        assert everything(left) == everything(whole)

    assert writes > 5


def test_what_was_fetched_survives_a_power_cut(tmp_path: Path) -> None:
    """After each answer: it is not asked for again, and nothing of it is missing later."""
    with open_network(tmp_path) as served:
        grow(served, 30)
        source, database, done = source_of(served), Logs(), False
        while not done:
            store = Logged(database)
            done = Dialogue(core(served, kept=Sync(store).resume()), source, store).run(5)
            kept, database = Sync(store).kept(), database.cut()
            assert Sync(Logged(database)).kept() == kept
        Sync(Logged(database)).install()

        head = Store(database).head()
        assert head is not None
        assert head.height == 24


def test_a_power_cut_brings_nothing_back_of_what_was_given_up(tmp_path: Path) -> None:
    """Its leaves would stand among those of another snapshot, or be missed once some are gone."""
    database = Logs()
    sync_across_epochs(tmp_path, Logged(database))
    kept = Sync(Logged(database)).kept()
    assert kept is not None
    snapshot, _ = kept
    again, given_up = database.cut(), database.cut()

    Sync(Logged(again)).begin(snapshot, Missing((), snapshot.first))
    with pytest.raises(Killed):
        Sync(Logged(given_up, cast(Database, Mortal(given_up, 1)))).forget()

    with again.cut().iterator(prefix=LEAF) as rows:
        assert list(rows) == []
    assert Sync(Logged(given_up.cut())).kept() is None


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


def test_receipts_that_the_disk_has_lost_are_not_installed(tmp_path: Path) -> None:
    """A repeat of one of their transactions would be executed, as nowhere else."""
    store = Store(tmp_path / "joining")
    sync_across_epochs(tmp_path, store)
    with store.database.iterator(prefix=RECEIPTS, include_value=False) as rows:
        row = next(rows)
    with store.database.write_batch() as batch:
        batch.delete(row)

    with pytest.raises(DamagedNode, match="receipts"):
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

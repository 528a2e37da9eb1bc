"""State sync of a validator that has lost its store, beside a plain copy of the same bytes."""

import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from node.validator.store import Store
from node.wire.disk import sync_file, sync_folder
from tests.bench.ledger.build import disk_bytes
from tests.bench.ledger.fleet import Fleet
from tests.network.running import POLL_S, fetch

AWAY = 4
SYNC_S_MAX = 1_800.0  # far above any: only a hang takes longer
INSTALLED = "sync.installed"


@dataclass(frozen=True, slots=True)
class Synced:
    """A validator without a store, until it has all of the state and says that it is ready.

    `sync_s` goes from the start of the process to the snapshot as its head, `ready_s` to where it
    has executed the blocks since; `copy_s` is what a synced copy of its store's files takes.
    """

    sync_s: float
    ready_s: float
    store_mib: float
    copy_s: float
    ratio: float


def measure(fleet: Fleet) -> Synced:
    """Wipe the last validator of a stopped network whose others are pruned; leave all stopped."""
    with closing(Store(fleet.chain(1))) as store:
        assert store.kept().snapshots, "expected more than 1,024 blocks, of which one is a snapshot"
    others = [number for number in fleet.numbers if number != AWAY]
    shutil.rmtree(fleet.chain(AWAY))
    for number in others:
        fleet.start(number)
    fleet.await_ready(*others)
    before, begun_s = fleet.log(AWAY).count(INSTALLED), time.perf_counter()
    fleet.start(AWAY)
    _wait(fleet, lambda: fleet.log(AWAY).count(INSTALLED) > before)
    sync_s = time.perf_counter() - begun_s
    _wait(fleet, lambda: fetch(f"{fleet.urls[AWAY - 1]}/readyz")[0] == 200)
    ready_s = time.perf_counter() - begun_s
    fleet.stop_all()
    size, copy_s = disk_bytes(fleet.chain(AWAY)), _copy(fleet.chain(AWAY))
    return Synced(
        round(sync_s, 2),
        round(ready_s, 2),
        round(size / 1024**2, 1),
        round(copy_s, 3),
        round(sync_s / copy_s, 1),
    )


def _wait(fleet: Fleet, done: Callable[[], bool]) -> None:
    begun_s = time.perf_counter()
    while not done():
        assert fleet.alive(AWAY), "the one that syncs has ended, see its log"
        assert time.perf_counter() - begun_s < SYNC_S_MAX, "a sync that does not end"
        time.sleep(POLL_S)


def _copy(folder: Path) -> float:
    """Seconds for a copy of all files that is on disk."""
    begun_s, target = time.perf_counter(), folder.with_suffix(".copy")
    shutil.copytree(folder, target)
    for path in target.iterdir():
        sync_file(path)
    sync_folder(target)
    return time.perf_counter() - begun_s

"""What records in the state cost: throughput with few and with many, bytes, a restart, a sync."""

import asyncio
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from node.api.admission import SUBMIT_MAX
from node.validator.prune import Pruner
from node.validator.store import Store
from tests.bench.ledger import sync
from tests.bench.ledger.build import build, disk_bytes
from tests.bench.ledger.figures import VALIDATORS, Stretch
from tests.bench.ledger.fleet import Fleet
from tests.bench.ledger.load import Plan, Run, driving, summarize, warmed
from tests.bench.ledger.restart import seconds_to_vote
from tests.bench.ledger.sync import Synced
from vm.transaction import TX_LIFETIME_BLOCKS_MAX

FEW = 1_000  # records, beside which many are measured
FLOW_PER_S = 40.0  # transactions, so that there are blocks to vote for


@dataclass(frozen=True, slots=True)
class Growth:
    """Validators with `records` in their state; None for what was left out.

    Each record was made in `build_us` of one process. Bytes are those of the chain's store, by all
    transactions that it has executed, before and after pruning to the last 1,024 blocks, which
    takes `prune_s`. `restart_s` goes from the start of the process to its first vote.
    """

    records: int
    few: Stretch | None
    many: Stretch | None
    build_us: float
    bytes_per_tx: float
    bytes_per_tx_pruned: float
    prune_s: float
    restart_s: float | None
    sync: Synced | None

    @property
    def ratio(self) -> float | None:
        """The throughput with many records, by that with few."""
        if self.few is None or self.many is None or not self.few.tps:
            return None
        return round(self.many.tps / self.few.tps, 3)


def measure(
    folder: Path, records: int, block_records: int, plan: Plan, parts: tuple[str, ...]
) -> Growth:
    """Build a network with `records`, measure `parts` of growth, restart and sync in it."""
    few = None
    if "growth" in parts:
        with closing(Fleet(folder / "few", size=VALIDATORS)) as fleet:
            build(fleet, FEW, block_records)
            few, _ = _run(fleet, plan, ("growth",))
    with closing(Fleet(folder / "many", size=VALIDATORS)) as fleet:
        begun_s = time.perf_counter()
        build(fleet, records, block_records)
        build_us = 1e6 * (time.perf_counter() - begun_s) / records
        many, restart_s = _run(fleet, plan, parts)
        executed, whole = fleet.applied(1).total(), disk_bytes(fleet.chain(1))
        prune_s = max(_prune(fleet.chain(number)) for number in fleet.numbers)
        pruned = disk_bytes(fleet.chain(1))
        return Growth(
            records=records,
            few=few,
            many=many,
            build_us=round(build_us, 1),
            bytes_per_tx=round(whole / executed, 1),
            bytes_per_tx_pruned=round(pruned / executed, 1),
            prune_s=round(prune_s, 1),
            restart_s=restart_s,
            sync=sync.measure(fleet) if "sync" in parts else None,
        )


def _run(fleet: Fleet, plan: Plan, parts: tuple[str, ...]) -> tuple[Stretch | None, float | None]:
    """Start a network, give it as much as it takes, kill one of it, stop all."""
    fleet.start_all()
    run, restart_s = asyncio.run(_drive(fleet, plan, parts))
    fleet.stop_all()
    return None if run is None else summarize(run, fleet.applied(1)), restart_s


async def _drive(
    fleet: Fleet, plan: Plan, parts: tuple[str, ...]
) -> tuple[Run | None, float | None]:
    run, restart_s = None, None
    async with driving(fleet, plan.clients, plan.under_way) as driver:
        if "growth" in parts:
            run = await warmed(driver, SUBMIT_MAX, plan.batched_s, plan.skip_s)
        if "restart" in parts:
            async with driver.flowing(FLOW_PER_S):
                restart_s = round(await seconds_to_vote(fleet), 2)
    return run, restart_s


def _prune(folder: Path) -> float:
    """Seconds that `concilium prune` takes down to what execution looks back on."""
    begun_s = time.perf_counter()
    with closing(Store(folder)) as store:
        pruner = Pruner(store)
        for share in pruner.steps(pruner.target(TX_LIFETIME_BLOCKS_MAX)):
            assert 0 <= share <= 1, "the share of the work that is done"
        store.sync()
        store.compact()
    return time.perf_counter() - begun_s

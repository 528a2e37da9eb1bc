"""One run of all parts, or of one of them, on one machine."""

import asyncio
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.bench.ledger import blobs, growth, load, machine
from tests.bench.ledger.blobs import Blobs
from tests.bench.ledger.bound import verified_per_s
from tests.bench.ledger.figures import VALIDATORS
from tests.bench.ledger.fleet import Fleet
from tests.bench.ledger.growth import Growth
from tests.bench.ledger.load import Load, Plan
from tests.bench.ledger.report import Found

PARTS = ("load", "latency", "growth", "restart", "sync", "blobs")
CLIENTS = 2
SINGLE_SHARE = 0.5  # of the seconds, for requests of one transaction
GROWTH = {"growth", "restart", "sync"}  # parts that are measured with many records
GROWTH_SHARE = 0.5  # of the seconds, with few records and with many
LATENCY_SHARE = 0.5  # of the seconds, at each of the shares of the load


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: `seconds` of the steady load, and `records` for growth.

    They are in more than 1,024 `blocks`: else pruning leaves all of them, and no snapshot to sync.
    """

    seconds: float
    bound_s: float
    skip_s: float
    under_way: int  # transactions, of the 20,000 that validators have room for
    records: int
    blocks: int
    model_bytes: int


WHOLE = Size(
    seconds=60,
    bound_s=3.0,
    skip_s=5.0,
    under_way=4_000,
    records=1_000_000,
    blocks=2_500,
    model_bytes=500_000_000,
)
QUICK = Size(
    seconds=1.5,
    bound_s=0.5,
    skip_s=0.5,
    under_way=500,
    records=2_500,
    blocks=1_250,
    model_bytes=20_000_000,
)


def measure(folder: Path, size: Size, parts: tuple[str, ...]) -> Found:
    """Measure in the empty `folder`; raises `AssertionError` if the network loses anything."""
    at = machine.describe()
    per_s = verified_per_s(os.cpu_count() or 1, size.bound_s)
    return Found(
        machine=at,
        validators=VALIDATORS,
        verified_per_s=round(per_s, 1),
        bound_tps=round(per_s / VALIDATORS, 1),
        load=_load(folder / "load", size, parts) if {"load", "latency"} & set(parts) else None,
        growth=_growth(folder / "growth", size, parts) if GROWTH & set(parts) else None,
        blobs=_blobs(folder / "blobs", size) if "blobs" in parts else None,
    )


def _load(folder: Path, size: Size, parts: tuple[str, ...]) -> Load:
    plan = Plan(
        clients=CLIENTS,
        under_way=size.under_way,
        batched_s=size.seconds,
        single_s=size.seconds * SINGLE_SHARE if "load" in parts else 0,
        latency_s=size.seconds * LATENCY_SHARE if "latency" in parts else 0,
        skip_s=size.skip_s,
    )
    with closing(Fleet(folder, size=VALIDATORS)) as fleet:
        fleet.start_all()
        return asyncio.run(load.measure(fleet, plan))


def _growth(folder: Path, size: Size, parts: tuple[str, ...]) -> Growth:
    plan = Plan(
        clients=CLIENTS,
        under_way=size.under_way,
        batched_s=size.seconds * GROWTH_SHARE,
        single_s=0,
        latency_s=0,
        skip_s=size.skip_s,
    )
    return growth.measure(folder, size.records, -(-size.records // size.blocks), plan, parts)


def _blobs(folder: Path, size: Size) -> Blobs:
    with closing(Fleet(folder, size=VALIDATORS)) as fleet:
        fleet.start_all()
        return blobs.measure(fleet, folder, size.model_bytes)

"""One run of all parts, or of one of them, on one machine."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from tests.bench.ledger import machine
from tests.bench.ledger.bound import verified_per_s
from tests.bench.ledger.fleet import Fleet
from tests.bench.ledger.load import VALIDATORS, Load, Plan
from tests.bench.ledger.load import measure as measure_load
from tests.bench.ledger.report import Found

PARTS = ("load", "latency")
CLIENTS = 2
SINGLE_SHARE = 0.5  # of the seconds, for requests of one transaction
LATENCY_SHARE = 0.5  # of the seconds, at each of the shares of the load


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: `seconds` of the steady load."""

    seconds: float
    bound_s: float
    skip_s: float
    under_way: int  # transactions, of the 20,000 that validators have room for


WHOLE = Size(seconds=60, bound_s=3.0, skip_s=5.0, under_way=6_000)
QUICK = Size(seconds=3, bound_s=0.5, skip_s=1.0, under_way=1_000)


def measure(folder: Path, size: Size, parts: tuple[str, ...]) -> Found:
    """Measure in the empty `folder`; raises `AssertionError` if the network loses anything."""
    at = machine.describe()
    per_s = verified_per_s(os.cpu_count() or 1, size.bound_s)
    wants_load = "load" in parts or "latency" in parts
    return Found(
        machine=at,
        validators=VALIDATORS,
        verified_per_s=round(per_s, 1),
        bound_tps=round(per_s / VALIDATORS, 1),
        load=_load(folder / "load", size, parts) if wants_load else None,
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
    fleet = Fleet(folder, size=VALIDATORS)
    try:
        fleet.start_all()
        return asyncio.run(measure_load(fleet, plan))
    finally:
        fleet.close()

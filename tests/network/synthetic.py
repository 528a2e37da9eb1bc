"""A small learning task on made-up rows: three columns, of which one tells the outcome."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from fl.dataset import band, weight
from fl.model import initial
from fl.spec import logistic_regression
from fl.weights import pack_weights
from node.home.document import dump
from tests.fl.terms import ONE_SEGMENT, by, sgd
from tests.network.running import HOSPITALS, Running, concilium
from vm.terms import (
    MICRO,
    Column,
    Evidence,
    Level,
    Policy,
    Preprocessing,
    Rule,
    Site,
    Terms,
    Valuation,
)

TASK = "small-task"
MODEL = "small-model"
ROWS = 60  # of each hospital
GRID_BITS = 24
PHASE_MS = 60_000  # longer than any restart in these tests
NAMES = ("Age", "Dose", "Noise")
OUTCOME = "Outcome"
SPEC = logistic_regression(len(NAMES))
PREPROCESSING = Preprocessing(
    columns=tuple(
        Column(name, "1", (), -10 * MICRO, 10 * MICRO, 0, 0, 2 * MICRO) for name in NAMES
    ),
    outcome=Column(OUTCOME, "1", (Level("no", 0), Level("yes", MICRO)), 0, MICRO, 0, 0, MICRO),
)


def rows(seed: int) -> str:
    """One hospital's rows as CSV: 2 Age - Dose and some noise decide the outcome."""
    chance = random.Random(seed)
    lines = [",".join((*NAMES, OUTCOME))]
    for _ in range(ROWS):
        age, dose, noise = (chance.uniform(-3, 3) for _ in NAMES)
        outcome = "yes" if 2 * age - dose + chance.gauss(0, 2) > 0 else "no"
        lines.append(f"{age:.3f},{dose:.3f},{noise:.3f},{outcome}")
    return "\n".join(lines) + "\n"


def terms(rounds: int) -> Terms:
    """The task's terms."""
    return Terms(
        title="A small task",
        model=MODEL,
        preprocessing=PREPROCESSING,
        training=sgd(MICRO // 20, 0, 0, steps=10, batch_rows=16, snapshot_steps=5),
        aggregation=by(Rule.WEIGHTED_MEAN, 0, 3),
        policy=Policy(3 * MICRO, -MICRO // 5, margin=MICRO // 10),
        replay=ONE_SEGMENT,
        evidence=Evidence.COMMITTED,
        own_loops=False,
        contribution=Valuation.NONE,
        pool=0,
        sites=tuple(_site(hospital) for hospital in HOSPITALS),
        rounds=rounds,
        submit_ms=PHASE_MS,
        verdict_ms=PHASE_MS,
        reveal_ms=PHASE_MS,
        aggregate_ms=PHASE_MS,
        retention_ms=PHASE_MS,
        trace_retention_ms=60 * PHASE_MS,  # the tests audit what was trained
        purpose="tests",
    )


def _site(hospital: str) -> Site:
    members = (f"{hospital}.trainer", f"{hospital}.verifier")
    return Site(hospital, *members, f"{hospital}.dataset", weight(band(ROWS)))


def write_rows(net: Running) -> None:
    """Give each hospital its rows."""
    for number in range(1, len(HOSPITALS) + 1):
        (net.home(number, "peer") / "rows.csv").write_text(rows(number))


def register_datasets(net: Running, folder: Path, *flags: str) -> list[Any]:
    """Each steward registers its dataset by the command line; the receipts."""
    columns = _write(folder / "preprocessing.json", PREPROCESSING)

    def register(number: int) -> Any:
        hospital, peer = HOSPITALS[number - 1], net.home(number, "peer")
        return concilium(
            *("dataset", "register", net.home(number, "steward"), "--format", "json"),
            *("--id", f"{hospital}.dataset", "--title", "Made up", "--region", "NL"),
            *("--data", peer / "rows.csv", "--secret", peer / "keys/rows.secret"),
            *("--preprocessing", columns, "--condition", "DUO:0000006"),
            *flags,
        ).data

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(register, range(1, len(HOSPITALS) + 1)))


def open_task(net: Running, folder: Path, rounds: int, **changes: Any) -> Any:
    """The first steward registers the model and opens the task; the receipt.

    `changes` are made to the task's terms.
    """
    weights = folder / "weights.safetensors"
    weights.write_bytes(pack_weights(SPEC, GRID_BITS, initial(SPEC, GRID_BITS, seed=1)))
    asked = replace(terms(rounds), **changes)
    return concilium(
        *("task", "open", net.home(1, "steward"), _write(folder / "terms.json", asked)),
        *("--id", TASK, "--weights", weights, "--spec", _write(folder / "spec.json", SPEC)),
        *("--grid-bits", str(GRID_BITS), "--format", "json"),
    ).data


def _write(path: Path, record: object) -> Path:
    path.write_text(json.dumps(dump(record)))
    return path

"""A task on four validators and four training peers of this machine, as real processes."""

import asyncio
import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fl import trial
from fl.dataset import weight
from fl.model import initial
from fl.weights import pack_weights
from node.client.client import Client
from node.demo.processes import CONCILIUM
from node.home.config import CONFIG_FILE
from node.home.document import dump
from tests.bench.figures import Count, Network, summarize
from tests.lab.data import Source
from tests.network.running import Running, concilium
from vm.learning import Round, Task, TaskPhase
from vm.record import Dataset, Model
from vm.refusal import Refused
from vm.terms import Evidence, Replay, Site

TASK, MODEL = "bench-task", "bench-model"
DRAWN = 2  # segments that each verifier replays of each update
POLL_S = 1.0  # rarely, so that looking costs little; times are the chain's own
ROUND_S_MAX = 600.0  # far above any round: only a hang takes longer
PHASE_MS = 600_000  # so that no deadline ends a phase: a long round is slow on a busy machine
STEWARD = 1


def measure(data: Source, folder: Path, rounds: int, *, replayed: bool) -> Network:
    """Go through a task of so many rounds in a new folder; raises `AssertionError` if it fails."""
    net = Running(folder / "net", tasks=[TASK])
    try:
        net.start_all()
        for number, clinic in zip(net.numbers, trial.CLINICS, strict=True):
            (net.home(number, "peer") / "rows.csv").write_text(trial.csv_of(clinic))
            _register(net, folder, number, replayed)
        asyncio.run(_open(net, data, folder, rounds, replayed))
        counts = [folder / f"count-{number}.json" for number in net.numbers]
        for number, path in zip(net.numbers, counts, strict=True):
            _start_peer(net, number, path, replayed)
        opened_s = asyncio.run(_rounds(net, rounds))
        for number in net.numbers:
            assert net.signal(net.home(number, "peer"), signal.SIGTERM) == 0
        return summarize(opened_s, [Count.of(json.loads(path.read_text())) for path in counts])
    finally:
        net.close()


def _register(net: Running, folder: Path, number: int, replayed: bool) -> None:
    peer, hospital = net.home(number, "peer"), net.hospitals[number - 1]
    answer = concilium(
        *("dataset", "register", net.home(number, "steward"), "--format", "json"),
        *("--id", f"{hospital}.dataset", "--title", "A clinic of the trial", "--region", "US"),
        *("--data", peer / "rows.csv", "--secret", peer / "keys/rows.secret"),
        *("--preprocessing", _write(folder / "preprocessing.json", trial.PREPROCESSING)),
        *("--condition", trial.CONDITIONS[0]),
        *(("--opening",) if replayed else ()),
    )
    assert answer.code == 0, answer


async def _open(net: Running, data: Source, folder: Path, rounds: int, replayed: bool) -> None:
    async with net.client() as client:
        sites = [await _site(client, hospital) for hospital in net.hospitals]
    terms = replace(
        trial.terms(MODEL, sites, rounds),
        training=data.training,
        evidence=Evidence.REPLAYED if replayed else Evidence.COMMITTED,
        replay=Replay(DRAWN if replayed else 0, 0, 0),
        submit_ms=PHASE_MS,
        verdict_ms=PHASE_MS,
        reveal_ms=PHASE_MS,
        aggregate_ms=PHASE_MS,
    )
    weights = folder / "weights.safetensors"
    weights.write_bytes(pack_weights(data.spec, data.grid_bits, initial(data.spec, 24, seed=1)))
    answer = concilium(
        *("task", "open", net.home(STEWARD, "steward"), _write(folder / "terms.json", terms)),
        *("--id", TASK, "--weights", weights, "--spec", _write(folder / "spec.json", data.spec)),
        *("--grid-bits", str(data.grid_bits), "--format", "json"),
    )
    assert answer.code == 0, answer


async def _site(client: Client, hospital: str) -> Site:
    dataset = await client.record(Dataset, f"{hospital}.dataset")
    assert dataset is not None, f"{hospital}.dataset was registered"
    members = (f"{hospital}.trainer", f"{hospital}.verifier")
    return Site(hospital, *members, dataset.id, weight(dataset.rows))


def _start_peer(net: Running, number: int, count: Path, replayed: bool) -> None:
    home = net.home(number, "peer")
    if replayed:
        path = home / CONFIG_FILE
        path.write_text(path.read_text().replace("opening = false", "opening = true"))
    net.spawn(home, [*CONCILIUM[:3], "tests.bench.peer", str(home), str(count)])


async def _rounds(net: Running, rounds: int) -> list[float]:
    """When each round opened, then when the last one closed, in seconds UTC by blocks' times."""
    deadline = time.monotonic() + ROUND_S_MAX * (rounds + 1)
    async with net.client() as client:
        while (task := await _look(client)) is None or task.phase is TaskPhase.OPEN:
            assert time.monotonic() < deadline, f"expected {rounds} rounds, found {task}"
            await asyncio.sleep(POLL_S)
        assert (task.phase, task.round) == (TaskPhase.COMPLETED, rounds), task
        opened = [await client.record(Round, TASK, number) for number in range(1, rounds + 1)]
        last = await client.record(Model, MODEL, task.base_version + rounds)
    assert last is not None
    ended_ms = [rnd.opened_ms for rnd in opened if rnd is not None] + [last.created_ms]
    return [ms / 1_000 for ms in ended_ms]


async def _look(client: Client) -> Task | None:
    try:
        return await client.record(Task, TASK)
    except Refused:  # behind or busy: the next look tells
        return None


def _write(path: Path, record: Any) -> Path:
    path.write_text(json.dumps(dump(record)))
    return path

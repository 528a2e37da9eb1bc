"""The demo's main job: from genesis to an audited model, each step the way a person would go."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from fl.dataset import weight
from fl.model import initial
from fl.trial import CLINICS, CONDITIONS, GRID_BITS, PREPROCESSING, SPEC, csv_of, terms
from fl.weights import pack_weights
from node.api.views import LIMIT_MAX, BlockPage
from node.client.client import Client
from node.client.credentials import Credentials, credentials_of
from node.demo.processes import CONCILIUM, Processes, concilium
from node.home import config
from node.home.document import dump
from node.home.genesis import read_genesis
from node.home.testnet import Layout, write_testnet
from vm.learning import (
    Round,
    RoundPhase,
    Task,
    TaskPhase,
)
from vm.record import Dataset
from vm.refusal import Refused
from vm.terms import Site

TASK = "preterm-1"
MODEL = "preterm"
WEIGHTS_FILE = "initial.safetensors"
POISONED_ROUND = 5  # or the last, if there are fewer
ATTACKER = 3  # the last hospital, from 0
POISONER = f"hospital-{ATTACKER + 1}.trainer"
READY_TIMEOUT_S = 60.0  # four processes start in a few seconds; a slow disk may need more
POLL_S = 0.2
OK = 200  # HTTP
HTTP_TIMEOUT = aiohttp.ClientTimeout(total=10)

Tell = Callable[[str], None]
T = TypeVar("T")


def http_urls(layout: Layout) -> tuple[str, ...]:
    """The validators' HTTP APIs, as the auditor's configuration has them."""
    return config.load(config.ClientConfig, layout.auditor, {}).client.validators


def write_network(directory: Path, base_port: int) -> Layout:
    """Write the testnet and give each hospital its clinic's rows."""
    layout = write_testnet(
        directory, now=datetime.now(UTC), base_port=base_port, tasks=(TASK,), opening=True
    )
    for hospital, clinic in zip(layout.hospitals, CLINICS, strict=True):
        (layout.home(hospital, "peer") / "rows.csv").write_text(csv_of(clinic))
    return layout


def start_validators(layout: Layout, processes: Processes) -> None:
    """One process for each validator."""
    for hospital in layout.hospitals:
        home = layout.home(hospital, "validator")
        processes.start(f"{hospital}.validator", (*CONCILIUM, "run", str(home)), home / "log")


def start_peers(layout: Layout, processes: Processes, poisoned_round: int) -> None:
    """One process for each hospital's training peer; one of them is dishonest in one round."""
    for place, hospital in enumerate(layout.hospitals):
        home = layout.home(hospital, "peer")
        command: Sequence[str] = (*CONCILIUM, "peer", "run", str(home))
        if place == ATTACKER:
            attacker = ("-m", "node.demo.attacker", str(home), str(poisoned_round))
            command = (*CONCILIUM[:2], *attacker)
        processes.start(f"{hospital}.peer", command, home / "log")


def auditor(layout: Layout) -> Credentials:
    """The auditor, who reads."""
    settings = config.load(config.ClientConfig, layout.auditor, {})
    return credentials_of(settings.member, settings.tls)


async def await_ready(urls: Sequence[str]) -> None:
    """Wait until every validator says that it is ready."""
    async with aiohttp.ClientSession(timeout=HTTP_TIMEOUT) as session:

        async def ready(url: str) -> None:
            async with session.get(f"{url}/readyz") as response:
                if response.status != OK:
                    raise Refused("demo.ready", f"expected {url} ready, found {response.status}")

        async with asyncio.timeout(READY_TIMEOUT_S):
            for url in urls:
                await _until(partial(ready, url))


async def register_datasets(layout: Layout, tell: Tell) -> None:
    """Each steward registers its hospital's dataset, with a command of its own."""
    columns = layout.directory / "preprocessing.json"
    _write_json(columns, PREPROCESSING)

    async def register(hospital: str, clinic: str) -> None:
        peer, (title, region) = layout.home(hospital, "peer"), CLINICS[clinic]
        conditions = [item for code in CONDITIONS for item in ("--condition", code)]
        await concilium(
            *("dataset", "register", str(layout.home(hospital, "steward"))),
            *("--id", f"{hospital}.dataset", "--title", title, "--region", region),
            *("--data", str(peer / "rows.csv"), "--secret", str(peer / "keys/rows.secret")),
            *("--preprocessing", str(columns), "--opening", *conditions),
        )
        tell(f"{hospital} registered its dataset ({title})")

    pairs = list(zip(layout.hospitals, CLINICS, strict=True))
    for half in (pairs[:2], pairs[2:]):  # two at a time: two cores
        await asyncio.gather(*(register(*pair) for pair in half))


async def open_task(layout: Layout, client: Client, rounds: int) -> None:
    """The first hospital's steward registers the model and opens the task."""
    sites = [await _site(client, hospital) for hospital in layout.hospitals]
    folder = layout.directory
    _write_json(folder / "terms.json", terms(MODEL, sites, rounds))
    _write_json(folder / "spec.json", SPEC)
    weights = initial(SPEC, GRID_BITS, secrets.randbits(32))
    (folder / WEIGHTS_FILE).write_bytes(pack_weights(SPEC, GRID_BITS, weights))
    await concilium(
        *("task", "open", str(layout.home(layout.hospitals[0], "steward"))),
        *(str(folder / "terms.json"), "--id", TASK, "--grid-bits", str(GRID_BITS)),
        *("--weights", str(folder / WEIGHTS_FILE), "--spec", str(folder / "spec.json")),
    )


async def _site(client: Client, hospital: str) -> Site:
    dataset = await client.record(Dataset, f"{hospital}.dataset")
    if dataset is None:
        raise Refused("demo.dataset", f"expected {hospital}.dataset on the chain, found none")
    return Site(
        organisation=hospital,
        trainer=f"{hospital}.trainer",
        verifier=f"{hospital}.verifier",
        dataset=dataset.id,
        weight=weight(dataset.rows),
    )


async def follow_rounds(
    client: Client, on_round: Callable[[Round], None], failed: asyncio.Event
) -> tuple[Task, tuple[Round, ...]]:
    """Wait for the task to complete; each round is handed on when it has ended."""
    ended: list[Round] = []
    while not failed.is_set():
        task = await client.record(Task, TASK)
        number = len(ended) + 1
        if task is not None and number <= task.round:
            rnd = await client.record(Round, TASK, number)
            if rnd is not None and rnd.phase in (RoundPhase.CLOSED, RoundPhase.FAILED):
                ended.append(rnd)
                on_round(rnd)
                continue
        elif task is not None and task.phase is not TaskPhase.OPEN:
            if task.phase is TaskPhase.FAILED:
                raise Refused("demo.task", f"expected {TASK} to complete, found {ended[-1].reason}")
            return task, tuple(ended)
        await asyncio.sleep(POLL_S)
    raise Refused("demo.process", "expected every process to stay up, found one that does not")


async def audit(layout: Layout) -> dict[str, Any]:
    """The auditor's command, over HTTP, with the genesis document alone."""
    output = await concilium(
        *("audit", "verify", "--home", str(layout.auditor)),
        *("--model", MODEL, "--format", "json"),
    )
    found: dict[str, Any] = json.loads(output)
    return found


async def compare_validators(layout: Layout, urls: Sequence[str]) -> list[dict[str, Any]]:
    """Every validator's proven state root at one height, which all of them come to certify."""
    genesis, reader = read_genesis(layout.genesis), auditor(layout)
    async with (
        asyncio.timeout(READY_TIMEOUT_S),
        Client(genesis, urls, reader) as any_of_them,
    ):
        height = (await any_of_them.header()).height
        found = []
        for url in urls:
            async with Client(genesis, [url], reader) as client:
                name = (await _until(client.status)).name
                header = await _until(partial(client.header_at, height))
            found.append({"name": name, "height": height, "state_root": header.state.hex()})
    return found


async def _until(ask: Callable[[], Awaitable[T]]) -> T:
    """What `ask` gives, tried again while it is refused: a validator may be catching up."""
    while True:
        try:
            return await ask()
        except (Refused, aiohttp.ClientError):
            await asyncio.sleep(POLL_S)


async def count_transactions(client: Client) -> int:
    """Transactions that the chain has executed."""
    count, cursor = 0, ""
    while True:
        path = f"/v1/blocks?limit={LIMIT_MAX}" + (f"&cursor={cursor}" if cursor else "")
        page = await client.ask(path, lambda reply: reply.read(BlockPage))
        count += sum(block.transactions for block in page.items)
        if page.next is None:
            return count
        cursor = page.next


def _write_json(path: Path, record: object) -> None:
    path.write_text(json.dumps(dump(record), indent=2) + "\n")

"""What an auditor waits for: a case file of a long lineage, its verification, and one record's."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from node.audit.prove import newest, prove_key
from node.case.archive import make_case, verify_case
from node.case.collect import collect
from node.case.contents import Auditor
from node.case.proofs import Proofs
from node.case.story import tell
from node.client.client import Client
from tests.bench.story import long_story
from tests.harness import key_of, organisation
from tests.node.network import MODEL, TASK, Network
from tests.node.serving import serve
from vm.inclusion import RecordProof, verify_record
from vm.learning import Update
from vm.shape import pack, unpack
from vm.state import state_key
from vm.trust import Trust, from_genesis

T = TypeVar("T")

AUDITOR = "hospital-1.steward"
PROOFS = 200  # records verified one by one
REPEATS = 3  # of what takes a second; the median counts


@dataclass(frozen=True, slots=True)
class Auditing:
    """Seconds of a case file's parts, milliseconds of a record proof, and sizes in bytes.

    `load` is the machine's before, over a minute: of other work too.
    """

    rounds: int
    hospitals: int
    cores: int
    load: float
    records: int
    report_s: float
    fetch_s: float
    tell_s: float
    make_s: float
    verify_s: float
    case_bytes: int
    record_ms: float
    record_ms_max: float


def measure(folder: Path, hospitals: int, rounds: int) -> Auditing:
    """Build a lineage in a store of `folder`, and time what an auditor does with it.

    Fetching goes over HTTP to a node of this process, on the loopback interface.
    """
    load = os.getloadavg()[0]
    with long_story(folder, hospitals, rounds) as network:
        (trust, proofs), fetch_s = _timed(lambda: asyncio.run(_fetch(network)))
        auditor = Auditor(AUDITOR, key_of(AUDITOR).public)
        (case, _), tell_s = _timed(partial(tell, trust, proofs, auditor))
        data, make_s = _timed(partial(make_case, trust, case, proofs, key_of(AUDITOR)))
        _, verify_s = _timed(partial(verify_case, from_genesis(network.genesis), data))
        each_ms = [
            _record_ms(network, trust, 1 + place % rounds, organisation(1 + place % hospitals))
            for place in range(PROOFS)
        ]
    count = len(proofs.lineage.records) + sum(len(proof.records) for proof in proofs.beside)
    return Auditing(
        rounds=rounds,
        hospitals=hospitals,
        cores=os.cpu_count() or 1,
        load=load,
        records=count,
        report_s=fetch_s + tell_s + make_s,
        fetch_s=fetch_s,
        tell_s=tell_s,
        make_s=make_s,
        verify_s=verify_s,
        case_bytes=len(data),
        record_ms=median(each_ms),
        record_ms_max=max(each_ms),
    )


async def _fetch(network: Network) -> tuple[Trust, Proofs]:
    async with serve(network) as (url, _), Client(network.genesis, [url]) as client:
        proofs = await collect(client, MODEL, auditor=AUDITOR)
        return Trust(client.chain, client.proven.epochs, None), proofs


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """What `work` gives, and the median of its seconds."""
    taken_s = []
    for _ in range(REPEATS):
        begin_s = time.perf_counter()
        found = work()
        taken_s.append(time.perf_counter() - begin_s)
    return found, median(taken_s)


def _record_ms(network: Network, trust: Trust, number: int, name: str) -> float:
    """From the bytes of a record's proof to the word that they hold, certificate and all."""
    key = state_key(Update.KIND, (TASK, number, name))
    data = pack(prove_key(network.chain, newest(network.chain), key))
    begin_s = time.perf_counter()
    verify_record(unpack(RecordProof, data), trust.chain, trust.epochs)
    return 1_000 * (time.perf_counter() - begin_s)


def table(found: Auditing) -> str:
    """The figures for people, as Markdown."""
    rows = (
        ("report, s", f"{found.report_s:.1f}"),
        ("of that: fetched over HTTP and verified", f"{found.fetch_s:.1f}"),
        ("told: proofs and rules checked again", f"{found.tell_s:.1f}"),
        ("made: page, PROV, summary, archive", f"{found.make_s:.1f}"),
        ("`audit verify` of the file, s", f"{found.verify_s:.1f}"),
        ("the file, MB", f"{found.case_bytes / 1e6:.1f}"),
        ("one record's proof, ms (median)", f"{found.record_ms:.2f}"),
        ("one record's proof, ms (slowest)", f"{found.record_ms_max:.2f}"),
    )
    lines = "".join(f"| {name} | {value} |\n" for name, value in rows)
    return (
        f"{found.rounds} rounds of {found.hospitals} hospitals, {found.records} records, "
        f"{found.cores} cores, load {found.load:.1f} before:\n\n| | |\n| --- | ---: |\n{lines}"
    )


def document(found: Auditing) -> dict[str, Any]:
    """The figures for programs."""
    return asdict(found)

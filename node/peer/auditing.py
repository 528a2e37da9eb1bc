"""An audit at the hospital: a trace is answered with rows that never leave.

The auditor reads the chain by its own client, and everything else is the hospital's: its rows, its
trace, this machine and this software. So an attestation trusts the machine. What is not there, or
is not what the chain commits to, is unavailable; what contradicts itself has failed.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fl.opening import check_part
from fl.replay import Claim, check_batches, replay
from fl.trace import Broken, origin, root
from fl.train import Snapshot
from fl.weights import pack_update, unpack_weights
from node.client.client import Client
from node.peer.bases import Bases
from node.peer.opening import Exhibit, exhibit_of
from node.peer.site import LocalData
from node.peer.stage import Stage
from node.peer.traces import Trace, TraceStore
from node.wire.cid import address
from vm.conduct import AuditOutcome
from vm.digest import BATCHES, digest
from vm.encoding import encode
from vm.learning import OwnLoop, Round, Task, Update
from vm.record import Dataset, Model
from vm.refusal import Refused
from vm.shape import NOTE_BYTES_MAX
from vm.state import Record
from vm.terms import Evidence, Preprocessing

R = TypeVar("R", bound=Record)
OnSegment = Callable[[int, int], None]  # segments replayed, of how many


@dataclass(frozen=True, slots=True)
class Finding:
    """What an audit came to, for its attestation; `segments` were replayed."""

    outcome: AuditOutcome
    code: str
    reason: str
    segments: int


@dataclass(frozen=True, slots=True)
class Audited:
    """An update that can be audited, and what the chain says of it."""

    stage: Stage
    update: Update
    dataset: Dataset


async def find_audited(client: Client, task: str, number: int, organisation: str) -> Audited:
    """The update and its round; raises `Refused("audit.missing" | "audit.evidence")`."""
    found = await _require(client, Task, task)
    rnd = await _require(client, Round, task, number)
    update = await _require(client, Update, task, number, organisation)
    base = await _require(client, Model, found.terms.model, rnd.base_version)
    dataset = await _require(client, Dataset, update.dataset)
    if update.evidence is Evidence.SCORED:
        raise Refused("audit.evidence", "expected an update with a trace, found a scored one")
    return Audited(Stage(found, rnd, base), update, dataset)


async def _require(client: Client, cls: type[R], *key: str | int) -> R:
    found = await client.record(cls, *key)
    if found is None:
        raise Refused(
            "audit.missing",
            f"expected {cls.KIND} {' '.join(map(str, key))} on the chain, found none",
        )
    return found


async def audit(
    audited: Audited,
    bases: Bases,
    traces: TraceStore,
    load: Callable[[Preprocessing], LocalData],
    segments: Sequence[int],
    on_segment: OnSegment | None = None,
) -> Finding:
    """Replay these segments, rising, from what this hospital keeps; nothing leaves it."""
    update = audited.update
    trace = await asyncio.to_thread(traces.find, update.task, update.round)
    if trace is None:
        return _unavailable("audit.no_trace", "expected the committed trace here, found none")
    try:
        return await _audit(audited, trace, bases, load, segments, on_segment)
    except FileNotFoundError:
        if await asyncio.to_thread(traces.find, update.task, update.round) is not None:
            raise  # what is said of a trace that is there would be for good
        return _unavailable("audit.no_trace", "expected the trace to stay, found that it went")


async def _audit(
    audited: Audited,
    trace: Trace,
    bases: Bases,
    load: Callable[[Preprocessing], LocalData],
    segments: Sequence[int],
    on_segment: OnSegment | None,
) -> Finding:
    """As `audit`, of a trace that was there; raises `FileNotFoundError` once it goes."""
    stage, update = audited.stage, audited.update
    if root(origin(update), trace.segments()) != update.trace:
        return _unavailable("audit.no_trace", "expected the committed trace here, found another")
    if update.loop is not None:
        return _own_loop(update.loop, trace)
    base = unpack_weights(stage.base.spec, stage.base.grid_bits, await bases.fetch(stage.base))
    try:
        data = await asyncio.to_thread(load, stage.task.terms.preprocessing)
        exhibit = await asyncio.to_thread(exhibit_of, stage, update, trace, base, data)
        check_part(exhibit.part, audited.dataset.root, update.data)
    except Refused as refused:
        return _unavailable("audit.no_rows", refused.message)
    return await asyncio.to_thread(inspect, exhibit, segments, on_segment)


def _own_loop(loop: OwnLoop, trace: Trace) -> Finding:
    """Nobody can replay it; what can be told is whether the trace is of the script on the chain."""
    for index, segment in enumerate(trace.segments()):
        if segment.batches != digest(BATCHES, encode((loop.script, loop.environment, index))):
            return Finding(
                AuditOutcome.FAILED,
                "audit.own_loop",
                "expected segments of the script that the update names, found others",
                index + 1,
            )
    return _unavailable(
        "audit.own_loop", "expected a training by the task's recipe, found the site's own loop"
    )


def inspect(
    exhibit: Exhibit, segments: Sequence[int], on_segment: OnSegment | None = None
) -> Finding:
    """Replay these segments of an exhibit, rising, and hold its end against the update."""
    terms = exhibit.stage.task.terms
    claim = Claim(
        exhibit.job,
        terms.preprocessing,
        terms.replay,
        exhibit.base,
        exhibit.trace.segments(),
        exhibit.part,
    )
    done, last = 0, None
    try:
        check_batches(claim)
        for index in segments:
            done += 1
            before = exhibit.snapshot(index, last)
            last = exhibit.snapshot(index + 1, before)
            replay(claim, exhibit.opening(before, last))
            if on_segment is not None:
                on_segment(done, len(segments))
        _check_update(exhibit, last)
    except Broken as broken:
        return Finding(AuditOutcome.FAILED, broken.code, _note(broken.message), max(done, 1))
    except Refused as refused:
        if terms.replay.off_by_one_max or terms.replay.tolerance:
            return _unavailable("audit.no_snapshot", refused.message)
        return Finding(AuditOutcome.FAILED, "replay.result", _note(refused.message), max(done, 1))
    return Finding(
        AuditOutcome.PASSED,
        "audit.passed",
        f"{done} of {exhibit.update.segments} segments replayed",
        done,
    )


def _check_update(exhibit: Exhibit, last: Snapshot | None) -> None:
    """The trace ends in the update: its file, made again, has the address on the chain."""
    update, job = exhibit.update, exhibit.job
    final = exhibit.snapshot(update.segments, last)
    delta = final.weights - exhibit.base
    blob = pack_update(job.spec, job.grid_bits, origin(update), delta, final.segments)
    if address(blob) != update.blob:
        raise Broken(
            "audit.update", "expected a trace that ends in the update, found it end elsewhere"
        )


def _unavailable(code: str, reason: str) -> Finding:
    return Finding(AuditOutcome.UNAVAILABLE, code, _note(reason), 0)


def _note(message: str) -> str:
    """As much of a message as fits an attestation."""
    return "".join(letter for letter in message if " " <= letter <= "~")[:NOTE_BYTES_MAX]

"""Watching nodes: a round every some seconds, and a line for each thing that has changed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from node.api.times import tell_time
from node.light.conflict import Conflict, write_conflict, write_faults
from node.light.follow import Follower, Round, Seen
from node.light.history import History
from node.light.metrics import Metrics
from node.light.store import Store
from vm.refusal import Refused


@dataclass(frozen=True, slots=True)
class Line:
    """One change: a sentence for people, the same as fields for programs."""

    text: str
    data: dict[str, Any]


async def follow_once(follower: Follower, store: Store) -> tuple[Round, tuple[Line, ...]]:
    """One round, kept: evidence first, for it may not come again; the lines name its files."""
    held = follower.held
    found = await follower.round()
    forks = tuple(describe_fork(fork, _keep(fork, store, held)) for fork in found.conflicts)
    if found.held is not None:
        store.save(found.held)
    return found, forks


async def watch(
    follower: Follower,
    store: Store,
    metrics: Metrics,
    say: Callable[[Line], None],
    *,
    every_s: float,
    keep_going: bool,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Go round until cancelled; a fork raises `Refused("audit.conflict")` unless `keep_going`.

    `pause` waits for so many seconds between two rounds.
    """
    last: Round | None = None
    while True:
        found, forks = await follow_once(follower, store)
        metrics.observe(found)
        for line in (*changes(last, found), *forks):
            say(line)
        if forks and not keep_going:
            raise forked(forks)
        last = found
        await pause(every_s)


def forked(forks: Sequence[Line]) -> Refused:
    """What ends a command that has found a fork."""
    return Refused(
        "audit.conflict",
        f"expected one history, found {forks[0].text}. Do not rely on this chain until its members "
        "have explained it: send them the evidence",
    )


def changes(last: Round | None, found: Round) -> Iterator[Line]:
    """What a round shows that the one before did not."""
    before = {} if last is None else {seen.url: seen for seen in last.seen}
    for seen in found.seen:
        old = before.get(seen.url)
        if old is None or (old.state, old.code) != (seen.state, seen.code):
            yield _describe_node(seen)
    old_held = None if last is None else last.held
    if found.held is None or found.held.newest is None:
        return
    if old_held is None or len(old_held.steps) != len(found.held.steps):
        yield _describe_epoch(found.held)
    if old_held is None or old_held.newest != found.held.newest:
        yield _describe_checkpoint(found.held)


def _describe_node(seen: Seen) -> Line:
    height = None if seen.certified is None else seen.certified.header.height
    text = f"{seen.url} {seen.state}"
    if height is not None:
        text += f" at height {height}"
    if seen.code:
        text += f": {seen.code}: {seen.message}"
    data = {
        "change": "node",
        "url": seen.url,
        "state": seen.state.value,
        "height": height,
        "code": seen.code,
        "message": seen.message,
    }
    return Line(text, data)


def _describe_epoch(held: History) -> Line:
    epoch = held.trust.epochs[-1]
    names = [seat.id for seat in epoch.validators.validators]
    text = f"epoch {epoch.number} from height {epoch.first} on: {', '.join(names)}"
    data = {
        "change": "epoch",
        "epoch": epoch.number,
        "first": epoch.first,
        "protocol": epoch.protocol,
        "validators": names,
    }
    return Line(text, data)


def _describe_checkpoint(held: History) -> Line:
    assert held.newest is not None, "the caller found one"
    header = held.newest.header
    text = f"height {header.height}, {tell_time(header.time_ms)}, state {header.state.hex()[:16]}"
    data = {
        "change": "checkpoint",
        "height": header.height,
        "header": header.digest.hex(),
        "state": header.state.hex(),
        "time_ms": header.time_ms,
    }
    return Line(text, data)


def _keep(conflict: Conflict, store: Store, held: History | None) -> str:
    """Write the evidence; where it is, or why it is not. `held` is what was, before the fork."""
    note = partial(store.note, ruling=conflict.is_by(held))
    path = note(f"{conflict.name}.json", write_conflict(conflict))  # first, if room is short
    for name, data in write_faults(conflict):
        note(name, data)
    return "nowhere: the folder of evidence is full" if path is None else str(path)


def describe_fork(conflict: Conflict, kept: str) -> Line:
    """A fork, and where its evidence is."""
    signers = conflict.signers()
    text = (
        f"a fork at height {conflict.height}, both sides signed by "
        f"{', '.join(signers) or 'nobody with the same key'}; evidence: {kept}"
    )
    data = {
        "change": "conflict",
        "height": conflict.height,
        "signers": list(signers),
        "evidence": kept,
    }
    return Line(text, data)

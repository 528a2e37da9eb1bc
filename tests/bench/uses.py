"""How many uses of a model can be recorded: `python -m tests.bench.uses [USES]`.

Four validators on this machine; one steward keeps uses one by one and as a list, and sends them.
"""

import asyncio
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node.usage.entry import read_entries
from node.usage.journal import Journal
from node.usage.sender import Sender
from node.usage.show import prove_uses
from tests.fl.dialogue import MODEL, model
from tests.network.running import Running
from vm.opened import verify_uses
from vm.shape import pack

SINGLE = 500  # uses that are kept one by one, each on disk before the next


def measure(net: Running, count: int) -> dict[str, Any]:
    """Uses per second that are kept and recorded, and what showing them takes."""
    with Journal(net.home(2, "steward") / "usage") as journal:
        single_s = _timed(lambda: _keep(journal))
        rows = "".join(f"{MODEL},0,care,{place % 9 + 1},list {place}\n" for place in range(count))
        lines = io.StringIO(f"model,version,purpose,count,note\n{rows}")
        listed_s = _timed(lambda: journal.add(read_entries(lines, "csv", _now_ms())))
        return {
            "uses": count,
            "kept_one_by_one_per_s": round(SINGLE / single_s),
            "kept_as_list_per_s": round(count / listed_s),
            **asyncio.run(_send(net, journal, count + SINGLE)),
        }


def _keep(journal: Journal) -> None:
    for _ in range(SINGLE):
        journal.record(MODEL, 0, "quality")


async def _send(net: Running, journal: Journal, count: int) -> dict[str, Any]:
    async with net.pen(2, "steward") as pen:
        begun_s = time.perf_counter()
        found = await Sender(pen, journal).send(_now_ms())
        sent_s = time.perf_counter() - begun_s
        assert all(sent.number for sent in found), found
        largest = max(found, key=lambda sent: sent.entries)
        assert largest.batch is not None
        one, every = [
            await prove_uses(pen.client, journal, pen.member, largest.batch, use)
            for use in (largest.entries // 2, None)
        ]
        trusted = pen.client.chain, pen.client.proven.epochs
        return {
            "recorded_per_s": round(count / sent_s),
            "transactions": len(found),
            "one_use_bytes": len(pack(one)),
            "one_use_verified_ms": round(1e3 * _timed(lambda: verify_uses(one, *trusted)), 2),
            "whole_batch_uses": largest.entries,
            "whole_batch_bytes": len(pack(every)),
            "whole_batch_verified_s": round(_timed(lambda: verify_uses(every, *trusted)), 2),
        }


def _timed(work: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _register(net: Running) -> None:
    _, kind, body = model()
    async with net.pen(1, "steward") as pen:
        await pen.submit(kind, body)


def main(count: int) -> None:
    """Start a network, measure, print JSON."""
    with tempfile.TemporaryDirectory() as folder:
        net = Running(Path(folder) / "net")
        try:
            net.start_all()
            asyncio.run(_register(net))
            sys.stdout.write(json.dumps(measure(net, count), indent=2) + "\n")
        finally:
            net.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)

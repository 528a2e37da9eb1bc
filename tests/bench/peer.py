"""A training peer that writes down what it costs, for the bench.

    python -m tests.bench.peer HOME FILE

It trains and verifies as `concilium peer run` does. Once it is told to stop it writes to FILE, as
JSON, when it handed in what, the bytes that its sockets had carried by then, and CPU seconds.
"""

import asyncio
import json
import os
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fl.train import train
from node.client.submitter import Submitter
from node.commands.network import until_signal
from node.home import config
from node.home.logs import configure_logs
from node.peer import replaying, verifier
from node.peer.assembly import run_peer
from tests.bench.figures import Event
from vm.block import Receipt

# What a verifier computes: scores, contributions, order of batches, replay of segments.
VERIFYING = (
    (verifier, "judge_all"),
    (verifier, "contributions"),
    (replaying, "check_batches"),
    (replaying, "_replay"),
)


class Meter:
    """What one process sent, received, computed and handed in."""

    def __init__(self) -> None:
        self.bytes: Counter[str] = Counter()
        self.cpu_s: defaultdict[str, float] = defaultdict(float)
        self.events: list[Event] = []

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, with the CPU time of its thread counted under `name`; torch has one thread."""

        def run(*args: Any, **named: Any) -> Any:
            begin = time.thread_time()
            try:
                return work(*args, **named)
            finally:
                self.cpu_s[name] += time.thread_time() - begin

        return run

    def count_sockets(self) -> None:
        """Count what TCP carries for this process, TLS and HTTP headers included.

        Not what wakes an event loop, which goes through a local socket too.
        """
        true = socket.socket
        take, take_into, give = true.recv, true.recv_into, true.send

        def count(name: str, end: socket.socket, size: int) -> None:
            if end.family != socket.AF_UNIX:
                self.bytes[name] += size

        def recv(end: socket.socket, *args: Any) -> bytes:
            found = take(end, *args)
            count("received", end, len(found))
            return found

        def recv_into(end: socket.socket, *args: Any) -> int:
            found = take_into(end, *args)
            count("received", end, found)
            return found

        def send(end: socket.socket, *args: Any) -> int:
            found = give(end, *args)
            count("sent", end, found)
            return found

        for method in (recv, recv_into, send):
            setattr(socket.socket, method.__name__, method)

    def note_submissions(self) -> None:
        """Note when each transaction was handed in and when its receipt was certified."""
        submit, carried, events = Submitter.submit, self.bytes, self.events

        async def noted(self: Submitter, kind: str, body: Any) -> Receipt:
            begin_s, sent, received = time.time(), carried["sent"], carried["received"]
            receipt = await submit(self, kind, body)
            blob = getattr(body, "blob_bytes", 0)
            event = Event(kind, body.round, begin_s, time.time(), sent, received, blob)
            events.append(event)
            return receipt

        Submitter.submit = noted  # type: ignore[method-assign]

    def write(self, path: Path) -> None:
        """What was counted, as `tests.bench.figures.Count`."""
        found = {
            "events": [asdict(event) for event in self.events],
            "train_s": self.cpu_s["train"],
            "verify_s": self.cpu_s["verify"],
            "process_s": time.process_time(),
        }
        path.write_text(json.dumps(found))


def main() -> None:
    """Arguments: the home, and the file to write."""
    home, path = Path(sys.argv[1]), Path(sys.argv[2])
    settings = config.load(config.PeerConfig, home, os.environ)
    configure_logs(settings.log.level, settings.log.format, member=settings.trainer.id)
    meter = Meter()
    meter.count_sockets()
    meter.note_submissions()
    for module, name in VERIFYING:
        setattr(module, name, meter.timed("verify", getattr(module, name)))
    try:
        asyncio.run(until_signal(run_peer(settings, train=meter.timed("train", train))))
    finally:
        meter.write(path)


if __name__ == "__main__":
    main()

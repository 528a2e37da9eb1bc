"""The clients as processes, and what they are told of the chain while they send."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.network.running import ENVIRONMENT

ANSWER_BYTES_MAX = 8 * 1024 * 1024  # of a line: a run's latencies


class Crew:
    """So many clients, each with some stewards' keys; use it as an asynchronous context manager."""

    def __init__(self, homes: Sequence[Path], urls: Sequence[str], size: int) -> None:
        self.size = size
        self._parts = [homes[place::size] for place in range(size)]
        self._urls = urls
        self._clients: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        for homes in self._parts:
            client = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "tests.bench.ledger.client"),
                *(",".join(map(str, homes)), ",".join(self._urls)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=ANSWER_BYTES_MAX,
                env=ENVIRONMENT,
            )
            self._clients.append(client)
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            if client.returncode is None:
                client.kill()
            await client.wait()

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [client.pid for client in self._clients]

    async def order(self, do: str, **order: object) -> list[dict[str, Any]]:
        """Give all of them an order, and gather what they answer."""
        self._tell({"do": do, **order})
        return await asyncio.gather(*(_answer(client) for client in self._clients))

    async def order_each(self, do: str, orders: Sequence[dict[str, Any]]) -> None:
        """Give each of them one of its own."""
        for client, order in zip(self._clients, orders, strict=True):
            _write(client, {"do": do, **order})
        await asyncio.gather(*(_answer(client) for client in self._clients))

    def tell(self, height: int, room: int) -> None:
        """How high the chain is, and how much more it has room for, of which each has its part."""
        self._tell({"do": "room", "height": height, "room": room // self.size})

    def _tell(self, order: dict[str, Any]) -> None:
        for client in self._clients:
            _write(client, order)


def _write(client: asyncio.subprocess.Process, order: dict[str, Any]) -> None:
    assert client.stdin is not None
    client.stdin.write(json.dumps(order).encode() + b"\n")


async def _answer(client: asyncio.subprocess.Process) -> dict[str, Any]:
    assert client.stdout is not None
    line = await client.stdout.readline()
    assert line, "a client has ended"
    found: dict[str, Any] = json.loads(line)
    return found

"""A client: a process of its own that signs beforehand, sends over HTTP and waits for receipts.

It takes orders, and what it is told of the chain, as lines of JSON on standard input, and answers
each order but `room` with one line.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from node.api.admission import ADMITTED
from node.client.client import Client
from node.client.credentials import credentials_of
from node.client.reply import Reply, read_admissions
from node.home import config
from node.home.genesis import read_genesis
from node.home.keyfile import read_key
from tests.bench.ledger.purse import Purse, Sender
from vm.encoding import encode
from vm.refusal import Refused
from vm.shape import unpack
from vm.transaction import Transaction

FULL = {"mempool.full", "mempool.sender_quota", "transaction.lifetime"}  # another try may end these
PAUSE_S = 0.1  # before a node that had no room is asked again
BUSY_S = 1.0  # before one that takes no more requests is, which is what it asks for
UNSEEN_S = 1.0  # until what was sent shows in every validator's pool, and is told of
LINE_BYTES_MAX = 64 * 1024  # of an order


@dataclass(slots=True)
class Tally:
    """What became of what was sent in one run; `latency_ms` of those that were followed."""

    requests: int = 0
    admitted: int = 0
    returned: int = 0  # for a node had no room, and sent again
    lost: int = 0  # the connection broke: nobody knows
    refused: Counter[str] = field(default_factory=Counter)  # by code; none of these is sent again
    late: int = 0  # signed when they were sent
    latency_ms: list[float] = field(default_factory=list)


class Worker:
    """One client's run: of all orders, one after the other."""

    def __init__(self, homes: Sequence[Path], urls: Sequence[str]) -> None:
        offices = [config.load(config.OfficeConfig, home, {}) for home in homes]
        self._genesis = read_genesis(offices[0].chain.genesis)
        senders = [Sender(one.member.id, read_key(one.member.key)) for one in offices]
        self._reader = credentials_of(offices[0].member, offices[0].tls)
        self._urls = urls
        self._purse = Purse(self._genesis.chain, senders)
        self._height = self._room = 0
        self._sent: deque[tuple[float, int]] = deque()  # lately: when, how many
        self._told = asyncio.Event()
        self._over = False
        self._tally = Tally()

    async def obey(self, orders: asyncio.StreamReader) -> None:
        """Until there are no more."""
        work: asyncio.Task[None] | None = None
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            while line := await orders.readline():
                order = json.loads(line)
                match order.pop("do"):
                    case "room":
                        self._hear(**order)
                    case "sign":
                        _answer({"bytes": self._purse.fill(**order)})
                    case "load":
                        self._begin()
                        work = asyncio.create_task(self._load(session, **order))
                        _answer({})
                    case "arrive":
                        self._begin()
                        work = asyncio.create_task(self._arrive(session, **order))
                        _answer({})
                    case "stop":
                        self._over = True
                        self._told.set()
                        assert work is not None, "something was begun"
                        await work
                        self._tally.late = self._purse.late
                        _answer(asdict(self._tally))

    def _hear(self, height: int, room: int) -> None:
        """What was sent lately may wait where nobody has looked since."""
        now_s = time.perf_counter()
        while self._sent and self._sent[0][0] < now_s - UNSEEN_S:
            self._sent.popleft()
        self._height, self._room = height, room - sum(count for _, count in self._sent)
        self._told.set()

    def _begin(self) -> None:
        self._over, self._tally, self._purse.late = False, Tally(), 0

    # As much as the network takes

    async def _load(self, session: aiohttp.ClientSession, batch: int, connections: int) -> None:
        """Over so many connections to each validator, requests of `batch`, while there is room."""
        urls = [url for url in self._urls for _ in range(connections)]
        await asyncio.gather(*(self._pour(session, url, batch) for url in urls))

    async def _pour(self, session: aiohttp.ClientSession, url: str, batch: int) -> None:
        while not self._over:
            if self._room < batch:
                self._told.clear()
                await self._told.wait()
                continue
            self._room -= batch
            self._sent.append((time.perf_counter(), batch))
            pause_s = await self._send(session, url, self._purse.take(batch, self._height))
            await asyncio.sleep(pause_s)

    async def _send(self, session: aiohttp.ClientSession, url: str, packed: list[bytes]) -> float:
        """Hand in, count, and give back what the node had no room for; how long to pause."""
        tally = self._tally
        tally.requests += 1
        try:
            async with session.post(
                f"{url}/v1/transactions",
                data=encode(tuple(packed)),
                headers={"Content-Type": "application/msgpack"},
            ) as response:
                reply = Reply(url, response.status, await response.read())
                admissions = read_admissions(reply)
        except Refused as refused:
            if refused.code == "api.busy":
                self._give_back(packed)
                return BUSY_S
            tally.refused[refused.code] += len(packed)
            return PAUSE_S
        except (aiohttp.ClientError, OSError, TimeoutError):
            tally.lost += len(packed)
            return BUSY_S
        codes = [admission.code for admission in admissions]
        full = [data for data, code in zip(packed, codes, strict=True) if code in FULL]
        tally.admitted += codes.count(ADMITTED)
        tally.refused.update(code for code in codes if code not in FULL and code != ADMITTED)
        self._give_back(full)
        return PAUSE_S if full else 0.0

    def _give_back(self, packed: list[bytes]) -> None:
        self._tally.returned += len(packed)
        self._purse.give_back(packed)

    # As much as was asked for

    async def _arrive(
        self,
        session: aiohttp.ClientSession,
        seed: int,
        seconds: float,
        requests_per_s: float,
        batch: float,
        followed: float,
    ) -> None:
        """Requests at random times that nothing here delays; one wait is one sample.

        A request has `batch` transactions on average. Of a share `followed` of all requests the
        first transaction is sent by the software's own client, and its receipt waited for.
        """
        chance = random.Random(seed)
        clients = [
            Client(self._genesis, _from(self._urls, place), self._reader)
            for place in range(len(self._urls))
        ]
        for client in clients:
            await client.__aenter__()
        try:
            async with asyncio.TaskGroup() as group:
                begun_s = time.perf_counter()
                due_s, place = chance.expovariate(requests_per_s), 0
                while due_s < seconds and not self._over:
                    await asyncio.sleep(max(0.0, begun_s + due_s - time.perf_counter()))
                    count = int(batch + chance.random())
                    client, url = clients[place % len(clients)], self._urls[place % len(clients)]
                    if chance.random() < followed:
                        group.create_task(self._follow(client, begun_s + due_s))
                        count -= 1
                    if count > 0:
                        packed = self._purse.take(count, self._height)
                        group.create_task(self._send(session, url, packed))
                    due_s += chance.expovariate(requests_per_s)
                    place += 1
        finally:
            for client in clients:
                await client.__aexit__()

    async def _follow(self, client: Client, due_s: float) -> None:
        (packed,) = self._purse.take(1, self._height)
        self._tally.requests += 1
        try:
            await client.submit_and_wait(unpack(Transaction, packed))
        except Refused as refused:
            self._tally.refused[refused.code] += 1
            return
        self._tally.admitted += 1
        self._tally.latency_ms.append(1_000 * (time.perf_counter() - due_s))


def _from(urls: Sequence[str], place: int) -> list[str]:
    return [*urls[place:], *urls[:place]]


def _answer(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def main(homes: Sequence[str], urls: Sequence[str]) -> None:
    """Obey standard input."""
    orders = asyncio.StreamReader(LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    await Worker([Path(home) for home in homes], urls).obey(orders)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1].split(","), sys.argv[2].split(",")))

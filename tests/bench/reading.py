"""How long a page of blocks takes while the chain runs: four validators as real processes."""

import asyncio
import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp
from multidict import CIMultiDict

from node.api.admission import SUBMIT_MAX
from node.api.resource import TOKENS_PATH
from node.demo.job import auditor
from node.home import config
from node.home.keyfile import read_key
from node.readers.signature import Message
from node.readers.signature import sign as sign_request
from tests.network.running import DEADLINE_S, HOSPITALS, POLL_S, Running, newcomer
from vm.encoding import encode
from vm.keys import SigningKey
from vm.shape import pack
from vm.transaction import NONCE_BYTES, TX_LIFETIME_BLOCKS_MAX, sign

PAGE = "/v1/blocks?limit=100"
BLOCKS = 100  # that a page shows
CONNECTIONS = 50  # each asks once a second, one after the other
SHARE = 0.1  # of the load limit, while pages are read
LIMIT_S = 10.0  # for which the limit is sought
BURST = 5 * SUBMIT_MAX  # transactions under way at a time while it is sought


@dataclass(frozen=True, slots=True)
class Reading:
    """What readers waited, in milliseconds, and how busy chain and machine were.

    `limit` and `load` are transactions certified in a second, at most and while pages were read.
    """

    cores: int
    busy: float  # runnable processes in the minute before: above 0, others disturbed
    limit: float
    load: float
    connections: int
    requests: int
    failed: int
    page_bytes: int
    median_ms: float
    p99_ms: float
    worst_ms: float


def document(found: Reading) -> dict[str, Any]:
    """The figures, for JSON."""
    return asdict(found)


def markdown(found: Reading) -> str:
    """The table."""
    return "\n".join(
        (
            f"{found.connections} connections with a request a second each, {found.requests} "
            f"requests, {found.failed} failed, pages of {BLOCKS} blocks with {found.page_bytes} "
            f"bytes, {found.cores} cores, load {found.busy:.1f} before:",
            "",
            "| certified at most, transactions/s | while read | median, ms | 99 of 100 | worst |",
            "| ---: | ---: | ---: | ---: | ---: |",
            f"| {found.limit:.0f} | {found.load:.1f} | {found.median_ms:.1f} "
            f"| {found.p99_ms:.1f} | {found.worst_ms:.1f} |",
            "",
        )
    )


def summarize(
    busy: float, limit: float, load: float, connections: int, answers: Sequence[tuple[float, int]]
) -> Reading:
    """The figures of answers, each its seconds and bytes (0: failed)."""
    waits_ms = [seconds * 1_000 for seconds, size in answers if size]
    return Reading(
        cores=os.cpu_count() or 1,
        busy=busy,
        limit=limit,
        load=load,
        connections=connections,
        requests=len(answers),
        failed=len(answers) - len(waits_ms),
        page_bytes=max(size for _, size in answers),
        median_ms=median(waits_ms),
        p99_ms=quantiles(waits_ms, n=100)[98],
        worst_ms=max(waits_ms),
    )


def measure(folder: Path, seconds: int) -> Reading:
    """Seek the limit of a new network, then read pages for so long at a tenth of it."""
    busy = os.getloadavg()[0]
    net = Running(folder / "net")
    try:
        net.start_all()
        return asyncio.run(_Bench(net).run(busy, seconds))
    finally:
        net.close()


class _Bench:
    """A network, the admins who load it, and the readers of its first validator."""

    def __init__(self, net: Running) -> None:
        self._net = net
        self._url = net.urls[0]
        self._keys = [_admin(net, number) for number in net.numbers]
        self._serial = 0
        self._counted = self._counted_height = 0
        self._headers: dict[str, str] = {}  # the token of the auditor, who reads

    async def run(self, busy: float, seconds: int) -> Reading:
        await self._introduce()
        async with aiohttp.ClientSession(headers=self._headers) as session:
            limit = await self._seek(session)
            pace = limit * SHARE
            loading = asyncio.create_task(self._load(session, pace))
            try:
                await self._await_height(session, BLOCKS)
                first, begin_s = await self._executed(session), time.monotonic()
                readers = (self._read(place, seconds) for place in range(CONNECTIONS))
                answers = [item for found in await asyncio.gather(*readers) for item in found]
                done, end_s = await self._executed(session), time.monotonic()
            finally:
                loading.cancel()
        load = (done - first) / (end_s - begin_s)
        return summarize(busy, limit, load, CONNECTIONS, answers)

    async def _introduce(self) -> None:
        reader = auditor(self._net.layout)
        headers = CIMultiDict[str]()
        message = Message("POST", self._url + TOKENS_PATH, headers)
        made = secrets.token_urlsafe(2 * NONCE_BYTES)
        sign_request(reader.key, reader.member, message, int(time.time()), made)
        async with (
            aiohttp.ClientSession() as session,
            session.post(self._url + TOKENS_PATH, headers=headers) as response,
        ):
            found = await response.json()
            assert response.status == 201, found
        token = found["token"]
        self._headers["Authorization"] = f"Bearer {token}"

    async def _seek(self, session: aiohttp.ClientSession) -> float:
        """Transactions certified in a second while `BURST` are always under way."""
        sent, begin_s = 0, time.monotonic()
        while time.monotonic() < begin_s + LIMIT_S:
            while sent - await self._executed(session) < BURST:
                await self._submit(session, SUBMIT_MAX)
                sent += SUBMIT_MAX
            await asyncio.sleep(POLL_S)
        found = await self._executed(session) / (time.monotonic() - begin_s)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                if await self._executed(session) == sent:
                    return found
                await asyncio.sleep(POLL_S)

    async def _load(self, session: aiohttp.ClientSession, pace: float) -> None:
        """Submit so many transactions a second, ten times a second."""
        begin_s, sent = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - begin_s) * pace) - sent
            if due:
                await self._submit(session, min(due, SUBMIT_MAX))
                sent += min(due, SUBMIT_MAX)
            await asyncio.sleep(POLL_S)

    async def _submit(self, session: aiohttp.ClientSession, count: int) -> None:
        """Enrolments by the admins in turn, to the validators in turn."""
        height = await self._height(session)
        packed = tuple(self._transaction(height) for _ in range(count))
        url = self._net.urls[self._serial % len(self._net.urls)]
        async with session.post(
            f"{url}/v1/transactions",
            data=encode(packed),
            headers={"Content-Type": "application/msgpack"},
        ) as response:
            assert response.status == 202, await response.text()

    def _transaction(self, height: int) -> bytes:
        self._serial += 1
        place = self._serial % len(self._keys)
        body = newcomer(f"trainer-{self._serial}")
        made = sign(
            self._keys[place],
            chain=self._net.genesis.chain,
            kind="member.enrol",
            sender=f"{HOSPITALS[place]}.admin",
            body=body,
            valid_until_height=height + TX_LIFETIME_BLOCKS_MAX // 2,
            nonce=secrets.token_bytes(NONCE_BYTES),
        )
        return pack(made)

    async def _height(self, session: aiohttp.ClientSession) -> int:
        async with session.get(f"{self._url}/v1/status") as response:
            height: int = (await response.json())["certified_height"]
            return height

    async def _await_height(self, session: aiohttp.ClientSession, height: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                if await self._height(session) >= height:
                    return
                await asyncio.sleep(POLL_S)

    async def _executed(self, session: aiohttp.ClientSession) -> int:
        """Transactions certified so far: those of the blocks since the last look are added."""
        path = f"{self._url}/v1/blocks?format=ndjson&since={self._counted_height + 1}"
        async with session.get(path) as response:
            lines = (await response.text()).splitlines() if response.status == 200 else []
        blocks = [json.loads(line) for line in lines]  # none before the first is certified
        self._counted += sum(block["transactions"] for block in blocks)
        self._counted_height += len(blocks)
        return self._counted

    async def _read(self, place: int, seconds: int) -> list[tuple[float, int]]:
        """One connection's answers: how long each took, and its bytes (0: failed)."""
        answers = []
        loop = asyncio.get_running_loop()
        begin_s = loop.time() + place / CONNECTIONS  # spread over the second, as strangers are
        async with aiohttp.ClientSession(
            headers=self._headers, connector=aiohttp.TCPConnector(limit=1)
        ) as session:
            for turn in range(seconds):
                await asyncio.sleep(max(0.0, begin_s + turn - loop.time()))
                asked_s = time.perf_counter()
                async with session.get(self._url + PAGE) as response:
                    data = await response.read()
                size = len(data) if response.status == 200 else 0
                answers.append((time.perf_counter() - asked_s, size))
        return answers


def _admin(net: Running, number: int) -> SigningKey:
    settings = config.load(config.OfficeConfig, net.home(number, "admin"), {})
    return read_key(settings.member.key)

"""What the network takes at most, in large requests and one by one, and what a client waits."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from node.api.admission import SUBMIT_MAX
from node.api.views import StatusView
from node.client.connection import Connection
from node.client.reply import Reply
from tests.bench.ledger import machine
from tests.bench.ledger.crew import Crew
from tests.bench.ledger.figures import (
    VALIDATORS,
    Latency,
    Status,
    Stretch,
    Use,
    certified,
    percentiles,
    waiting,
)
from tests.bench.ledger.fleet import Fleet
from tests.bench.ledger.purse import STRETCH_BLOCKS
from vm.refusal import Refused

LOOK_S = 0.25  # between two looks at one validator
DRAIN_S = 300.0  # until all that waits is executed, also where others use the machine
STATUS_BYTES_MAX = 64 * 1024
WARM_S = 4.0  # for which the pace is sought
SPARE = 1.3  # more is signed than the pace asks for
CONNECTIONS = {SUBMIT_MAX: 2, 1: 4}  # of each client to each validator, by transactions a request
REQUESTS_PER_S = 100.0  # at most, while latency is measured: beyond that requests grow
FOLLOWED_PER_S = 25.0  # whose receipts are waited for, at most
SHARES = (0.1, 0.5)  # of what the network takes at most, at which latency is measured
PACE = 100.0  # transactions a second, a guess before anything is known
SEED = 6
FLOW_S = 30.0  # at most, while something else is looked at


@dataclass(frozen=True, slots=True)
class Plan:
    """How long each part takes, 0 to leave it out; the first `skip_s` of a stretch do not count."""

    clients: int
    under_way: int  # transactions in the whole network at a time, of 20,000 that it has room for
    batched_s: float
    single_s: float
    latency_s: float
    skip_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch as it was seen, before the blocks are counted."""

    batch: int
    seen: list[Status]
    begin: Use
    end: Use
    rss_mib: tuple[float, float, float]
    own_mib: float
    tally: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Load:
    """What was found in one network, with a transaction's bytes as it is signed."""

    transaction_bytes: int
    batched: Stretch
    single: Stretch | None
    latency: tuple[Latency, ...]
    applied: int  # in all runs; as many as were admitted


class Driver:
    """Drives the clients of a network, and looks at its validators meanwhile."""

    def __init__(self, fleet: Fleet, crew: Crew, connection: Connection, under_way: int) -> None:
        self._fleet = fleet
        self._crew = crew
        self._connection = connection
        self._under_way = under_way
        self._news = asyncio.Event()
        self._newest: dict[str, Status] = {}  # by validator's URL
        self.seen: list[Status] = []
        self.admitted = self.lost = 0
        self.transaction_bytes = 0
        self._blocks_per_s = 0.0  # of the last stretch

    async def look(self, url: str) -> None:
        """At one validator again and again, until cancelled; the clients are told."""
        while True:
            with suppress(Refused):  # it is too busy to answer in time
                self._hear(url, await self._connection.fetch(url, "/v1/status", STATUS_BYTES_MAX))
            await asyncio.sleep(LOOK_S)

    def _hear(self, url: str, reply: Reply) -> None:
        found = reply.read(StatusView)
        status = Status(time.monotonic(), found.certified_height, found.pending)
        self.seen.append(status)
        self._newest[url] = status
        self._news.set()
        height = max(status.height for status in self._newest.values())
        self._crew.tell(height, max(0, self._under_way - self._pending()))

    def _pending(self) -> int:
        """The most that wait at any validator."""
        return max(status.pending for status in self._newest.values())

    async def stretch(self, batch: int, pace: float, plan_s: float, skip_s: float) -> Run:
        """Give the network all it takes for `skip_s` and then `plan_s`; `pace` is a guess."""
        await self._sign(pace, skip_s + plan_s)
        first, rss = len(self.seen), [max(self._fleet.rss_mib())]
        await self._crew.order("load", batch=batch, connections=CONNECTIONS[batch])
        await asyncio.sleep(skip_s)
        begin = self._use()
        await asyncio.sleep(plan_s / 2)
        rss.append(max(self._fleet.rss_mib()))
        await asyncio.sleep(plan_s / 2)
        end = self._use()
        rss.append(max(self._fleet.rss_mib()))
        own_mib = max(self._fleet.own_mib())
        seen = self.seen[first:]
        self._blocks_per_s = (seen[-1].height - seen[0].height) / (skip_s + plan_s)
        tally = await self._stop()
        return Run(batch, self.seen[first:], begin, end, (rss[0], rss[1], rss[2]), own_mib, tally)

    async def latency(self, share: float, tps: float, seconds: float) -> Latency:
        """Offer so much at random times, and wait for the receipts of some."""
        offered = share * tps
        requests_per_s = min(offered, REQUESTS_PER_S)
        await self._sign(offered, seconds)
        order = {
            "seconds": seconds,
            "requests_per_s": requests_per_s / self._crew.size,
            "batch": offered / requests_per_s,
            "followed": min(1.0, FOLLOWED_PER_S / requests_per_s),
        }
        seeds = range(SEED, SEED + self._crew.size)
        await self._crew.order_each("arrive", [{"seed": seed, **order} for seed in seeds])
        await asyncio.sleep(seconds)
        tally = await self._stop()
        p50, p99, worst = percentiles(tally["latency_ms"])
        samples = len(tally["latency_ms"])
        return Latency(share, offered, order["batch"], samples, p50, p99, worst)

    @asynccontextmanager
    async def flowing(self, per_s: float) -> AsyncIterator[None]:
        """Some transactions all the time; every one of them is executed before this ends."""
        await self._sign(per_s, 1.0)
        order = {"seconds": FLOW_S, "requests_per_s": per_s, "batch": 1.0, "followed": 0.0}
        await self._crew.order("arrive", seed=SEED, **order)
        yield
        await self._stop()

    async def heard(self) -> None:
        """Wait until every validator has said something, from now on."""
        self._newest.clear()
        await self._until(lambda: len(self._newest) == len(self._fleet.urls))

    async def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._news.clear()
            await self._news.wait()

    async def _drained(self) -> None:
        """Wait until nothing waits anywhere."""
        async with asyncio.timeout(DRAIN_S):
            await self._until(lambda: self._pending() == 0)

    async def _sign(self, pace: float, seconds: float) -> None:
        """Lots for the blocks to come, of which there will be as many as in the last stretch."""
        blocks = self._blocks_per_s * seconds
        whole = SPARE * pace * seconds + self._under_way
        each = whole * min(1.0, STRETCH_BLOCKS / max(1.0, blocks))
        answers = await self._crew.order(
            "sign",
            height=self.seen[-1].height,
            lots=int(blocks / STRETCH_BLOCKS) + 1,
            count=int(each / self._crew.size) + 1,
        )
        self.transaction_bytes = max(answer["bytes"] for answer in answers)

    async def _stop(self) -> dict[str, Any]:
        """End the run, and wait until all it sent is executed; the clients' tallies together."""
        tallies = await self._crew.order("stop")
        whole = tallies[0]
        for tally in tallies[1:]:
            for name in ("requests", "admitted", "returned", "lost", "late", "latency_ms"):
                whole[name] += tally[name]
            whole["refused"] = dict(Counter(whole["refused"]) + Counter(tally["refused"]))
        assert not whole["refused"], whole["refused"]
        self.admitted += whole["admitted"]
        self.lost += whole["lost"]
        await self.heard()
        await self._drained()
        return whole

    def _use(self) -> Use:
        return Use(
            time.monotonic(),
            sum(map(machine.cpu_s, self._fleet.pids)),
            sum(map(machine.cpu_s, self._crew.pids)),
            machine.cpu_s(os.getpid()),
        )


@asynccontextmanager
async def driving(fleet: Fleet, clients: int, under_way: int) -> AsyncIterator[Driver]:
    """A driver of a running network, whose validators are looked at."""
    async with (
        Crew(fleet.stewards, fleet.urls, clients) as crew,
        Connection(fleet.auditor) as connection,
        asyncio.TaskGroup() as group,
    ):
        driver = Driver(fleet, crew, connection, under_way)
        looking = [group.create_task(driver.look(url)) for url in fleet.urls]
        await driver.heard()
        yield driver
        for task in looking:
            task.cancel()


async def measure(fleet: Fleet, plan: Plan) -> Load:
    """Measure all of it in a running network, which is stopped in the end."""
    single = None
    async with driving(fleet, plan.clients, plan.under_way) as driver:
        batched = await warmed(driver, SUBMIT_MAX, plan.batched_s, plan.skip_s)
        if plan.single_s:
            single = await warmed(driver, 1, plan.single_s, plan.skip_s)
        shares = SHARES if plan.latency_s else ()
        pace = _pace(batched)
        latency = [await driver.latency(share, pace, plan.latency_s) for share in shares]
    fleet.stop_all()
    applied = fleet.applied(1)
    total = applied.total()
    assert driver.admitted <= total <= driver.admitted + driver.lost, (driver.admitted, total)
    return Load(
        driver.transaction_bytes,
        summarize(batched, applied),
        None if single is None else summarize(single, applied),
        tuple(latency),
        total,
    )


async def warmed(driver: Driver, batch: int, seconds: float, skip_s: float) -> Run:
    """A stretch for which is signed what a short one before it shows to be needed."""
    warm = await driver.stretch(batch, PACE, min(WARM_S, seconds), 0.0)
    return await driver.stretch(batch, _pace(warm), seconds, skip_s)


def _pace(run: Run) -> float:
    """Roughly, before the blocks are counted: what was admitted until all of it was executed."""
    admitted: int = run.tally["admitted"]
    return admitted / (run.seen[-1].at_s - run.seen[0].at_s)


def summarize(run: Run, applied: Counter[int]) -> Stretch:
    """The figures of a stretch, with what its blocks hold."""
    begin, end = run.begin, run.end
    seconds, transactions, blocks = certified(run.seen, applied, begin.at_s, end.at_s)
    tps = transactions / seconds
    whole = max(1.0, tps * (end.at_s - begin.at_s))  # transactions for which this time was taken
    validators = end.validators - begin.validators
    clients = end.clients - begin.clients
    everything = validators + clients + end.bench - begin.bench
    return Stretch(
        batch=run.batch,
        seconds=round(seconds, 2),
        tps=round(tps, 1),
        transactions=transactions,
        blocks=blocks,
        validator_us=round(1e6 * validators / VALIDATORS / whole, 1),
        client_us=round(1e6 * clients / whole, 1),
        client_cpu_share=round(clients / everything, 3),
        busy=round(everything / (end.at_s - begin.at_s) / (os.cpu_count() or 1), 3),
        pending=(waiting(run.seen, begin.at_s), waiting(run.seen, end.at_s)),
        rss_mib=run.rss_mib,
        own_mib=run.own_mib,
        admitted=run.tally["admitted"],
        returned=run.tally["returned"],
        late=run.tally["late"],
    )

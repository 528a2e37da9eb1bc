"""A real network under load, struck at random: nothing that was acknowledged is lost.

Validators are processes. Whatever one of them sends another goes through a relay, one for each
directed pair, so that partitions need no rights that a test does not have.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from node.home import config
from tests.network.running import Running, newcomer, patiently
from tests.soak.judge import Shown, forked, lost
from tests.soak.plan import Blow, Kind, plan
from tests.soak.relay import HOST, Relay, Way
from vm.block import Receipt
from vm.refusal import Refused

DELAY_S = 0.3  # of a slow validator's messages, one way: twice round the world
PAUSE_S = 0.1  # between an admin's transactions: what is acknowledged is looked up on every node
RETRY_S = 0.5  # after a refusal
LIVE_S = 90.0  # for the healed network to acknowledge and to show everything


class NotStarted(Exception):  # noqa: N818 - what it says, not an error of ours
    """The network did not come up: nothing was soaked."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a soak did and found."""

    struck: dict[str, int]  # by kind of blow
    acknowledged: int
    refused: dict[str, int]  # by code: submissions that nobody promised anything
    height: int
    broken: tuple[str, ...]


class Soak:
    """One network and what is done to it."""

    def __init__(self, net: Running) -> None:
        self.acknowledged: list[Receipt] = []
        self.refused: Counter[str] = Counter()
        self.broken: list[str] = []
        self._net = net
        self._relays: dict[tuple[int, int], Relay] = {}
        self._down: set[int] = set()
        self._serial = 0

    async def open(self) -> None:
        """Put a relay between each two validators, and start them."""
        settings = {
            number: config.load(config.ValidatorConfig, self._net.home(number), {})
            for number in self._net.numbers
        }
        for number, own in settings.items():
            addresses = dict(own.peer.validators)
            for other, its in settings.items():
                if other != number:
                    relay = self._relays[number, other] = Relay(its.peer.listen.port)
                    addresses[its.member.id] = config.Endpoint(HOST, await relay.start())
            peer = own.peer.model_copy(update={"validators": addresses})
            text = config.render(own.model_copy(update={"peer": peer}))
            (self._net.home(number) / config.CONFIG_FILE).write_text(text)
        await asyncio.to_thread(self._net.start_all)

    async def close(self) -> None:
        """End what still runs."""
        self._net.close()
        for relay in self._relays.values():
            await relay.close()

    # Load

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Every hospital's admin enrols one newcomer after the other."""
        tasks = [asyncio.create_task(self._send(number)) for number in self._net.numbers]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task

    async def _send(self, number: int) -> None:
        async with self._net.pen(number) as pen:
            while True:
                self._serial += 1
                try:
                    name = f"newcomer-{self._serial}"
                    self.acknowledged.append(await pen.submit("member.enrol", newcomer(name)))
                    await asyncio.sleep(PAUSE_S)
                except Refused as refused:
                    self.refused[refused.code] += 1
                    await asyncio.sleep(RETRY_S)

    # Blows

    async def suffer(self, blow: Blow) -> None:
        """Strike, wait and undo it."""
        await asyncio.sleep(blow.after_s)
        self._look()
        for number, kind in blow.victims:
            self._strike(number, kind)
        await asyncio.sleep(blow.lasting_s)
        for number, kind in blow.victims:
            self._undo(number, kind)

    def _strike(self, number: int, kind: Kind) -> None:
        match kind:
            case Kind.KILL:
                self._down.add(number)
                self._net.kill(number)
            case Kind.STOP:
                self._net.send(self._net.home(number), signal.SIGSTOP)
            case Kind.SLOW:
                for way in (*self._from(number), *self._to(number)):
                    way.delay_s = DELAY_S
            case Kind.ISOLATE | Kind.DEAFEN | Kind.MUTE:
                ways = [] if kind is Kind.DEAFEN else self._from(number)
                ways += [] if kind is Kind.MUTE else self._to(number)
                for way in ways:
                    way.cut()

    def _undo(self, number: int, kind: Kind) -> None:
        match kind:
            case Kind.KILL:
                self._down.discard(number)
                self._net.start(number)
            case Kind.STOP:
                self._net.send(self._net.home(number), signal.SIGCONT)
            case _:
                for way in (*self._from(number), *self._to(number)):
                    way.heal()

    def _from(self, number: int) -> list[Way]:
        """The ways of what this validator sends, whoever dialled."""
        return [
            relay.there if dialler == number else relay.back
            for (dialler, dialled), relay in self._relays.items()
            if number in (dialler, dialled)
        ]

    def _to(self, number: int) -> list[Way]:
        """The ways of what it hears."""
        return [
            relay.back if dialler == number else relay.there
            for (dialler, dialled), relay in self._relays.items()
            if number in (dialler, dialled)
        ]

    def _look(self) -> None:
        """No validator ends by itself, or logs a traceback."""
        for number in self._net.numbers:
            if number not in self._down and not self._net.alive(number):
                self._down.add(number)
                self.broken.append(f"validator {number} ended by itself, see its log")

    # What must hold in the end

    async def judge(self) -> int:
        """Whether the network is live, of one mind, and has everything; the height that it shows.

        What does not hold is in `broken`.
        """
        self._look()
        for number in self._net.numbers:
            if "Traceback" in self._net.log(number):
                self.broken.append(f"validator {number} logged a traceback")
        await asyncio.gather(*map(self._acknowledge_one, self._net.numbers))
        try:
            headers = await asyncio.to_thread(self._net.headers)
        except TimeoutError:
            self.broken.append("not live: the validators come to no common height")
            return 0
        self.broken += forked(dict(zip(self._net.numbers, headers, strict=True)))
        shown = await asyncio.gather(*map(self._shown, self._net.numbers))
        self.broken += lost(self.acknowledged, dict(zip(self._net.numbers, shown, strict=True)))
        return headers[0].height

    async def _acknowledge_one(self, number: int) -> None:
        """The network is live for this hospital: its admin's transaction is acknowledged."""
        try:
            async with asyncio.timeout(LIVE_S), self._net.pen(number) as pen:
                submit = partial(pen.submit, "member.enrol", newcomer(f"last-{number}"))
                self.acknowledged.append(await submit())
        except (TimeoutError, Refused) as error:
            self.broken.append(f"not live: hospital {number} is acknowledged nothing: {error!r}")

    async def _shown(self, number: int) -> Shown:
        """The receipts that this node proves."""
        found: dict[bytes, Receipt | None] = {}
        async with self._net.client(number) as client:
            for receipt in self.acknowledged:
                with suppress(TimeoutError):
                    ask = partial(client.receipt, receipt.transaction)
                    found[receipt.transaction] = await patiently(ask)
        return found


async def soak(
    seed: int, seconds: float, size: int, folder: Path, tell: Callable[[str, float], None]
) -> Report:
    """Run a soak in `folder`. `tell` hears of each blow, and how many seconds it took in all."""
    blows = plan(seed, seconds, size)
    work = Soak(Running(folder / "net", size=size))
    try:
        try:
            await work.open()
        except (AssertionError, OSError) as error:
            raise NotStarted(str(error)) from error
        async with work.load():
            for blow in blows:
                await work.suffer(blow)
                tell(str(blow), blow.after_s + blow.lasting_s)
        height = await work.judge()
    finally:
        await work.close()
    struck = Counter(kind.value for blow in blows for _, kind in blow.victims)
    return Report(
        dict(struck),
        len(work.acknowledged),
        dict(work.refused),
        height,
        tuple(work.broken),
    )

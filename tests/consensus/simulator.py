"""A seeded world for real replicas: a bad network, crashes, traitors; and judges who watch.

A run has two parts. At first messages are lost, delayed, repeated and overtaken, links break one
way or both, nodes crash between any two effects and lose what they had not synced, and up to f of
them lie. Then everything heals but the liars, in some runs right after a power cut and without new
requests, and all that waits must be done within a bound of simulated time. One seed gives one run,
whatever the machine.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

from consensus.event import (
    Deliver,
    Effect,
    Event,
    Limits,
    Pending,
    Propose,
    Received,
    SetTimer,
    TimerFired,
)
from consensus.message import Envelope, decode_envelope, encode_envelope
from tests.consensus.judge import Judge, Violation
from tests.consensus.node import Node, validator_set
from tests.consensus.traitor import Plot
from vm.refusal import Refused

LIMITS = Limits(
    window=8,
    view_timeout_ms=300,
    view_timeout_ms_max=5_000,
    status_ms=100,
    status_idle_ms=1_000,
    payload_bytes_max=227,  # so small that a greedy traitor reaches it
)
STEPS = 2_500  # events until everything heals
HEALED_MS_MAX = 60_000  # a dozen of the longest view timeouts
REQUESTS_PER_PAYLOAD = 3
EXECUTION_MS_MAX = 20
REQUEST_EVERY_MS = 60
LONG_MS = 400  # a message overtaken by many others
QUIET_SHARE = 0.8  # of the steps, after which a quiet run has no new requests
CODEC_SHARE = 0.1  # of messages that go through their bytes


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad a run is; shares are of messages, of effects or of events."""

    loss: float
    repeat: float
    late: float
    crash: float
    cut: float

    @staticmethod
    def draw(rng: random.Random) -> "Weather":
        """One of many mixtures, the calm and the terrible among them."""
        return Weather(
            loss=rng.choice((0, 0.01, 0.1, 0.3)),
            repeat=rng.choice((0, 0.05)),
            late=rng.choice((0, 0.02, 0.2)),
            crash=rng.choice((0, 0.001, 0.005)),
            cut=rng.choice((0, 0.005, 0.02)),
        )


CALM = Weather(0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did, for the person who asked for it."""

    seed: int
    events: int
    simulated_ms: int
    height: int
    view: int
    crashes: int


class Member:
    """A node and the shell state that the simulator keeps for it."""

    def __init__(self, node: Node, drift: float) -> None:
        self.node = node
        self.drift = drift  # of its timers
        self.up = True
        self.life = 0  # counts restarts: what an earlier life scheduled is void
        self.pool: set[int] = set()  # requests that wait
        self.proposed: set[int] = set()  # of those, in this view
        self.view = 0
        self.waiting = False
        self.executed_ms = 0  # when the last execution will be done


class Simulation:
    """One run. `traitors` None draws up to f of them, `mood` "" draws theirs."""

    def __init__(
        self,
        seed: int,
        n: int = 4,
        steps: int = STEPS,
        traitors: int | None = None,
        mood: str = "",
    ) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.steps = steps
        self.now_ms = 0
        self.events = 0
        self.crashes = 0
        self.weather = Weather.draw(self.rng)
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self._healed = False
        self._quiet = self.rng.random() < 0.5  # the run ends with a power cut, without requests
        self._cut: set[tuple[str, str]] = set()
        self._requests = 0
        validators = validator_set(n)
        names = [seat.id for seat in validators.validators]
        count = self.rng.randint(0, validators.f) if traitors is None else traitors
        liars = sorted(self.rng.sample(names, count))
        self.plot = Plot(validators, liars, self.rng, mood)
        self.judge = Judge(validators, liars)
        self.members = {name: self._member(i, name) for i, name in enumerate(names)}
        self.honest = [m for name, m in self.members.items() if name not in self.plot.traitors]

    def run(self) -> Report:
        """Run to the end; raises `Violation`."""
        for member in self.members.values():
            self._apply(member, member.node.recover())
        self._at(0, self._new_request)
        while self.events < self.steps:
            self._step()
            self._mischief()
        self._heal()
        deadline = self.now_ms + HEALED_MS_MAX
        while not self._done():
            if self.now_ms > deadline:
                raise Violation(f"liveness: {self._describe()}")
            self._step()
        replicas = [member.node.replica for member in self.honest]
        return Report(
            seed=self.seed,
            events=self.events,
            simulated_ms=self.now_ms,
            height=len(self.judge.decided),
            view=max(replica.view for replica in replicas),
            crashes=self.crashes,
        )

    def _member(self, index: int, name: str) -> Member:
        def send(receiver: str, envelope: Envelope) -> None:
            for twisted in self.plot.twist(name, receiver, envelope):
                self._transmit(name, receiver, twisted)

        node = Node(index, self.judge.validators, send, LIMITS, _check)
        return Member(node, self.rng.uniform(0.8, 1.25))

    # Time

    def _at(self, delay_ms: int, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._order, action))

    def _step(self) -> None:
        self.now_ms, _, action = heapq.heappop(self._queue)
        self.events += 1
        action()

    def _feed(self, member: Member, life: int, event: Event) -> None:
        """Give a node an event, unless the life that it belongs to is over."""
        if member.up and member.life == life:
            self._apply(member, member.node.step(event))

    def _apply(self, member: Member, effects: list[Effect]) -> None:
        for effect in effects:
            if self._strikes(member, self.weather.crash):
                self._crash(member)
                return
            member.node.apply(effect)
            if member in self.honest:
                self.judge.watch(member.node, effect)
            match effect:
                case SetTimer(timer, delay_ms):
                    self._schedule(member, round(delay_ms * member.drift), TimerFired(timer))
                case Deliver(_, payload):
                    member.pool.difference_update(_requests(payload))
        for answer in member.node.answers:
            done_ms = max(self.now_ms, member.executed_ms) + self.rng.randint(0, EXECUTION_MS_MAX)
            member.executed_ms = done_ms
            self._schedule(member, done_ms - self.now_ms, answer)
        member.node.answers.clear()
        self._shell(member)

    def _schedule(self, member: Member, delay_ms: int, event: Event) -> None:
        life = member.life
        self._at(delay_ms, lambda: self._feed(member, life, event))

    # The shell: requests

    def _new_request(self) -> None:
        self._requests += 1
        for member in self.members.values():
            member.pool.add(self._requests)
            self._shell(member)
        quiet = self._quiet and self.events > QUIET_SHARE * self.steps
        if not (self._healed or quiet):
            self._at(self.rng.randint(1, 2 * REQUEST_EVERY_MS), self._new_request)

    def _shell(self, member: Member) -> None:
        replica = member.node.replica
        if not member.up:
            return
        if replica.view != member.view:
            member.view, member.proposed = replica.view, set()
        waiting = bool(member.pool)
        if waiting != member.waiting:
            member.waiting = waiting
            self._apply(member, member.node.step(Pending(waiting)))
            return
        fresh = sorted(member.pool - member.proposed)[:REQUESTS_PER_PAYLOAD]
        if fresh and replica.may_propose:
            member.proposed.update(fresh)
            self._apply(member, member.node.step(Propose(_payload(fresh))))

    # The network

    def _transmit(self, sender: str, receiver: str, envelope: Envelope) -> None:
        weather = self.weather
        if (sender, receiver) in self._cut or self.rng.random() < weather.loss:
            return
        copies = 2 if self.rng.random() < weather.repeat else 1
        for _ in range(copies):
            late = self.rng.random() < weather.late
            delay_ms = self.rng.randint(1, LONG_MS if late else 10)
            self._at(delay_ms, lambda: self._arrive(receiver, envelope))

    def _arrive(self, receiver: str, envelope: Envelope) -> None:
        member = self.members[receiver]
        if not member.up:
            return
        if self.rng.random() < CODEC_SHARE:
            envelope = decode_envelope(encode_envelope(envelope))
        self._apply(member, member.node.step(Received(envelope)))

    # What goes wrong

    def _strikes(self, member: Member, share: float) -> bool:
        return share > 0 and member in self.honest and self.rng.random() < share

    def _mischief(self) -> None:
        """Between two events: links break and mend, stores sync, journals begin anew."""
        rng = self.rng
        if rng.random() < self.weather.cut:
            names = list(self.members)
            side = set(rng.sample(names, rng.randint(1, len(names) - 1)))
            one_way = rng.random() < 0.3
            self._cut = {
                (a, b)
                for a in names
                for b in names
                if (a in side and b not in side) or (not one_way and b in side and a not in side)
            }
        elif rng.random() < 0.01:
            self._cut = set()
        member = rng.choice(self.honest)
        if member.up and rng.random() < 0.02:
            member.node.flush()
        if member.up and rng.random() < 0.01 and self._idle_store(member):
            member.node.rotate()

    def _idle_store(self, member: Member) -> bool:
        return member.node.replica.executed == len(member.node.disk.store)

    def _crash(self, member: Member) -> None:
        if not member.up:
            return
        self.crashes += 1
        disk = member.node.disk
        member.node.crash(
            kept=self.rng.randint(0, len(disk.unsynced)),
            tail=bytes(self.rng.choice((0, 0, 7, 4_096))),
            blocks=self.rng.choice((0, len(disk.store) - disk.durable)),
            certificate=self.rng.random() < 0.5,
        )
        member.up, member.life = False, member.life + 1
        if not self._healed:
            self._at(self.rng.randint(1, 3_000), lambda: self._restart(member))

    def _restart(self, member: Member) -> None:
        if member.up:
            return
        member.up, member.waiting, member.view, member.proposed = True, False, 0, set()
        done: set[int] = set()
        for payload in member.node.payloads:
            done |= _requests(payload)
        member.pool = set(range(1, self._requests + 1)) - done
        self._apply(member, member.node.recover())

    def _heal(self) -> None:
        self._healed, self.weather, self._cut = True, CALM, set()
        for member in self.honest if self._quiet else ():
            self._crash(member)  # a power cut: what is left undone now, no new request will mend
        for member in self.members.values():
            self._restart(member)
        if not self._quiet:
            self._new_request()

    # The end

    def _done(self) -> bool:
        height = max(len(member.node.disk.store) for member in self.honest)
        return height >= self.judge.certified and all(
            not member.pool and self._certified_up_to(member, height) for member in self.honest
        )

    def _certified_up_to(self, member: Member, height: int) -> bool:
        """Whether a member has every block, and both replica and store the certificate of all."""
        disk = member.node.disk
        return len(disk.store) == height and all(
            (0 if certificate is None else certificate.height) == height
            for certificate in (member.node.replica.stable, disk.stable)
        )

    def _describe(self) -> str:
        lines = (
            f"{name} view {m.node.replica.view}{'' if m.node.replica.active else '?'}"
            f" height {len(m.node.disk.store)} waiting {len(m.pool)}"
            for name, m in self.members.items()
        )
        return f"traitors {self.plot.traitors}; " + "; ".join(lines)


def _payload(requests: list[int]) -> bytes:
    return ",".join(map(str, requests)).encode()


def _requests(payload: bytes) -> set[int]:
    """The requests in a payload; a traitor's variant has none beyond its first byte."""
    return {int(item) for item in payload.lstrip(b"!").split(b",") if item}


def _check(_height: int, payload: bytes) -> None:
    if not payload:
        raise Refused("payload.empty", "expected requests, found nothing")

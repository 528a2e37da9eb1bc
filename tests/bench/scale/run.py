"""One run: so many validators on one net under one load, and what came of it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from random import Random
from statistics import mean

from consensus.message import Checkpoint, Commit, Prepare
from consensus.outbox import Sign
from consensus.replica import Replica
from node.api.admission import SUBMIT_MAX
from tests.bench.scale.costs import Costs, Work
from tests.bench.scale.requests import Book
from tests.bench.scale.timeline import Clock, Links, Net
from tests.bench.scale.validator import GOSSIP, Ask, Validator, seats
from tests.simulation.signatures import remembered, signer
from vm.keys import SigningKey

REQUEST = 10  # transactions that a client brings at a time under a given load
UNDER_WAY = 4_000  # transactions of all clients while the most that can be had is sought
WARM_S = 3.0  # before anything counts
DRAIN_S = 20  # after the last request that counts, for what is under way
VOTES = frozenset(kind.TAG for kind in (Prepare, Commit, Checkpoint))


@dataclass(frozen=True, slots=True)
class Point:
    """What one load came to; `load` is its share of the most that can be had, 1 for that itself.

    `tps` are transactions certified in a second at the validators to which they were brought, and
    waits are from there to there. Messages and bytes are of consensus, by block, and `votes` those
    of them that all send to all. `busy` is the mean of the validators' cores and `vote_share` the
    part of it that goes into votes: `vote_ms` of each core for a block, while all else that is done
    takes `transaction_ms` of it for a transaction. `lost` were still under way at the end, and so
    many `views` were left.
    """

    validators: int
    net: str
    load: float
    offered_tps: float
    tps: float
    p50_ms: float
    p99_ms: float
    transactions_per_block: float
    messages_per_block: float
    votes_per_block: float
    bytes_per_block: float
    busy: float
    vote_share: float
    vote_ms: float
    transaction_ms: float
    lost: int
    views: int


@dataclass(frozen=True, slots=True)
class _Count:
    """What has happened up to a moment."""

    certified: int
    height: int
    frames: Counter[str]
    frame_bytes: Counter[str]
    spent_s: dict[Work, float]


class Run:
    """Validators, their clients and time; equal arguments give equal runs."""

    def __init__(
        self,
        n: int,
        net: Net,
        costs: Costs,
        seed: int,
        *,
        ask: Ask = Replica.step,
        sign: Callable[[SigningKey], Sign] = signer,
    ) -> None:
        self.clock = Clock()
        self._net = net
        self._rng = Random(seed)
        self._book = Book()
        self._certified = 0
        self._repaying = False
        self._owed: Counter[int] = Counter()
        links, validators = Links(net, n, self._rng), seats(n)
        self.validators = [
            Validator(i, validators, costs, self.clock, links, self._book, ask=ask, sign=sign)
            for i in range(n)
        ]
        for validator in self.validators:
            validator.peers = self.validators
            validator.own_certified = self._on_certified
        for validator in self.validators:
            validator.start()

    @property
    def waits(self) -> list[float]:
        """Seconds from each certified transaction's arrival to its certificate there."""
        return [wait_s for _, wait_s in self._book.waits]

    def saturate(self, seconds: float) -> Point:
        """Keep `UNDER_WAY` transactions under way: as many new ones as are certified."""
        requests = ceil(UNDER_WAY / len(self.validators) / SUBMIT_MAX)
        for place in range(len(self.validators)):
            for _ in range(requests):
                self.submit(place, SUBMIT_MAX)
        self._repaying = True
        return self._measure(1.0, 0.0, seconds)

    def offer(self, load: float, tps: float, seconds: float) -> Point:
        """Bring requests at random times, so many transactions a second, whatever becomes of them.

        Validators take turns. What was brought while it counted is waited for.
        """

        def arrive() -> None:
            self.submit(self._rng.randrange(len(self.validators)), REQUEST)
            if self.clock.now_s < WARM_S + seconds:
                self.clock.at(self.clock.now_s + self._rng.expovariate(tps / REQUEST), arrive)

        self.clock.at(self._rng.expovariate(tps / REQUEST), arrive)
        return self._measure(load, tps, seconds)

    def submit(self, place: int, count: int) -> None:
        """Bring a request of so many transactions to one validator."""
        height, now_s = self.validators[place].executed, self.clock.now_s
        made = [self._book.make(place, height, now_s) for _ in range(count)]
        self.validators[place].submit(made)

    def _measure(self, load: float, offered_tps: float, seconds: float) -> Point:
        with remembered():
            self.clock.run(WARM_S)
            before = self._now()
            self.clock.run(WARM_S + seconds)
            after = self._now()
            if not self._repaying:
                self._drain(seconds)
        n = len(self.validators)
        blocks = max(1, after.height - before.height)
        certified = max(1, after.certified - before.certified)
        frames = after.frames - before.frames
        sizes = after.frame_bytes - before.frame_bytes
        spent = {work: after.spent_s[work] - before.spent_s[work] for work in Work}
        waits = sorted(wait for begin, wait in self._book.waits if self._counts(begin, seconds))
        consensus = [kind for kind in frames if kind != GOSSIP]
        return Point(
            validators=n,
            net=self._net.name,
            load=load,
            offered_tps=offered_tps,
            tps=certified / seconds,
            p50_ms=1_000 * _quantile(waits, 0.50),
            p99_ms=1_000 * _quantile(waits, 0.99),
            transactions_per_block=certified / blocks,
            messages_per_block=sum(frames[kind] for kind in consensus) / blocks,
            votes_per_block=sum(frames[kind] for kind in VOTES) / blocks,
            bytes_per_block=sum(sizes[kind] for kind in consensus) / blocks,
            busy=sum(spent.values()) / seconds / n,
            vote_share=spent[Work.VOTES] / (sum(spent.values()) or 1.0),
            vote_ms=1_000 * spent[Work.VOTES] / n / blocks,
            transaction_ms=1_000 * (sum(spent.values()) - spent[Work.VOTES]) / n / certified,
            lost=0 if self._repaying else self._under_way(seconds),
            views=max(validator.replica.view for validator in self.validators),
        )

    def _drain(self, seconds: float) -> None:
        for _ in range(DRAIN_S):
            if self._under_way(seconds):
                self.clock.run(self.clock.now_s + 1.0)

    def _under_way(self, seconds: float) -> int:
        begins = (begin_s for _, begin_s in self._book.under_way.values())
        return sum(self._counts(begin_s, seconds) for begin_s in begins)

    def _counts(self, begin_s: float, seconds: float) -> bool:
        return WARM_S <= begin_s < WARM_S + seconds

    def _on_certified(self, place: int, count: int) -> None:
        self._certified += count
        if self._repaying:
            self._owed[place] += count
            while self._owed[place] >= SUBMIT_MAX:
                self._owed[place] -= SUBMIT_MAX
                self.submit(place, SUBMIT_MAX)

    def _now(self) -> _Count:
        frames, sizes = Counter[str](), Counter[str]()
        for validator in self.validators:
            frames += validator.sent
            sizes += validator.sent_bytes
        cores = [validator.core for validator in self.validators]
        spent = {work: sum(core.spent_s[work] for core in cores) for work in Work}
        height = round(mean(validator.certified for validator in self.validators))
        return _Count(self._certified, height, frames, sizes, spent)


def _quantile(ordered: list[float], share: float) -> float:
    """The smallest value that this share of them does not exceed; 0.0 of none."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0

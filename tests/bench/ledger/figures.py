"""Figures of one run from what was seen in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles


@dataclass(frozen=True, slots=True)
class Status:
    """What one validator said, and when."""

    at_s: float
    height: int  # certified
    pending: int  # transactions that wait in its pool, drawn ones with them


@dataclass(frozen=True, slots=True)
class Use:
    """Processor seconds of validators, clients and the bench itself up to a moment."""

    at_s: float
    validators: float
    clients: float
    bench: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """The steady part of a run in which the network was given as much as it takes.

    `tps` counts transactions that were applied in blocks certified in these `seconds`; `pending`
    are the most that waited at a validator at its beginning and at its end; `rss_mib` the largest
    validator's memory at the beginning of the run, in its middle and at its end. `busy` is the
    share of all cores' time that validators, clients and bench have taken.
    """

    batch: int
    seconds: float
    tps: float
    transactions: int
    blocks: int
    validator_us: float  # of one validator, for each transaction
    client_us: float  # of the clients, for each transaction
    client_cpu_share: float  # of the processor time that all of them have taken
    busy: float
    pending: tuple[int, int]
    rss_mib: tuple[float, float, float]
    admitted: int
    returned: int
    late: int


@dataclass(frozen=True, slots=True)
class Latency:
    """From the moment at which a transaction was due to the proof of its receipt."""

    share: float  # of the transactions a second that the network took at most
    offered: float  # transactions a second
    batch: float  # transactions of a request, on average
    samples: int
    p50: float
    p99: float
    worst: float


def certified(
    seen: Sequence[Status], applied: Mapping[int, int], first_s: float, last_s: float
) -> tuple[float, int, int]:
    """Seconds, transactions and blocks from one certificate to another, the farthest in a stretch.

    Between looks, blocks are certified unseen: a moment is that of the look that showed them. One
    moment alone has no pace: then nothing is counted.
    """
    moments, highest = list[Status](), -1
    for status in sorted(seen, key=lambda status: status.at_s):
        if status.height > highest >= 0 and first_s <= status.at_s <= last_s:
            moments.append(status)
        highest = max(highest, status.height)
    if len(moments) < 2:
        return last_s - first_s, 0, 0
    first, last = moments[0], moments[-1]
    count = sum(applied[height] for height in range(first.height + 1, last.height + 1))
    return last.at_s - first.at_s, count, last.height - first.height


def percentiles(waits_ms: Sequence[float]) -> tuple[float, float, float]:
    """The median, what 99 of 100 stay below, and the worst; of two samples or more."""
    cuts = quantiles(waits_ms, n=100, method="inclusive")
    return round(cuts[49], 1), round(cuts[98], 1), round(max(waits_ms), 1)

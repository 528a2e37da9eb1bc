"""Figures of one run from what was seen in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

VALIDATORS = 4  # of every network here


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
    validator's memory at the beginning of the run, in its middle and at its end, and `own_mib` what
    of that are no pages of files, at the end. `busy` is the share of all cores' time that
    validators, clients and bench have taken.
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
    own_mib: float
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
    """Seconds, transactions and blocks of a stretch, made longer to whole blocks at both ends.

    It goes from the last look before the stretch that showed a new certificate to the first such
    look after it, so that a stall at either end counts in full. A stretch with no such look before
    it begins with the first one in it. With fewer than two the whole run is counted, until all that
    was sent is executed; nothing if that has no two either.
    """
    moments, highest = list[Status](), -1
    for status in sorted(seen, key=lambda status: status.at_s):
        if status.height > highest >= 0:
            moments.append(status)
        highest = max(highest, status.height)
    before = [status for status in moments if status.at_s <= first_s][-1:]
    inside = [status for status in moments if first_s < status.at_s < last_s]
    after = [status for status in moments if status.at_s >= last_s][:1]
    around = before + inside + after
    counted = around if len(around) > 1 else moments
    if len(counted) < 2:
        return last_s - first_s, 0, 0
    first, last = counted[0], counted[-1]
    count = sum(applied[height] for height in range(first.height + 1, last.height + 1))
    return last.at_s - first.at_s, count, last.height - first.height


def waiting(seen: Sequence[Status], at_s: float) -> int:
    """The most transactions that waited at any validator when all were looked at last."""
    before = [status.pending for status in seen if status.at_s <= at_s]
    return max(before[-VALIDATORS:], default=0)


def percentiles(waits_ms: Sequence[float]) -> tuple[float, float, float]:
    """The median, what 99 of 100 stay below, and the worst; of two samples or more."""
    cuts = quantiles(waits_ms, n=100, method="inclusive")
    return round(cuts[49], 1), round(cuts[98], 1), round(max(waits_ms), 1)

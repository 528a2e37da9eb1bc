"""All figures of one run: as a document for machines, and as tables for people."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.ledger.blobs import Blobs
from tests.bench.ledger.figures import Latency, Stretch
from tests.bench.ledger.growth import FEW, Growth
from tests.bench.ledger.load import Load
from tests.bench.ledger.machine import Machine


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured; None where a part was left out.

    `verified_per_s` are signatures that all cores verify together, and `bound_tps` the
    transactions whose signatures so many validators can verify if they do nothing else.
    """

    machine: Machine
    validators: int
    verified_per_s: float
    bound_tps: float
    load: Load | None
    growth: Growth | None
    blobs: Blobs | None


def document(found: Found) -> dict[str, Any]:
    """For JSON: the goals' figures first, null where they were not measured, then everything.

    `rss_mib` is that of the largest validator: with many records, or of a new chain without them.
    """
    load = found.load
    tps = None if load is None else load.batched.tps
    grown = found.growth
    many = None if grown is None else grown.many
    rss = many.rss_mib if many is not None else None if load is None else load.batched.rss_mib
    near = load.latency[0] if load is not None and load.latency else None
    return {
        "bound_tps": round(found.bound_tps, 1),
        "tps": tps,
        "ratio": None if tps is None else round(tps / found.bound_tps, 4),
        "latency_ms": None if near is None else {"p50": near.p50, "p99": near.p99},
        "growth_ratio": None if grown is None else grown.ratio,
        "bytes_per_tx": None if grown is None else grown.bytes_per_tx,
        "rss_mib": None if rss is None else rss[-1],
        **asdict(found),
    }


def markdown(found: Found) -> str:
    """The tables, with what they were measured on."""
    parts = [_head(found)]
    if found.load is not None:
        parts += [_stretches(found, found.load), _latency(found.load)]
    if found.growth is not None:
        parts += [_growth(found, found.growth), _state(found.growth)]
    if found.blobs is not None:
        parts.append(_blobs(found, found.blobs))
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(found: Found) -> str:
    at = found.machine
    return (
        f"{at.processor}, {at.cores} cores, {at.memory_mib} MiB, {at.system}, Python {at.python}, "
        f"commit {at.commit}, load {at.load} before. All cores together verify "
        f"{found.verified_per_s:,.0f} signatures a second, so {found.validators} validators can "
        f"accept **{found.bound_tps:,.0f} transactions a second** at most."
    )


def _stretches(found: Found, load: Load) -> str:
    rows = [(f"{load.batched.batch}", load.batched)]
    if load.single is not None:
        rows.append(("1", load.single))
    head = f"Transactions of {load.transaction_bytes} bytes, each writing one new record:\n\n"
    return head + _table("transactions a request", rows, found.bound_tps)


def _growth(found: Found, growth: Growth) -> str:
    if growth.few is None or growth.many is None:
        return ""
    rows = [(f"{FEW:,}", growth.few), (f"{growth.records:,}", growth.many)]
    table = _table("records before", rows, found.bound_tps)
    return f"{table}\n\nWith many records it takes **{growth.ratio}** of what it takes with few."


def _state(growth: Growth) -> str:
    lines = [
        ("executing one in blocks by one process, with its signature made, µs", growth.build_us),
        ("bytes of the store for each transaction", growth.bytes_per_tx),
        ("after pruning to 1,024 blocks", growth.bytes_per_tx_pruned),
        ("pruning, s", growth.prune_s),
    ]
    if growth.restart_s is not None:
        lines.append(("from start to first vote after kill -9, s", growth.restart_s))
    if growth.sync is not None:
        lines += [
            ("state sync to a validator without a store, s", growth.sync.sync_s),
            ("until it has executed the blocks since and is ready, s", growth.sync.ready_s),
            ("its store then, MiB", growth.sync.store_mib),
            ("a synced copy of its files, s", growth.sync.copy_s),
            ("sync by copy", growth.sync.ratio),
        ]
    head = f"| with {growth.records:,} records | |\n| --- | ---: |"
    return "\n".join((head, *(_row((name, f"{value:,}")) for name, value in lines)))


def _blobs(found: Found, item: Blobs) -> str:
    return (
        f"A model of {item.model_mb:,.0f} MB, in {item.files} files, to {found.validators} "
        f"validators at once over mutual TLS: {item.seconds:,.1f} s, {item.mb_s:,.0f} MB/s taken "
        f"by all of them together, **{item.ratio}** of the {item.raw_mb_s:,.0f} MB/s of one "
        f"connection ({item.cipher}) between two processes that do nothing else. A validator's "
        f"processor takes {item.validator_ms} ms for a megabyte, the client's {item.client_ms}."
    )


def _table(name: str, rows: Iterable[tuple[str, Stretch]], bound_tps: float) -> str:
    head = (
        f"| {name} | certified a second | of the bound | validator, µs each | clients, µs each "
        "| clients' share of CPU | cores busy | a block | waiting | largest validator, MiB "
        "| without pages of files |\n" + "| ---: " * 11 + "|"
    )
    return "\n".join((head, *(_stretch(label, item, bound_tps) for label, item in rows)))


def _stretch(label: str, item: Stretch, bound_tps: float) -> str:
    return _row(
        (
            label,
            f"{item.tps:,.0f} for {item.seconds:.0f} s",
            f"{item.tps / bound_tps:.3f}",
            f"{item.validator_us:,.0f}",
            f"{item.client_us:,.0f}",
            f"{item.client_cpu_share:.0%}",
            f"{item.busy:.0%}",
            f"{item.transactions / max(1, item.blocks):.0f}",
            " to ".join(f"{count:,}" for count in item.pending),
            ", ".join(f"{mib:.0f}" for mib in item.rss_mib),
            f"{item.own_mib:.0f}",
        )
    )


def _latency(load: Load) -> str:
    if not load.latency:
        return ""
    head = (
        "| share of that | offered a second | a request | followed | p50, ms | p99 | worst |\n"
        + "| ---: " * 7
        + "|"
    )
    return "\n".join((head, *map(_waits, load.latency)))


def _waits(item: Latency) -> str:
    return _row(
        (
            f"{item.share:.0%}",
            f"{item.offered:.0f}",
            f"{item.batch:.1f}",
            f"{item.samples}",
            f"{item.p50:.1f}",
            f"{item.p99:.1f}",
            f"{item.worst:.1f}",
        )
    )


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"

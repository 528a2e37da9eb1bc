"""The curves as JSON and as tables."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from tests.bench.scale.costs import Costs
from tests.bench.scale.curve import Scale

QUIET, HALF, MOST = 0.1, 0.5, 1.0  # loads that the table shows


def document(found: Scale) -> dict[str, Any]:
    """Everything, for JSON."""
    return asdict(found)


def markdown(found: Scale) -> str:
    """The curves' main points, and what they were made of."""
    pairs = sorted({(point.net, point.validators) for point in found.points}, key=_order)
    return "\n".join(
        (
            f"{found.seconds:.0f} simulated seconds a load, seed {found.seed}; costs measured "
            f"by Python {found.python} on {found.cores} cores, load {found.busy:.1f} before:",
            "",
            "| net | validators | at most, transactions/s | p50 / p99 at 10 %, ms | at 50 %, ms "
            "| messages a block, 10 % / most | kB a block, 10 % / most "
            "| votes' share of CPU, 10 % / 50 % / most | a block's votes, in transactions |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *(_row(found, net, validators) for net, validators in pairs),
            "",
            "| cost on one core, microseconds | " + " | ".join(map(str, found.costs)) + " |",
            "| --- |" + " ---: |" * len(found.costs),
            *_costs(found.costs),
            "",
        )
    )


def _order(pair: tuple[str, int]) -> tuple[bool, str, int]:
    return pair[0] != "lan", *pair


def _row(found: Scale, net: str, validators: int) -> str:
    quiet, half, most = (found.at(validators, net, load) for load in (QUIET, HALF, MOST))
    worth = quiet.vote_ms / quiet.transaction_ms if quiet.transaction_ms else 0.0
    return (
        f"| {net} | {validators} | {most.tps:,.0f} | {quiet.p50_ms:.0f} / {quiet.p99_ms:.0f} "
        f"| {half.p50_ms:.0f} / {half.p99_ms:.0f} "
        f"| {quiet.messages_per_block:,.0f} / {most.messages_per_block:,.0f} "
        f"| {quiet.bytes_per_block / 1_000:,.0f} / {most.bytes_per_block / 1_000:,.0f} "
        f"| {quiet.vote_share:.0%} / {half.vote_share:.0%} / {most.vote_share:.0%} "
        f"| {worth:.0f} |"
    )


def _costs(costs: dict[int, Costs]) -> Iterator[str]:
    """What a vote and a transaction cost."""
    rows: dict[str, Callable[[Costs], float]] = {
        "a vote received: its frame": lambda one: one.frame_s,
        "decoded": lambda one: one.decode("commit"),
        "verified": lambda one: one.verify_s,
        "with the others that wait: there and back": lambda one: one.ask_s,
        "the replica's step": lambda one: one.step("commit"),
        "a vote of its own: signed": lambda one: one.sign_s,
        "encoded and journaled": lambda one: one.encode("commit") + one.entry_s,
        "sent, to each": lambda one: one.frame_s,
        "a transaction admitted": lambda one: one.intake_s,
        "admitted already, handed on again": lambda one: one.again_s,
        "checked in a proposal": lambda one: one.check_s,
        "executed": lambda one: one.transaction_s,
        "a block executed, beside": lambda one: one.block_s,
        "a sync of the journal (waited for, no CPU)": lambda one: one.sync_s,
    }
    for name, cost in rows.items():
        values = " | ".join(f"{1e6 * cost(one):,.0f}" for one in costs.values())
        yield f"| {name} | {values} |"

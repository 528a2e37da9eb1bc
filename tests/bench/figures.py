"""What a run of the bench found, and its tables: every ratio is of two figures of one run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from tests.bench.others import Flower

PHASES = (  # what peers hand in, in order; a phase ends when the last one's receipt is certified
    ("proof", "learning.proof"),
    ("seal", "learning.seal"),
    ("reveal", "learning.verdict"),
)


@dataclass(frozen=True, slots=True)
class Event:
    """A transaction of a peer: its round, when it was handed in and certified (seconds UTC).

    `sent` and `received` are what the peer's sockets had carried before; `blob` is an update's
    size, 0 for other kinds. All in bytes.
    """

    kind: str
    round: int
    begin_s: float
    end_s: float
    sent: int
    received: int
    blob: int


@dataclass(frozen=True, slots=True)
class Count:
    """What one training peer counted, CPU in seconds."""

    events: tuple[Event, ...]
    train_s: float
    verify_s: float
    process_s: float

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Count":
        """As `tests.bench.peer` writes it."""
        events = tuple(Event(**event) for event in document["events"])
        return cls(events, document["train_s"], document["verify_s"], document["process_s"])


@dataclass(frozen=True, slots=True)
class Network:
    """A task on four validators: medians over rounds, and sums over peers and rounds.

    `phases_s` maps each phase to [last peer begins to hand in, last one is certified], in seconds
    after the round opened. Bytes are of one client in one round, from proof to proof.
    """

    round_s: float
    phases_s: dict[str, tuple[float, float]]
    sent: float
    received: float
    update: int
    train_s: float
    verify_s: float
    peers_s: float

    @property
    def traffic_ratio(self) -> float:
        """Bytes of a client and round over twice the update's size (FedAvg: down and up)."""
        return (self.sent + self.received) / (2 * self.update)

    @property
    def verification_ratio(self) -> float:
        """CPU of all verifiers over CPU of all trainers."""
        return self.verify_s / self.train_s


@dataclass(frozen=True, slots=True)
class Learning:
    """One run of `scripts/bench learning`, with what it ran on."""

    rounds: int
    cores: int
    load: float  # runnable processes in the minute before: above 0, others disturbed
    parameters: int
    steps: int
    bare64_s: float  # one round of all sites, one after the other
    bare32_s: float
    plain: Network
    replayed: Network | None  # None where it was not asked for
    rule_parameters: int
    rules_ms: dict[str, float]  # milliseconds per million parameters
    byzfl_ms: dict[str, float]  # the same of byzfl's; {} where it is not installed
    flower: Flower | None  # None where no environment of it is named


def summarize(opened_s: Sequence[float], counts: Sequence[Count]) -> Network:
    """The figures of a network whose rounds opened at these times, then the task's end.

    The first round is left out: peers start, and learn of the task, in it.
    """
    spans = [after - before for before, after in pairwise(opened_s[1:])]
    assert spans, "expected two rounds or more"
    sent, received, blobs = [], [], []
    for count in counts:
        proofs = sorted(
            (event for event in count.events if event.kind == "learning.proof"),
            key=lambda event: event.round,
        )
        first, last = proofs[0], proofs[-1]
        between = last.round - first.round
        sent.append((last.sent - first.sent) / between)
        received.append((last.received - first.received) / between)
        blobs.append(last.blob)
    return Network(
        round_s=median(spans),
        phases_s={name: _phase(kind, opened_s, counts) for name, kind in PHASES},
        sent=median(sent),
        received=median(received),
        update=max(blobs),
        train_s=sum(count.train_s for count in counts),
        verify_s=sum(count.verify_s for count in counts),
        peers_s=sum(count.process_s for count in counts),
    )


def _phase(kind: str, opened_s: Sequence[float], counts: Sequence[Count]) -> tuple[float, float]:
    begins, ends = [], []
    for number in range(2, len(opened_s)):
        found = [
            event
            for count in counts
            for event in count.events
            if (event.kind, event.round) == (kind, number)
        ]
        begins.append(max(event.begin_s for event in found) - opened_s[number - 1])
        ends.append(max(event.end_s for event in found) - opened_s[number - 1])
    return median(begins), median(ends)


def document(found: Learning) -> dict[str, Any]:
    """All figures and ratios, for JSON."""
    networks = {"plain": found.plain, "replayed": found.replayed}
    ratios: dict[str, dict[str, float]] = {
        name: {
            "round_over_bare": network.round_s / found.bare64_s,
            "overhead_s": network.round_s - found.bare64_s,
            "bytes_over_twice_update": network.traffic_ratio,
            "verification_over_training_cpu": network.verification_ratio,
        }
        for name, network in networks.items()
        if network is not None
    }
    if found.flower is not None:
        ratios["flower"] = {
            "round_over_bare": found.flower.round_s / found.bare64_s,
            "overhead_s": found.flower.round_s - found.bare64_s,
        }
    return asdict(found) | {"ratios": ratios}


def markdown(found: Learning) -> str:
    """The tables."""
    ours = [("without replay", found.plain)]
    if found.replayed is not None:
        ours.append(("with replay", found.replayed))
    peers = " and ".join(f"{net.peers_s:.1f} s {name}" for name, net in ours)
    lines = [
        "# What a round of training costs",
        "",
        f"{found.rounds} rounds (medians, the first left out), four sites with {found.steps} steps "
        f"each, {found.parameters} parameters, {found.cores} cores, load {found.load:.1f} before.",
        "",
        "| | round, s | over bare | overhead, s | client's bytes a round | over twice the update "
        "| verification over training CPU |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| bare torch, float64 | {found.bare64_s:.4f} | 1 | 0 | | | |",
        f"| bare torch, float32 | {found.bare32_s:.4f} | {found.bare32_s / found.bare64_s:.2f} "
        "| | | | |",
    ]
    lines += [
        f"| four validators, {name} | {net.round_s:.3f} | {net.round_s / found.bare64_s:.1f} "
        f"| {net.round_s - found.bare64_s:.3f} | {net.sent + net.received:.0f} "
        f"| {net.traffic_ratio:.2f} | {net.verification_ratio:.2f} |"
        for name, net in ours
    ]
    if found.flower is not None:
        net = found.flower
        lines.append(
            f"| Flower simulation, its first round after {net.start_s:.0f} s | {net.round_s:.3f} "
            f"| {net.round_s / found.bare64_s:.1f} | {net.round_s - found.bare64_s:.3f} | | | |"
        )
    lines += [
        "",
        "Bytes are what TCP carried for a site's peer, trainer and verifier, TLS and HTTP included;"
        f" an update's file has {found.plain.update}. CPU of all peers' processes: {peers}.",
        "",
        "| in a round, s after it opened | " + " | ".join(name for name, _ in ours) + " |",
        "| --- |" + " ---: |" * len(ours),
    ]
    for phase, _ in PHASES:
        for place, what in enumerate(("handed in by the last", "certified for the last")):
            row = " | ".join(f"{net.phases_s[phase][place]:.3f}" for _, net in ours)
            lines.append(f"| {phase} {what} | {row} |")
    lines.append("| round closed | " + " | ".join(f"{net.round_s:.3f}" for _, net in ours) + " |")
    lines += [
        "",
        f"| rule, 15 updates of {found.rule_parameters} parameters | ms per million parameters "
        "| byzfl |",
        "| --- | ---: | ---: |",
    ]
    for name, ms in found.rules_ms.items():
        theirs = f"{found.byzfl_ms[name]:.0f}" if name in found.byzfl_ms else "not installed"
        lines.append(f"| {name} | {ms:.0f} | {theirs} |")
    return "\n".join(lines) + "\n"

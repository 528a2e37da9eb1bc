"""What happened in a run, for people line by line and for programs as JSON lines."""

import json
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

from consensus.event import (
    Broadcast,
    Certified,
    Deliver,
    Effect,
    Fault,
    Halt,
    Persist,
    Rejected,
    Send,
    SetTimer,
    Turned,
)
from consensus.message import Body, ViewChange

DIGITS = 8  # of a digest, enough to tell those of one run apart

Value: TypeAlias = str | int | bool | list[int] | None


class Trace:
    """Collects what is said of a run: a digest, by which runs are compared, and the lines."""

    def __init__(self, *, keep: bool = False) -> None:
        """With `keep` the lines can be saved."""
        self.records = 0
        self._keep = keep
        self._digest = sha256()
        self._text: list[str] = []
        self._lines: list[str] = []

    @property
    def digest(self) -> str:
        """Equal for equal runs."""
        return self._digest.hexdigest()

    def say(self, at_ms: int, node: str, what: str, **fields: Value) -> None:
        """Add one record."""
        self.records += 1
        line = json.dumps({"at_ms": at_ms, "node": node, "what": what, **fields}, sort_keys=True)
        self._digest.update(line.encode() + b"\n")
        if self._keep:
            rest = " ".join(f"{key}={value}" for key, value in fields.items())
            self._lines.append(line)
            self._text.append(f"{at_ms:>8} ms  {node:<22} {what:<10} {rest}".rstrip())

    def save(self, path: Path) -> None:
        """Write the transcript to `path`, and JSON lines beside it to `path`.jsonl."""
        path.write_text("\n".join(self._text) + "\n")
        Path(f"{path}.jsonl").write_text("\n".join(self._lines) + "\n")


def short(digest: bytes) -> str:
    """The first digits of a digest."""
    return digest.hex()[:DIGITS]


def tell(body: Body) -> dict[str, Value]:
    """A message's kind and whatever of view, sequence, height and digest it has."""
    told: dict[str, Value] = {"message": body.TAG}
    for name in ("view", "sequence", "height", "first", "executed", "active"):
        if hasattr(body, name):
            told[name] = getattr(body, name)
    for name in ("digest", "header"):
        if hasattr(body, name):
            told[name] = short(getattr(body, name))
    if isinstance(body, ViewChange):
        told["prepared"] = [proof.sequence for proof in body.prepared]
    return told


def tell_effect(effect: Effect) -> tuple[str, dict[str, Value]] | None:
    """An effect as a record's `what` and fields; None for what only repeats another one."""
    told: tuple[str, dict[str, Value]] | None = None
    match effect:
        case Broadcast(envelope):
            told = "send", {"to": "all", **tell(envelope.body)}
        case Send(to, envelope):
            told = "send", {"to": to, **tell(envelope.body)}
        case Deliver(sequence, payload, proof):
            told = (
                "deliver",
                {
                    "sequence": sequence,
                    "view": proof.view,
                    "digest": short(proof.digest),
                    "bytes": len(payload),
                },
            )
        case Certified(certificate):
            told = (
                "certified",
                {"height": certificate.height, "header": short(certificate.header)},
            )
        case Persist(entry):
            told = "persist", {"entry": entry.TAG}
        case SetTimer(timer, delay_ms):
            told = "timer", {"name": timer.name.value, "delay_ms": delay_ms}
        case Rejected(peer, code):
            told = "rejected", {"peer": peer, "code": code}
        case Turned(epoch):
            told = "epoch", {"number": epoch.number, "first": epoch.first}
        case Fault(evidence):
            told = "fault", {"peer": evidence.validator}
        case Halt(reason):
            told = "halt", {"reason": reason}
    return told

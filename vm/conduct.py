"""Records of what is found out after a round: audits, marks on models, reputations.

All of it follows from facts that are settled on the chain, never from anybody's opinion of anybody.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from vm.shape import Code, Count, Digest, Height, Name, Note, TimeMs


class AuditOutcome(StrEnum):
    """What an on-site audit of a trace came to; unavailable is expired or withdrawn data."""

    PASSED = "passed"
    FAILED = "failed"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Visit:
    """A hospital's word, before anything is replayed, that it let an auditor at one update's trace.

    Without it nobody can attest what a replay came to.
    """

    KIND: ClassVar[str] = "visit"
    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    organisation: Name  # whose update
    auditor_organisation: Name
    auditor: Name
    trainer: Name
    transaction: Digest
    height: Height
    time_ms: TimeMs
    blind: Digest

    @property
    def key(self) -> tuple[str, int, str, str]:
        """Found by task, round, the update's organisation and the auditor."""
        return (self.task, self.round, self.organisation, self.auditor)


@dataclass(frozen=True, slots=True)
class Audit:
    """An auditor's attestation of one update's trace, replayed at the hospital that trained it.

    `segments` is how many were replayed. It trusts the machine that the auditor was given there.
    One that is unavailable gives way to a later one of its organisation that has replayed.
    """

    KIND: ClassVar[str] = "audit"
    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    organisation: Name  # whose update
    auditor_organisation: Name
    auditor: Name
    outcome: AuditOutcome
    code: Code
    reason: Note
    segments: Count
    transaction: Digest
    height: Height
    blind: Digest

    @property
    def key(self) -> tuple[str, int, str, str]:
        """Found by task, round, the update's organisation and the auditor's."""
        return (self.task, self.round, self.organisation, self.auditor_organisation)


class MarkDecision(StrEnum):
    """What a steward has decided on a marked model: nothing yet, go on with it, or give it up."""

    OPEN = "open"
    KEPT = "kept"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class ModelMark:
    """A failed audit reached this model: `version` and all later ones hold the update.

    `task`, `round`, `organisation` and `auditor_organisation` are the newest failed audit's. Unless
    `decision` is kept, no task trains the model; `steward` and `reason` come with the decision.
    """

    KIND: ClassVar[str] = "model_mark"
    VERSION: ClassVar[int] = 1

    model: Name
    version: Count
    task: Name
    round: Count
    organisation: Name
    auditor_organisation: Name
    decision: MarkDecision
    steward: Name | None
    reason: Note

    @property
    def key(self) -> tuple[str]:
        """Found by the model's id."""
        return (self.model,)


@dataclass(frozen=True, slots=True)
class Reputation:
    """How often an organisation's updates, verdicts and traces came to what, over all tasks."""

    KIND: ClassVar[str] = "reputation"
    VERSION: ClassVar[int] = 1

    organisation: Name
    accepted: Count  # updates
    rejected: Count
    undecided: Count
    absent: Count
    declined: Count
    verdicts: Count  # given on others' updates
    odd: Count  # of these, alone against all others on an update that was decided
    silent: Count  # rounds with updates to judge in which its verifier revealed nothing
    unrevealed: Count  # of these, after it had sealed
    audits_passed: Count  # of its own traces
    audits_failed: Count
    credits: Count

    @property
    def key(self) -> tuple[str]:
        """Found by the organisation's id."""
        return (self.organisation,)

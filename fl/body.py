"""Bodies of the transactions of federated learning; `fl.kinds` says which handler takes which."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from vm.conduct import AuditOutcome, MarkDecision
from vm.learning import (
    BlobBytes,
    ContributionBp,
    Decision,
    OwnLoop,
    ScoreBp,
    Stored,
)
from vm.record import PARTICIPANTS_MAX, ModelSpec
from vm.shape import Address, Code, Count, Digest, Int, Many, Name, Note
from vm.terms import Evidence, Segments, Terms


@dataclass(frozen=True, slots=True)
class RegisterModel:
    """Body of `model.register`: version 0, whose weights are a blob and never drawn from a seed.

    Initialisation from a seed differs between machines; a blob does not.
    """

    VERSION: ClassVar[int] = 1

    id: Name
    spec: ModelSpec
    grid_bits: Annotated[int, Int(20, 24)]
    weights: Address
    weights_bytes: BlobBytes


@dataclass(frozen=True, slots=True)
class OpenTask:
    """Body of `task.open`."""

    VERSION: ClassVar[int] = 1

    id: Name
    terms: Terms


@dataclass(frozen=True, slots=True)
class CloseTask:
    """Body of `task.close`: the present round is the task's last."""

    VERSION: ClassVar[int] = 1

    task: Name
    reason: Note


@dataclass(frozen=True, slots=True)
class ApproveTask:
    """Body of `task.approve`: the sender's site takes part under the terms of this digest."""

    VERSION: ClassVar[int] = 1

    task: Name
    terms: Digest


@dataclass(frozen=True, slots=True)
class WithdrawApproval:
    """Body of `task.withdraw`: the sender's site takes no further part."""

    VERSION: ClassVar[int] = 1

    task: Name


@dataclass(frozen=True, slots=True)
class ProofOfLearning:
    """Body of `learning.proof`: an update and the commitment to how it was trained.

    `norm`, `trace`, `segments`, `data` and `loop` are as in `vm.learning.Update`.
    """

    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    dataset: Name
    base_version: Count
    blob: Address
    blob_bytes: BlobBytes
    norm: Count
    trace: Digest
    segments: Segments
    data: Digest
    evidence: Evidence
    loop: OwnLoop | None


@dataclass(frozen=True, slots=True)
class DeclineRound:
    """Body of `learning.decline`: the sender's organisation sends no update in this round."""

    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    code: Code
    reason: Note


@dataclass(frozen=True, slots=True)
class CommitSecret:
    """Body of `learning.commit`: `fl.challenge.commitment` of the sender's secret of a round."""

    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    commitment: Digest


@dataclass(frozen=True, slots=True)
class SealVerdicts:
    """Body of `learning.seal`: `fl.challenge.seal` of what the sender will reveal.

    `scores` is how many scores that may publish, contributions included: none, one for each update
    of others, or two, so that the number tells nothing of the judgements.
    """

    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    seal: Digest
    scores: Count


@dataclass(frozen=True, slots=True)
class Judged:
    """A judgement of one organisation's update.

    `update` is the id of the transaction that brought it, so that a verdict names the very bytes
    that were judged. `segment` names the one that failed, `near` the organisation whose update this
    one nearly repeats. Nobody but the verifier can tell `blind`, so that judgements cannot be tried
    out on their seal, nor on the verdict's digest, even when the secret is open.
    """

    VERSION: ClassVar[int] = 1

    organisation: Name
    update: Digest
    decision: Decision
    code: Code
    reason: Note
    segment: Count | None
    score_bp: ScoreBp | None
    contribution_bp: ContributionBp | None
    near: Name | None
    blind: Digest


@dataclass(frozen=True, slots=True)
class RevealVerdicts:
    """Body of `learning.verdict`: the sender's secret, and its judgements of all others' updates.

    They stand in order of the task's sites.
    """

    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    secret: Digest
    judgements: Annotated[tuple[Judged, ...], Many(PARTICIPANTS_MAX)]


@dataclass(frozen=True, slots=True)
class RerunVerdict:
    """Body of `learning.rerun`: the sender has re-run what another verifier had failed.

    It says again what it said, with `segment` nil, or fails one of the segments that were named.
    """

    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    organisation: Name
    update: Digest
    decision: Decision
    code: Code
    reason: Note
    segment: Count | None


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Body of `learning.aggregate`: the accepted updates come to `result`, and I store the blobs.

    `accepted` is the round's digest of the accepted set; `state` is the server optimizer's state
    after it.
    """

    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    accepted: Digest
    result: Address
    result_bytes: BlobBytes
    state: Stored | None


@dataclass(frozen=True, slots=True)
class AdmitAuditor:
    """Body of `learning.visit`: the sender's site lets an auditor replay its trace of a round."""

    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    auditor: Name


@dataclass(frozen=True, slots=True)
class AttestAudit:
    """Body of `learning.audit`: what replaying the organisation's trace at its site came to."""

    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    organisation: Name
    outcome: AuditOutcome
    code: Code
    reason: Note
    segments: Count


@dataclass(frozen=True, slots=True)
class DecideModel:
    """Body of `model.decide`: what becomes of a model that a failed audit has marked."""

    VERSION: ClassVar[int] = 1

    model: Name
    decision: MarkDecision
    reason: Note

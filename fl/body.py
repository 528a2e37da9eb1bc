"""Bodies of the transactions of federated learning; `fl.kinds` says which handler takes which."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from vm.learning import (
    BlobBytes,
    Decision,
    ScoreBp,
    Stored,
)
from vm.record import ModelSpec
from vm.shape import Address, Code, Count, Digest, Int, Name, Note
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
class ProofOfLearning:
    """Body of `learning.proof`: an update and the commitment to how it was trained.

    `norm`, `trace`, `segments` and `data` are as in `vm.learning.Update`.
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


@dataclass(frozen=True, slots=True)
class SubmitVerdict:
    """Body of `learning.verdict`: the sender's judgement of one organisation's update.

    `update` is the id of the transaction that brought it, so that a verdict names the very bytes
    that were judged. `segment` names the one that failed.
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
    score_bp: ScoreBp | None


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

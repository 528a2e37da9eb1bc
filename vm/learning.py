"""Records of federated training: task, round, update, verdict (design, section 5).

A task fixes everything that a trainer could otherwise bend. Rules that change these records are in
`fl.rounds`; here is only what they look like.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from vm.record import (
    BLOB_BYTES_MAX,
    COLUMNS_MAX,
    PARTICIPANTS_MAX,
    Label,
    Title,
)
from vm.shape import Address, Code, Count, Digest, Height, Int, Many, Name, Note, TimeMs

ROUNDS_MAX = 1_000  # of one task
FAILURES_MAX = 3  # rounds of one task in a row: what fails thrice needs a person
SEGMENTS_MAX = 1_024  # of one round's trace: all leaves are published with the update
LEVELS_MAX = 32  # of a coded column
TASKS_OPEN_MAX = 64  # due deadlines are found by walking the open tasks
TASKS_OPEN_OF_ORGANISATION_MAX = 16  # so that one steward leaves room for the others
BATCH_ROWS_MIN = 8  # a step on one row moves the weights along that row: the update tells it
ROWS_DRAWN_MIN = 64  # steps x batch_rows: an update is the sum of so many rows' gradients
MICRO = 1_000_000  # constants of preprocessing and training are integers in millionths
WEIGHT_MAX = 1_000_000  # of one dataset in an aggregate: keeps integer sums within int64
PHASE_MS_MAX = 30 * 24 * 3_600 * 1_000  # a phase lasts at most 30 days

Micro = Annotated[int, Int(-(2**53), 2**53)]  # a number in millionths
PhaseMs = Annotated[int, Int(1, PHASE_MS_MAX)]
BlobBytes = Annotated[int, Int(1, BLOB_BYTES_MAX)]
Segments = Annotated[int, Int(1, SEGMENTS_MAX)]
ScoreBp = Annotated[int, Int(0, 1_000_000)]  # hundredths of a hundredth of a nat


@dataclass(frozen=True, slots=True)
class Level:
    """A code of a column and the number that it stands for."""

    VERSION: ClassVar[int] = 1

    text: Label
    value: Micro


@dataclass(frozen=True, slots=True)
class Column:
    """How one column becomes one input: (value - center) / scale, `impute` where it is missing.

    With `levels` the cell is text and must be one of them; without, it is a decimal number.
    `low` and `high` bound what a plausible cell holds, in the source's unit.
    """

    VERSION: ClassVar[int] = 1

    name: Label
    unit: Label
    levels: Annotated[tuple[Level, ...], Many(LEVELS_MAX)]
    low: Micro
    high: Micro
    impute: Micro
    center: Micro
    scale: Annotated[int, Int(1, 2**53)]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The columns in order of the model's inputs, and the outcome (levels map to 0 or 1)."""

    VERSION: ClassVar[int] = 1

    columns: Annotated[tuple[Column, ...], Many(COLUMNS_MAX, 1)]
    outcome: Column


class Optimizer(StrEnum):
    """Local optimizers that replay bit for bit on a grid."""

    SGD = "sgd"


@dataclass(frozen=True, slots=True)
class Training:
    """Local training of one round: `steps` minibatches, a snapshot every `snapshot_steps`."""

    VERSION: ClassVar[int] = 1

    optimizer: Optimizer
    rate: Micro
    momentum: Annotated[int, Int(0, MICRO - 1)]
    decay: Annotated[int, Int(0, MICRO)]  # L2 penalty on weights and biases, in millionths
    steps: Annotated[int, Int(1, 100_000)]
    batch_rows: Annotated[int, Int(1, 65_536)]
    snapshot_steps: Annotated[int, Int(1, 100_000)]


class Rule(StrEnum):
    """Aggregation rules, all integer."""

    WEIGHTED_MEAN = "weighted_mean"
    TRIMMED_MEAN = "trimmed_mean"


@dataclass(frozen=True, slots=True)
class Aggregation:
    """The rule, the number `f` of Byzantine updates that it stands, and its smallest input."""

    VERSION: ClassVar[int] = 1

    rule: Rule
    f: Annotated[int, Int(0, PARTICIPANTS_MAX)]
    updates_min: Annotated[int, Int(1, PARTICIPANTS_MAX)]


@dataclass(frozen=True, slots=True)
class Policy:
    """When a verifier fails an update.

    Norm: above `norm_factor` (millionths) times the lower median norm of the round's updates.
    Score: mean paired rise of log-loss above `margin` (millionths of a nat) + 2 standard errors.
    """

    VERSION: ClassVar[int] = 1

    norm_factor: Annotated[int, Int(1, 1_000 * MICRO)]
    margin: Annotated[int, Int(0, 100 * MICRO)]


class Evidence(StrEnum):
    """What backs an update; shown wherever an update is shown."""

    REPLAYED = "replayed"
    COMMITTED = "committed"
    SCORED = "scored"


@dataclass(frozen=True, slots=True)
class Site:
    """One organisation's part in a task; `weight` comes from the dataset's banded row count."""

    VERSION: ClassVar[int] = 1

    organisation: Name
    trainer: Name
    verifier: Name
    dataset: Name
    weight: Annotated[int, Int(1, WEIGHT_MAX)]


@dataclass(frozen=True, slots=True)
class Terms:
    """All that a task fixes."""

    VERSION: ClassVar[int] = 1

    title: Title
    model: Name
    preprocessing: Preprocessing
    training: Training
    aggregation: Aggregation
    policy: Policy
    evidence: Evidence  # the least that is accepted
    sites: Annotated[tuple[Site, ...], Many(PARTICIPANTS_MAX, 2)]
    rounds: Annotated[int, Int(1, ROUNDS_MAX)]
    submit_ms: PhaseMs
    verdict_ms: PhaseMs
    aggregate_ms: PhaseMs
    retention_ms: Annotated[int, Int(0, 10 * 365 * 24 * 3_600 * 1_000)]  # of updates' blobs
    purpose: Label  # what the model may be used for, in words


class TaskPhase(StrEnum):
    """A task runs until its rounds are done or one of them fails for good."""

    OPEN = "open"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Task:
    """A federated training job and how far it has come.

    `base_version` is the model's version when the task opened; every closed round adds one. The
    task is done when `closed` reaches `terms.rounds`: rounds that failed do not count.
    """

    KIND: ClassVar[str] = "task"
    VERSION: ClassVar[int] = 1

    id: Name
    steward: Name
    organisation: Name
    terms: Terms
    base_version: Count
    phase: TaskPhase
    round: Count  # the newest round's number, from 1
    closed: Count  # rounds that made a model version
    failures: Count  # rounds that failed in a row
    opened_height: Height
    opened_ms: TimeMs

    @property
    def key(self) -> tuple[str]:
        """Found by its id."""
        return (self.id,)


class RoundPhase(StrEnum):
    """Submissions, then verdicts, then aggregates by the validators, then the end."""

    SUBMIT = "submit"
    VERDICT = "verdict"
    AGGREGATE = "aggregate"
    CLOSED = "closed"
    FAILED = "failed"


class UpdateStatus(StrEnum):
    """An update's fate; undecided is not aggregated and blames nobody, absent never came."""

    SUBMITTED = "submitted"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNDECIDED = "undecided"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one site in a round, with the reason in words."""

    VERSION: ClassVar[int] = 1

    organisation: Name
    trainer: Name
    status: UpdateStatus
    code: Code
    reason: Note


@dataclass(frozen=True, slots=True)
class Attestation:
    """A validator's signed statement that the accepted updates aggregate to `result`."""

    VERSION: ClassVar[int] = 1

    validator: Name
    accepted: Digest
    result: Address
    result_bytes: BlobBytes


@dataclass(frozen=True, slots=True)
class Round:
    """One round of a task, on the model's version `base_version`.

    `score_bp` is the lower median, over accepted updates, of the lower median of the scores that
    their passing verdicts give.
    """

    KIND: ClassVar[str] = "round"
    VERSION: ClassVar[int] = 1

    task: Name
    number: Count
    phase: RoundPhase
    base_version: Count
    beacon: Digest
    opened_height: Height
    opened_ms: TimeMs
    deadline_ms: TimeMs  # of the present phase
    updates: Count  # submitted so far
    verdicts: Count  # given so far
    accepted: Digest | None  # commits to the accepted updates, once verdicts are settled
    outcomes: Annotated[tuple[Outcome, ...], Many(PARTICIPANTS_MAX)]
    attestations: Annotated[tuple[Attestation, ...], Many(PARTICIPANTS_MAX)]
    score_bp: ScoreBp | None
    model_version: Count | None
    code: Code  # why it failed; "open" or "closed" otherwise
    reason: Note

    @property
    def key(self) -> tuple[str, int]:
        """Found by task and number."""
        return (self.task, self.number)


@dataclass(frozen=True, slots=True)
class Update:
    """A trainer's `ProofOfLearning` as it stands in a round; one per organisation.

    `norm` is the floor of the Euclidean norm of the delta in grid units; `trace` is the RFC 6962
    root over the segment leaves.
    """

    KIND: ClassVar[str] = "update"
    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    organisation: Name
    trainer: Name
    dataset: Name
    base_version: Count
    blob: Address
    blob_bytes: BlobBytes
    norm: Count
    trace: Digest
    segments: Segments
    evidence: Evidence
    transaction: Digest
    height: Height
    status: UpdateStatus

    @property
    def key(self) -> tuple[str, int, str]:
        """Found by task, round and the trainer's organisation."""
        return (self.task, self.round, self.organisation)


class Decision(StrEnum):
    """A verifier's judgement."""

    PASS = "pass"  # noqa: S105 - a judgement, no password
    FAIL = "fail"
    ABSTAIN = "abstain"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One verifier's signed judgement of one update.

    `score_bp`: log-loss of base + update on the verifier's scoring rows, in hundredths of a
    hundredth of a nat, rounded to 100; exact scores would be an oracle on the rows.
    """

    KIND: ClassVar[str] = "verdict"
    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    organisation: Name  # whose update
    verifier: Name
    verifier_organisation: Name
    decision: Decision
    code: Code
    reason: Note
    segment: Count | None
    score_bp: ScoreBp | None
    transaction: Digest
    height: Height

    @property
    def key(self) -> tuple[str, int, str, str]:
        """Found by task, round, the update's organisation and the verifier's."""
        return (self.task, self.round, self.organisation, self.verifier_organisation)


@dataclass(frozen=True, slots=True)
class OpenTasks:
    """The ids of open tasks: where due deadlines are looked for."""

    KIND: ClassVar[str] = "open_tasks"
    VERSION: ClassVar[int] = 1

    tasks: Annotated[tuple[Name, ...], Many(TASKS_OPEN_MAX)]

    @property
    def key(self) -> tuple[()]:
        """There is one."""
        return ()

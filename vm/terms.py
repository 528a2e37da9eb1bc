"""The terms of a task: all that a trainer could otherwise bend (design, section 5).

Who may open a task under which terms is checked in `fl.task`; here is only what they look like.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from vm.record import COLUMNS_MAX, PARTICIPANTS_MAX, Label, Title
from vm.shape import Int, Many, Name

ROUNDS_MAX = 1_000  # of one task
SEGMENTS_MAX = 1_024  # of one round's trace: all leaves are published with the update
LEVELS_MAX = 32  # of a coded column
BATCH_ROWS_MIN = 8  # a step on one row moves the weights along that row: the update tells it
ROWS_DRAWN_MIN = 64  # steps x batch_rows: an update is the sum of so many rows' gradients
MICRO = 1_000_000  # constants of preprocessing and training are integers in millionths
NANO = 1_000_000_000  # Adam's epsilon is one in billionths
WEIGHT_MAX = 1_000_000  # of one dataset in an aggregate: keeps integer sums within int64
PHASE_MS_MAX = 30 * 24 * 3_600 * 1_000  # a phase lasts at most 30 days
RETENTION_MS_MAX = 10 * 365 * 24 * 3_600 * 1_000  # ten years, of blobs and of traces
OFF_BY_ONE_MAX = 1_000  # coordinates of a segment: they may differ by 2^-20 at most
TOLERANCE_MAX = 1_024  # grid steps: 2^-14 on the finest grid, below what a step of training moves
BUCKET_MAX = 64  # updates in one bucket: as many as there are
FACTOR_MAX = 1_000 * MICRO  # of a norm, or of a term of the loss: a thousand in millionths
POOL_MAX = 2**40  # reward credits of one task: shares of a round stay far within 2^53

Micro = Annotated[int, Int(-(2**53), 2**53)]  # a number in millionths
Share = Annotated[int, Int(0, MICRO - 1)]  # below 1, in millionths
Factor = Annotated[int, Int(0, FACTOR_MAX)]  # from 0 to 1,000, in millionths
PhaseMs = Annotated[int, Int(1, PHASE_MS_MAX)]
RetentionMs = Annotated[int, Int(0, RETENTION_MS_MAX)]
Segments = Annotated[int, Int(1, SEGMENTS_MAX)]


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
    ADAM = "adam"


@dataclass(frozen=True, slots=True)
class Training:
    """Local training of one round: `steps` minibatches, a snapshot every `snapshot_steps`.

    Of Adam `momentum` is the beta1; SGD has `beta2` and `epsilon_nano` 0. `proximal` is FedProx's
    mu (Li et al. 2020), 0 for none.
    """

    VERSION: ClassVar[int] = 1

    optimizer: Optimizer
    rate: Micro
    momentum: Share
    beta2: Share
    epsilon_nano: Annotated[int, Int(0, NANO)]  # in 10^-9, below what Micro can say
    decay: Annotated[int, Int(0, MICRO)]  # L2 penalty on weights and biases, in millionths
    proximal: Factor
    steps: Annotated[int, Int(1, 100_000)]
    batch_rows: Annotated[int, Int(1, 65_536)]
    snapshot_steps: Annotated[int, Int(1, 100_000)]


class Rule(StrEnum):
    """Aggregation rules, all integer."""

    WEIGHTED_MEAN = "weighted_mean"
    TRIMMED_MEAN = "trimmed_mean"
    MEDIAN = "median"
    KRUM = "krum"
    MULTI_KRUM = "multi_krum"
    CENTERED_CLIPPING = "centered_clipping"
    GEOMETRIC_MEDIAN = "geometric_median"


class Mixing(StrEnum):
    """What is done with updates before the rule: nothing, or means of some of them each."""

    NONE = "none"
    NEIGHBOURS = "nearest_neighbours"
    BUCKETS = "buckets"


class ServerOptimizer(StrEnum):
    """How an aggregate becomes a step of the model (Reddi et al. 2021)."""

    AVERAGE = "average"
    MOMENTUM = "momentum"
    ADAM = "adam"


@dataclass(frozen=True, slots=True)
class Server:
    """The server-side optimizer; what one does not use is 0."""

    VERSION: ClassVar[int] = 1

    optimizer: ServerOptimizer
    rate: Factor
    momentum: Share
    beta2: Share
    tau: Factor


AVERAGE = Server(ServerOptimizer.AVERAGE, rate=MICRO, momentum=0, beta2=0, tau=0)  # FedAvg


@dataclass(frozen=True, slots=True)
class Aggregation:
    """The rule, the number `f` of Byzantine updates that it stands, and its smallest input.

    `bucket` is how many updates make a bucket, 1 unless mixing is by buckets. `radius_factor` is
    centered clipping's radius as a multiple of the lower median norm, 0 for other rules.
    """

    VERSION: ClassVar[int] = 1

    rule: Rule
    mixing: Mixing
    f: Annotated[int, Int(0, PARTICIPANTS_MAX)]
    updates_min: Annotated[int, Int(1, PARTICIPANTS_MAX)]
    bucket: Annotated[int, Int(1, BUCKET_MAX)]
    radius_factor: Factor
    server: Server


@dataclass(frozen=True, slots=True)
class Replay:
    """What verifiers re-run of an update of class replayed.

    Each draws `segments` of them. In one segment `off_by_one_max` coordinates may differ by one
    grid step. `tolerance` is how far all coordinates may differ, in grid steps; 0 asks for exact
    replay.
    """

    VERSION: ClassVar[int] = 1

    segments: Annotated[int, Int(0, SEGMENTS_MAX)]
    off_by_one_max: Annotated[int, Int(0, OFF_BY_ONE_MAX)]
    tolerance: Annotated[int, Int(0, TOLERANCE_MAX)]


class Valuation(StrEnum):
    """How verifiers value each update's part in the aggregate."""

    NONE = "none"
    LEAVE_ONE_OUT = "leave_one_out"
    SHAPLEY = "shapley"


@dataclass(frozen=True, slots=True)
class Policy:
    """When a verifier fails an update.

    Norm: above `norm_factor` (millionths) times the lower median norm of the round's updates.
    Direction: cosine with the coordinate median of the round's updates below `direction_min`
    (millionths); -MICRO fails none.
    Score: mean paired rise of log-loss above `margin` (millionths of a nat) + 2 standard errors.
    """

    VERSION: ClassVar[int] = 1

    norm_factor: Annotated[int, Int(1, 1_000 * MICRO)]
    direction_min: Annotated[int, Int(-MICRO, MICRO)]
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
    replay: Replay
    evidence: Evidence  # the least that is accepted
    own_loops: bool  # whether a site's own loop may train an update with a trace
    contribution: Valuation
    pool: Annotated[int, Int(0, POOL_MAX)]  # reward credits, shared out over all rounds
    sites: Annotated[tuple[Site, ...], Many(PARTICIPANTS_MAX, 2)]
    rounds: Annotated[int, Int(1, ROUNDS_MAX)]
    submit_ms: PhaseMs
    verdict_ms: PhaseMs
    reveal_ms: PhaseMs  # of phase reveal, and again of phase rerun
    aggregate_ms: PhaseMs
    retention_ms: RetentionMs  # of updates' blobs
    trace_retention_ms: RetentionMs  # for so long a trainer answers an auditor
    purpose: Label  # what the model may be used for, in words

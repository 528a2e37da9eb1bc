"""Records of federated training: task, round, update, verdict (design, section 5).

What a task fixes is in `vm.terms`, what is found out after a round in `vm.conduct`. Rules that
change these records are in `fl.rounds`; here is only what they look like.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from vm.record import BLOB_BYTES_MAX, PARTICIPANTS_MAX
from vm.shape import Address, Code, Count, Digest, Height, Int, Many, Name, Note, TimeMs
from vm.terms import Evidence, Segments, Terms

FAILURES_MAX = 3  # rounds of one task in a row: what fails thrice needs a person
TASKS_OPEN_MAX = 64  # due deadlines are found by walking the open tasks
TASKS_OPEN_OF_ORGANISATION_MAX = 16  # so that one steward leaves room for the others
CONTRIBUTION_BP_MAX = 1_000_000  # 100 nat, more than any loss counts

BlobBytes = Annotated[int, Int(1, BLOB_BYTES_MAX)]
ScoreBp = Annotated[int, Int(0, 1_000_000)]  # hundredths of a hundredth of a nat
ContributionBp = Annotated[int, Int(-CONTRIBUTION_BP_MAX, CONTRIBUTION_BP_MAX)]


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob that validators keep, and its size in bytes."""

    VERSION: ClassVar[int] = 1

    address: Address
    size: BlobBytes


class TaskPhase(StrEnum):
    """A task runs until its rounds are done, its rounds fail for good, or its steward closes it."""

    OPEN = "open"
    COMPLETED = "completed"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Task:
    """A federated training job and how far it has come.

    `base_version` is the model's version when the task opened; every closed round adds one. The
    task is done when `closed` reaches `terms.rounds`: rounds that failed do not count. `server` is
    the server optimizer's state after the newest closed round, None of one that has none.
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
    closing: Note | None  # why its steward has no further round begin; None if one may
    server: Stored | None
    opened_height: Height
    opened_ms: TimeMs

    @property
    def key(self) -> tuple[str]:
        """Found by its id."""
        return (self.id,)


@dataclass(frozen=True, slots=True)
class SiteApproval:
    """A site's word, signed by its trainer, that it takes part in a task under these terms.

    `terms` is digest(TERMS, terms). One that was withdrawn does not stand; it may be given again.
    """

    KIND: ClassVar[str] = "site_approval"
    VERSION: ClassVar[int] = 1

    task: Name
    organisation: Name
    trainer: Name
    terms: Digest
    stands: bool
    transaction: Digest  # that changed it last
    approved_height: Height  # first
    changed_height: Height

    @property
    def key(self) -> tuple[str, str]:
        """Found by task and organisation."""
        return (self.task, self.organisation)


class RoundPhase(StrEnum):
    """Submissions, verdicts sealed, revealed and re-run, aggregates by validators, the end."""

    SUBMIT = "submit"
    VERDICT = "verdict"
    REVEAL = "reveal"
    RERUN = "rerun"
    AGGREGATE = "aggregate"
    CLOSED = "closed"
    FAILED = "failed"


class UpdateStatus(StrEnum):
    """An update's fate; undecided is not aggregated and blames nobody, absent never came.

    Declined is a site that said in time that it sends none, unapproved one that had not approved
    the task in time to be part of the round.
    """

    SUBMITTED = "submitted"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNDECIDED = "undecided"
    ABSENT = "absent"
    DECLINED = "declined"
    UNAPPROVED = "unapproved"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one site in a round, with the reason in words.

    `contribution_bp` is what the update took off the aggregate's mean log-loss, the lower median
    over the others' verifiers that passed it; `credits` is the site's share of the task's pool.
    `near` is the organisation whose update this one nearly repeats, as most verifiers found; which
    of the two is the copy, nobody can tell.
    """

    VERSION: ClassVar[int] = 1

    organisation: Name
    trainer: Name
    status: UpdateStatus
    code: Code
    reason: Note
    contribution_bp: ContributionBp | None
    credits: Count
    near: Name | None


@dataclass(frozen=True, slots=True)
class Attestation:
    """A validator's signed statement that the accepted updates aggregate to `result`.

    `state` is the server optimizer's state after it.
    """

    VERSION: ClassVar[int] = 1

    validator: Name
    accepted: Digest
    result: Address
    result_bytes: BlobBytes
    state: Stored | None


@dataclass(frozen=True, slots=True)
class Round:
    """One round of a task, on the model's version `base_version`.

    `beacon` fixes the order of the rows, `seed`, known once submissions have ended, the challenges.
    `parts` are the organisations whose absence counts: those that had approved as the round opened;
    in round 1 those that approve within the first half of its submissions.
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
    seed: Digest | None
    updates: Count  # submitted so far
    declined: Count  # sites that said that they send none
    parts: Annotated[tuple[Name, ...], Many(PARTICIPANTS_MAX)]
    committed: Count  # verifiers that have committed to a secret
    sealed: Count  # verifiers that have sealed their judgements
    revealed: Count  # verifiers that have revealed them
    verdicts: Count  # given so far, in all
    reruns: Count  # of failed segments by those who saw no fail: still due in phase rerun
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
class OwnLoop:
    """What trained in place of the task's recipe: digests of a script and of its packages.

    They are named by the site's own process, before anybody asks: an auditor finds this script at
    the site or finds that it is not there, and nobody can replay it from outside.
    """

    VERSION: ClassVar[int] = 1

    script: Digest
    environment: Digest


@dataclass(frozen=True, slots=True)
class Update:
    """A trainer's `ProofOfLearning` as it stands in a round; one per organisation.

    `norm` is the floor of the Euclidean norm of the delta in grid units; `trace` is the RFC 6962
    root over the segment leaves; `data` commits to the training rows in order. `loop` is None of
    one that the task's own recipe trained, which an auditor may hold it to. Audits are counted
    here, so that whoever sees an update sees how often its trace was looked into.
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
    data: Digest
    evidence: Evidence
    loop: OwnLoop | None
    transaction: Digest
    height: Height
    status: UpdateStatus
    audits_passed: Count
    audits_failed: Count
    audits_unavailable: Count

    @property
    def key(self) -> tuple[str, int, str]:
        """Found by task, round and the trainer's organisation."""
        return (self.task, self.round, self.organisation)


@dataclass(frozen=True, slots=True)
class TrainingPart:
    """The rows that an organisation trains on in a task: the same in every round.

    `data` is that of its first update.
    """

    KIND: ClassVar[str] = "training_part"
    VERSION: ClassVar[int] = 1

    task: Name
    organisation: Name
    data: Digest

    @property
    def key(self) -> tuple[str, str]:
        """Found by task and organisation."""
        return (self.task, self.organisation)


@dataclass(frozen=True, slots=True)
class Decline:
    """A site's word that it sends no update in a round, and why."""

    KIND: ClassVar[str] = "decline"
    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    organisation: Name
    trainer: Name
    code: Code
    reason: Note
    transaction: Digest
    height: Height

    @property
    def key(self) -> tuple[str, int, str]:
        """Found by task, round and the trainer's organisation."""
        return (self.task, self.round, self.organisation)


@dataclass(frozen=True, slots=True)
class Commitment:
    """What binds a verifier in a round: first to its secret, then to its judgements.

    `commitment` is given while updates come in, `seal` before anybody's judgements are known, and
    `secret` with them: from it follows which segments the verifier drew. `scores` is how many the
    sealed judgements may publish.
    """

    KIND: ClassVar[str] = "commitment"
    VERSION: ClassVar[int] = 1

    task: Name
    round: Count
    organisation: Name
    verifier: Name
    commitment: Digest
    seal: Digest | None
    scores: Count
    secret: Digest | None

    @property
    def key(self) -> tuple[str, int, str]:
        """Found by task, round and the verifier's organisation."""
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
    `contribution_bp`: what the update takes off the log-loss of the aggregate of all updates that
    the verifier would pass, in the same unit and as coarse. `near`: whose update this one nearly
    repeats. `rerun`: it was said again, or changed to a fail, after another verifier had failed a
    segment.
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
    contribution_bp: ContributionBp | None
    near: Name | None
    rerun: bool
    transaction: Digest
    height: Height
    blind: Digest

    @property
    def key(self) -> tuple[str, int, str, str]:
        """Found by task, round, the update's organisation and the verifier's."""
        return (self.task, self.round, self.organisation, self.verifier_organisation)


@dataclass(frozen=True, slots=True)
class Holdout:
    """How many scores on a dataset's scoring rows may have been published, contributions included.

    Never more than the dataset's `scores_max`: many scores together tell of single rows.
    """

    KIND: ClassVar[str] = "holdout"
    VERSION: ClassVar[int] = 1

    dataset: Name
    scores: Count

    @property
    def key(self) -> tuple[str]:
        """Found by the dataset's id."""
        return (self.dataset,)


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

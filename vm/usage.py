"""Uses of models: leaves that stay with the member who made them, and what the chain has of them.

A use never goes on the chain. A batch of them does, as an RFC 6962 root over salted leaves with
counts and times; `vm.opened` shows single leaves to whoever asks. Nothing here tells of a patient:
purposes are codes, and a note is a digest under a salt that is not shown with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, ClassVar

from vm.digest import DIGEST_BYTES, USE_NOTE, digest
from vm.execute import Context, Kind
from vm.genesis import ORGANISATIONS_MAX
from vm.record import Model, Organisation, Standing
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, Bytes, Count, Digest, Height, Int, Many, Name, TimeMs
from vm.state import State

ENTRIES_MAX = 65_536  # uses in one batch: all leaves of one take about 7 MiB to show
COUNT_MAX = 1_000_000  # of one use: more rows than anybody scores in one call
SALT_BYTES = 16  # of a leaf: nobody guesses 128 bits
AGE_MS_MAX = 90 * 24 * 3_600_000  # of a use when it is recorded: a quarter, and no back-dating
HOUR_MS = 3_600_000  # to which a batch's times are rounded: one use alone tells nobody's minute
AHEAD_MS_MAX = 60_000  # of a hospital's clock before a block's time, which may lag by 30 s itself

Salt = Annotated[bytes, Bytes(SALT_BYTES, SALT_BYTES)]
Entries = Annotated[int, Int(1, ENTRIES_MAX)]


class Purpose(StrEnum):
    """What a model was used for."""

    CARE = "care"  # of the person whose row it was
    RESEARCH = "research"
    QUALITY = "quality"  # of the hospital's own work: audit, benchmarks, monitoring of the model
    EDUCATION = "education"
    DEVELOPMENT = "development"  # of software or further models, on rows that decide nothing


class Action(StrEnum):
    """What was done with a model: rows went through it, or its weights left for another system."""

    INFERENCE = "inference"
    EXPORT = "export"


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a model version: a leaf of a batch, in the member's own books alone.

    `count` is how many rows were scored, or copies exported. `note` is
    digest(USE_NOTE, salt of its own || text) of what the member noted for itself.
    """

    VERSION: ClassVar[int] = 1

    salt: Salt
    time_ms: TimeMs
    model: Name
    version: Count
    purpose: Purpose
    action: Action
    count: Annotated[int, Int(1, COUNT_MAX)]
    note: Digest | None


@dataclass(frozen=True, slots=True)
class UseBatch:
    """Body of `model.use`: `entries` uses of one model version, for one purpose, `count` in all.

    `root` is the RFC 6962 root over the packed uses; `first_ms` and `last_ms` are the `hours`
    around the earliest and the latest of their times.
    """

    VERSION: ClassVar[int] = 1

    model: Name
    version: Count
    purpose: Purpose
    action: Action
    count: Count
    entries: Entries
    root: Digest
    first_ms: TimeMs
    last_ms: TimeMs


@dataclass(frozen=True, slots=True)
class UseBatchRecord:
    """A batch of uses as an organisation recorded it: its `number`th of the model, from 1."""

    KIND: ClassVar[str] = "use_batch"
    VERSION: ClassVar[int] = 1

    model: Name
    organisation: Name
    number: Count
    member: Name
    version: Count
    purpose: Purpose
    action: Action
    count: Count
    entries: Entries
    root: Digest
    first_ms: TimeMs
    last_ms: TimeMs
    transaction: Digest
    height: Height
    time_ms: TimeMs  # of the block
    blind: Digest

    @property
    def key(self) -> tuple[str, str, int]:
        """Found by model, organisation and number."""
        return (self.model, self.organisation, self.number)


@dataclass(frozen=True, slots=True)
class OrganisationUsage:
    """What an organisation recorded of a model: batches, rows scored and copies exported."""

    VERSION: ClassVar[int] = 1

    organisation: Name
    batches: Count
    inferences: Count
    exports: Count


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """All recorded uses of a model, over its versions, by organisation in order of id.

    `batches` says how many records `UseBatchRecord` there are, numbered from 1: whoever has read
    so many has read all.
    """

    KIND: ClassVar[str] = "model_usage"
    VERSION: ClassVar[int] = 1

    model: Name
    organisations: Annotated[tuple[OrganisationUsage, ...], Many(ORGANISATIONS_MAX)]
    blind: Digest

    @property
    def key(self) -> tuple[str]:
        """Found by the model's id."""
        return (self.model,)

    def of(self, organisation: str) -> OrganisationUsage:
        """What this organisation recorded; nothing, if it never did."""
        found = (usage for usage in self.organisations if usage.organisation == organisation)
        return next(found, OrganisationUsage(organisation, 0, 0, 0))


def note_digest(salt: bytes, note: str) -> Digest:
    """What a leaf holds of a note; `salt` is `SALT_BYTES` of its own, shown with the note alone."""
    return digest(USE_NOTE, salt + note.encode())


def hours(times_ms: Sequence[int]) -> tuple[int, int]:
    """The full hour by which these times have begun, and that by which they are over."""
    return min(times_ms) // HOUR_MS * HOUR_MS, -(-max(times_ms) // HOUR_MS) * HOUR_MS


def record_uses(state: State, context: Context, body: UseBatch) -> None:
    """Record a batch of uses; a mark on the model forbids none, for what was done is to be known.

    Raises `Refused` with `state.missing` or `use.*`.
    """
    # 1. the model has this version
    state.require(Model, body.model, body.version)
    # 2. the sender's organisation is enrolled
    organisation = state.require(Organisation, context.sender.organisation)
    if organisation.standing is not Standing.ENROLLED:
        raise Refused(
            "use.organisation",
            f"expected {organisation.id} enrolled, found {organisation.standing.value}",
        )
    # 3. the times are in order, neither to come nor so old that anybody may have made them up
    _check_times(body, context.block.time_ms)
    # 4. each use has a count
    if not body.entries <= body.count <= body.entries * COUNT_MAX:
        raise Refused(
            "use.count",
            f"expected a count of {body.entries} to {body.entries * COUNT_MAX} of {body.entries} "
            f"uses, found {body.count}",
        )
    # 5. the organisation's totals stay numbers that every reader can hold
    usage = state.get(ModelUsage, body.model) or ModelUsage(body.model, (), bytes(DIGEST_BYTES))
    added = _add(usage.of(organisation.id), body)
    if max(added.inferences, added.exports) > HEIGHT_MAX:
        raise Refused("use.total", f"expected at most {HEIGHT_MAX} in all, found more")
    # 6. there is room for one more organisation
    others = tuple(item for item in usage.organisations if item.organisation != organisation.id)
    if len(others) == ORGANISATIONS_MAX:
        raise Refused(
            "use.organisations", f"expected at most {ORGANISATIONS_MAX} organisations, found more"
        )
    ordered = sorted((*others, added), key=lambda item: item.organisation)
    # with the blind of before, or who wrote it last could try out what others have recorded
    blind = context.blind(ModelUsage, body.model, before=usage.blind)
    state.put(replace(usage, organisations=tuple(ordered), blind=blind))
    state.put(_record(context, body, added.batches))


def _check_times(body: UseBatch, now_ms: int) -> None:
    span_ms = body.last_ms - body.first_ms
    whole = body.first_ms % HOUR_MS == span_ms % HOUR_MS == 0
    if span_ms < 0 or not whole or (body.entries == 1 and span_ms > HOUR_MS):
        raise Refused(
            "use.times",
            f"expected the full hours around {body.entries} uses, found {body.first_ms} ms to "
            f"{body.last_ms} ms",
        )
    first_ms, last_ms = hours((now_ms - AGE_MS_MAX, now_ms + AHEAD_MS_MAX))
    if body.last_ms > last_ms:
        raise Refused(
            "use.future", f"expected uses up to {last_ms} ms, found one up to {body.last_ms} ms"
        )
    if body.first_ms < first_ms:
        raise Refused(
            "use.old", f"expected uses from {first_ms} ms on, found one from {body.first_ms} ms on"
        )


def _add(usage: OrganisationUsage, body: UseBatch) -> OrganisationUsage:
    batches = usage.batches + 1
    match body.action:
        case Action.INFERENCE:
            return replace(usage, batches=batches, inferences=usage.inferences + body.count)
        case Action.EXPORT:
            return replace(usage, batches=batches, exports=usage.exports + body.count)


def _record(context: Context, body: UseBatch, number: int) -> UseBatchRecord:
    organisation = context.sender.organisation
    return UseBatchRecord(
        model=body.model,
        organisation=organisation,
        number=number,
        member=context.sender.id,
        version=body.version,
        purpose=body.purpose,
        action=body.action,
        count=body.count,
        entries=body.entries,
        root=body.root,
        first_ms=body.first_ms,
        last_ms=body.last_ms,
        transaction=context.transaction,
        height=context.block.height,
        time_ms=context.block.time_ms,
        blind=context.blind(UseBatchRecord, body.model, organisation, number),
    )


KINDS = (Kind("model.use", UseBatch, record_uses),)

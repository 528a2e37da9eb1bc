"""Members and datasets: the kinds of transaction that need no learning."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from vm.epoch import current
from vm.execute import Context, Kind
from vm.record import (
    COLUMNS_MAX,
    CONDITIONS_MAX,
    Band,
    ColumnSchema,
    Condition,
    Dataset,
    KeyOwner,
    Label,
    Member,
    Region,
    Role,
    Standing,
    Title,
)
from vm.refusal import Refused
from vm.shape import Count, Digest, Many, Name, PublicKey
from vm.state import State
from vm.tenure import put_member

CELL_MIN = 10  # counts of fewer people are suppressed: they may single somebody out

# GA4GH Data Use Ontology terms that this chain knows; the first group grants, the second limits.
PERMISSIONS = frozenset({"DUO:0000004", "DUO:0000006", "DUO:0000007", "DUO:0000011", "DUO:0000042"})
MODIFIERS = frozenset(f"DUO:00000{number}" for number in (12, *range(15, 30), *range(43, 47)))


@dataclass(frozen=True, slots=True)
class EnrolMember:
    """Body of `member.enrol`."""

    VERSION: ClassVar[int] = 1

    id: Name
    role: Role
    public_key: PublicKey
    transport: Digest | None


@dataclass(frozen=True, slots=True)
class SetStanding:
    """Body of `member.standing`."""

    VERSION: ClassVar[int] = 1

    id: Name
    standing: Standing


@dataclass(frozen=True, slots=True)
class RegisterDataset:
    """Body of `dataset.register`; fields as in `vm.record.Dataset`."""

    VERSION: ClassVar[int] = 1

    id: Name
    title: Title
    root: Digest
    schema: Annotated[tuple[ColumnSchema, ...], Many(COLUMNS_MAX, 1)]
    outcome: Label
    rows: Band
    positives: Band
    conditions: Annotated[tuple[Condition, ...], Many(CONDITIONS_MAX, 1)]
    region: Region
    opening: bool
    scores_max: Count


def enrol_member(state: State, context: Context, body: EnrolMember) -> None:
    """Enrol a member of the sender's own organisation, except a validator."""
    # 1. validators change by governance only: one admin must not change who votes
    if body.role is Role.VALIDATOR:
        raise Refused("member.validator", "expected a role other than validator, found validator")
    height = context.block.height
    enrol(
        state,
        Member(
            id=body.id,
            organisation=context.sender.organisation,
            role=body.role,
            public_key=body.public_key,
            transport=body.transport,
            standing=Standing.ENROLLED,
            enrolled_height=height,
            changed_height=height,
        ),
    )


def enrol(state: State, member: Member) -> None:
    """Record a new member, whoever may enrol it."""
    # 1. the id is free: a record is never taken over
    if state.get(Member, member.id) is not None:
        raise Refused("member.exists", f"expected a new id, found {member.id} enrolled before")
    # 2. both keys are nobody else's: a key enrolled twice would let one member pass for another
    claim_keys(state, member.id, member.public_key, member.transport)
    put_member(state, member.enrolled_height, member)


def claim_keys(state: State, member: str, public_key: bytes, transport: bytes | None) -> None:
    """Record whose the keys are; raises `Refused("member.key")` if one has an owner."""
    for found in (public_key, transport):
        if found is None:
            continue
        owner = state.get(KeyOwner, found.hex())
        if owner is not None:
            raise Refused(
                "member.key", f"expected keys of its own, found {found.hex()} of {owner.member}"
            )
        state.put(KeyOwner(found.hex(), member))


def set_standing(state: State, context: Context, body: SetStanding) -> None:
    """Suspend, revoke or restore a member of the sender's own organisation."""
    member = state.require(Member, body.id)
    # 1. it is the sender's organisation that vouches for the member
    if member.organisation != context.sender.organisation:
        raise Refused(
            "member.organisation",
            f"expected a member of {context.sender.organisation}, found {member.organisation}",
        )
    # 2. while a validator has a seat, or waits for one, it changes by governance only
    for epoch in current(state, context.block.height):
        if epoch.validators.get(body.id) is not None:
            raise Refused(
                "member.seated",
                f"expected a member without a seat, found {body.id} seated in epoch "
                f"{epoch.number}; propose to unseat it",
            )
    # 3. revocation is final
    if member.standing is Standing.REVOKED:
        raise Refused("member.revoked", f"expected {body.id} not revoked, found it revoked")
    height = context.block.height
    put_member(state, height, replace(member, standing=body.standing, changed_height=height))


def register_dataset(state: State, context: Context, body: RegisterDataset) -> None:
    """Record a dataset of the sender's organisation."""
    # 1. the id is free
    if state.get(Dataset, body.id) is not None:
        raise Refused("dataset.exists", f"expected a new id, found {body.id} registered before")
    # 2. columns are distinct, and the outcome is not one of the inputs
    names = [column.name for column in body.schema]
    if len(set(names)) != len(names) or body.outcome in names:
        raise Refused("dataset.columns", "expected distinct columns and a separate outcome")
    # 3. counts are bands, and no cell is so small that it singles somebody out
    _check_band("rows", body.rows)
    _check_band("positives", body.positives)
    if body.positives.low > body.rows.high:
        raise Refused("dataset.band", "expected no more positives than rows, found more")
    # 4. one permission at least, and only terms that are known
    unknown = [term for term in body.conditions if term not in PERMISSIONS | MODIFIERS]
    if unknown or not PERMISSIONS.intersection(body.conditions):
        raise Refused(
            "dataset.conditions",
            f"expected a DUO permission and known modifiers, found {', '.join(body.conditions)}",
        )
    state.put(
        Dataset(
            id=body.id,
            organisation=context.sender.organisation,
            steward=context.sender.id,
            title=body.title,
            root=body.root,
            schema=body.schema,
            outcome=body.outcome,
            rows=body.rows,
            positives=body.positives,
            conditions=body.conditions,
            region=body.region,
            opening=body.opening,
            scores_max=body.scores_max,
            registered_height=context.block.height,
            registered_ms=context.block.time_ms,
        )
    )


def _check_band(name: str, band: Band) -> None:
    if band.high - band.low + 1 < CELL_MIN:
        raise Refused(
            "dataset.band",
            f"expected {name} as a band of at least {CELL_MIN} counts, "
            f"found {band.low} to {band.high}",
        )


KINDS = (
    Kind("member.enrol", EnrolMember, enrol_member),
    Kind("member.standing", SetStanding, set_standing),
    Kind("dataset.register", RegisterDataset, register_dataset),
)

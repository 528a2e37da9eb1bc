"""What a case file tells beside a model's lineage: later attestations, and everybody involved.

`trace_beside` says which records those are. A collector runs it on what it knows until nothing is
missing; whoever verifies runs it on what was proven, so both mean the same records, and none more.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from node.audit.lineage import Lineage, Part, Records
from vm.conduct import Audit, AuditOutcome, Visit
from vm.encoding import decode
from vm.inclusion import expect_key
from vm.learning import Update
from vm.record import Member, ModelHead, Organisation
from vm.refusal import Refused
from vm.shape import unpack
from vm.sparse import VALUE_BYTES_MAX
from vm.state import Record, state_key

R = TypeVar("R", bound=Record)

AuditKey: TypeAlias = tuple[str, int, str, str]  # task, round, organisation, the auditor's


@dataclass(frozen=True, slots=True)
class Attested:
    """An auditor's attestation of an update's trace, and the visit that the hospital signed."""

    audit: Audit
    visit: Visit | None


@dataclass(frozen=True, slots=True)
class Beside:
    """Attestations in order of the lineage's updates; people and institutions in order of id.

    `members` and `organisations` are those that the lineage does not hold already. `signer` is the
    member that signed the file, None if the chain knows none of that name.
    """

    head: ModelHead | None
    attested: tuple[Attested, ...]
    members: tuple[Member, ...]
    organisations: tuple[Organisation, ...]
    signer: Member | None


class Known:
    """A source of records that notes what it was asked for and does not have."""

    def __init__(self, values: Mapping[bytes, bytes | None]) -> None:
        self._values = values
        self._unread = set(values)
        self.missing: dict[bytes, None] = {}  # in order, each once

    def get(self, cls: type[R], *key: str | int) -> R | None:
        """The record under `key`; None if it is known to be absent, or not known."""
        name = state_key(cls.KIND, key)
        if name not in self._values:
            self.missing[name] = None
            return None
        self._unread.discard(name)
        value = self._values[name]
        if value is None:
            return None
        record = unpack(cls, value, VALUE_BYTES_MAX)
        expect_key(name, state_key(cls.KIND, record.key))
        return record

    def expect_exact(self) -> None:
        """Raise `Refused("case.incomplete" | "case.excess")` unless all was known and is needed."""
        if self.missing:
            name = next(iter(self.missing)).hex()[:120]
            raise Refused(
                "case.incomplete",
                f"expected a proof of key {name}, found none of {len(self.missing)} that are due",
            )
        if self._unread:
            raise Refused(
                "case.excess", f"expected only records of the case, found {len(self._unread)} more"
            )


def audit_keys(values: Mapping[bytes, bytes | None]) -> tuple[AuditKey, ...]:
    """Whose attestations of which updates the proofs are of."""
    found = []
    for name in values:
        match decode(name):
            case (Audit.KIND, str(task), int(number), str(organisation), str(auditor)):
                found.append((task, number, organisation, auditor))
    return tuple(found)


def updates_of(lineage: Lineage) -> tuple[Update, ...]:
    """Every update of every round, the newest task's first."""
    parts: tuple[Part, ...] = tuple(part for found in lineage.rounds for part in found.sites)
    return tuple(part.update for part in parts if part.update is not None)


def trace_beside(
    records: Records, lineage: Lineage, audits: Collection[AuditKey], signer: str
) -> Beside:
    """Read what stands beside a lineage.

    `audits` are the attestations that somebody knows of; `check_attested` proves that there are no
    others. Raises `Refused` as `records` does.
    """
    attested = tuple(
        Attested(audit, records.get(Visit, *key[:3], audit.auditor))
        for key in sorted(audits)
        if (audit := records.get(Audit, *key)) is not None
    )
    known = {member.id for member in members_of(lineage)}
    named = {found.audit.auditor for found in attested} | _named(lineage)
    members = _found(records, Member, sorted(named - known))
    signing = records.get(Member, signer)
    vouching = {member.organisation for member in members} | {lineage.model.organisation}
    if signing is not None:
        vouching.add(signing.organisation)
    held = {found.id for found in organisations_of(lineage)}
    return Beside(
        head=records.get(ModelHead, lineage.model.id),
        attested=attested,
        members=members,
        organisations=_found(records, Organisation, sorted(vouching - held)),
        signer=signing,
    )


def _found(records: Records, cls: type[R], names: list[str]) -> tuple[R, ...]:
    found = (records.get(cls, name) for name in names)
    return tuple(record for record in found if record is not None)


def _named(lineage: Lineage) -> set[str]:
    """Validators that attested an aggregate, and the steward that decided on a mark."""
    named = {item.validator for found in lineage.rounds for item in found.round.attestations}
    if lineage.mark is not None and lineage.mark.steward is not None:
        named.add(lineage.mark.steward)
    return named


def members_of(lineage: Lineage) -> tuple[Member, ...]:
    """Stewards, trainers and verifiers of its tasks, each once, in order of id."""
    found = {
        member.id: member
        for task in lineage.tasks
        for member in (
            task.steward,
            *(item.trainer for item in task.participants),
            *(item.verifier for item in task.participants),
        )
    }
    return tuple(found[name] for name in sorted(found))


def organisations_of(lineage: Lineage) -> tuple[Organisation, ...]:
    """The institutions behind its sites, each once, in order of id."""
    found = {
        item.organisation.id: item.organisation
        for task in lineage.tasks
        for item in task.participants
    }
    return tuple(found[name] for name in sorted(found))


def check_attested(beside: Beside, lineage: Lineage) -> str:
    """Check that the attestations are all that there are: each update counts its own.

    Raises `Refused("case.audits")`; returns what was checked, in words.
    """
    found = Counter(
        (item.audit.task, item.audit.round, item.audit.organisation, item.audit.outcome)
        for item in beside.attested
    )
    for update in updates_of(lineage):
        for outcome, count in (
            (AuditOutcome.PASSED, update.audits_passed),
            (AuditOutcome.FAILED, update.audits_failed),
            (AuditOutcome.UNAVAILABLE, update.audits_unavailable),
        ):
            shown = found.pop((*update.key, outcome), 0)
            if shown != count:
                raise Refused(
                    "case.audits",
                    f"expected {count} attestations that the trace of {update.organisation}'s "
                    f"update in round {update.round} of {update.task} was {outcome.value}, "
                    f"found {shown}",
                )
    if found:
        raise Refused("case.audits", "expected attestations of this lineage's updates, found more")
    return f"{len(beside.attested)} attestations of traces, as many as their updates count"

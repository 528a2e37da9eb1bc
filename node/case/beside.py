"""What a case file tells beside a model's lineage: attestations, uses, and everybody involved.

`trace_beside` says which records those are. A collector runs it on what it knows until nothing is
missing; whoever verifies runs it on what was proven, so both mean the same records, and none more.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from node.api.keys import KEYS_MAX
from node.audit.lineage import Lineage, Part, Records, Signer
from node.audit.signers import Act
from node.audit.values import Values
from vm.conduct import Audit, AuditOutcome, Visit
from vm.encoding import decode
from vm.learning import Update
from vm.record import Member, MemberKeys, ModelHead, Organisation
from vm.refusal import Refused
from vm.usage import Action, ModelUsage, OrganisationUsage, UseBatchRecord

BATCHES_MAX = 8_000  # of uses in one file: 8 MiB of records and proofs, and as much derived

AuditKey: TypeAlias = tuple[str, int, str, str]  # task, round, organisation, the auditor's


@dataclass(frozen=True, slots=True)
class Attested:
    """An auditor's attestation of an update's trace, and the visit that the hospital signed."""

    audit: Audit
    visit: Visit | None


@dataclass(frozen=True, slots=True)
class Beside:
    """Attestations and batches of uses in order of key; people and institutions in order of id.

    Of batches each organisation shows as many as an equal share of `BATCHES_MAX`, its newest.
    `usage` is None of a model of which no use was recorded. `signers` and `organisations` are those
    that the lineage does not hold already. `auditor` is who signed the file, None if the chain had
    none of that name.
    """

    head: ModelHead | None
    attested: tuple[Attested, ...]
    usage: ModelUsage | None
    batches: tuple[UseBatchRecord, ...]
    signers: tuple[Signer, ...]
    organisations: tuple[Organisation, ...]
    auditor: Signer | None


def audit_keys(values: Mapping[bytes, bytes | None]) -> tuple[AuditKey, ...]:
    """Whose attestations of which updates the proofs show; that there is none says nothing."""
    found = []
    for name, value in values.items():
        match None if value is None else decode(name):
            case (Audit.KIND, str(task), int(number), str(organisation), str(auditor)):
                found.append((task, number, organisation, auditor))
    return tuple(found)


def updates_of(lineage: Lineage) -> tuple[Update, ...]:
    """Every update of every round, the newest task's first."""
    parts: tuple[Part, ...] = tuple(part for found in lineage.rounds for part in found.sites)
    return tuple(part.update for part in parts if part.update is not None)


def trace_beside(
    records: Records, lineage: Lineage, audits: Collection[AuditKey], auditor: str
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
    usage = records.get(ModelUsage, lineage.model.id)
    totals = () if usage is None else usage.organisations
    batches = _trace_batches(records, lineage.model.id, totals)
    named = {act.member for act in _acts(attested, batches)}
    if lineage.mark is not None and lineage.mark.steward is not None:
        named.add(lineage.mark.steward)
    signers = _trace_signers(records, sorted(named - set(lineage.signers)))
    signing = lineage.signers.get(auditor) or next(iter(_trace_signers(records, [auditor])), None)
    vouching = {found.member.organisation for found in (*lineage.signers.values(), *signers)}
    vouching.add(lineage.model.organisation)
    if signing is not None:
        vouching.add(signing.member.organisation)
    held = {found.id for found in organisations_of(lineage)}
    organisations = (records.get(Organisation, name) for name in sorted(vouching - held))
    return Beside(
        head=records.get(ModelHead, lineage.model.id),
        attested=attested,
        usage=usage,
        batches=batches,
        signers=signers,
        organisations=tuple(found for found in organisations if found is not None),
        auditor=signing,
    )


def due(
    values: Mapping[bytes, bytes | None],
    lineage: Lineage,
    audits: Collection[AuditKey],
    auditor: str,
) -> list[tuple[bytes, ...]]:
    """The keys that follow from `values` and are missing there, as many at a time as nodes serve.

    Nothing else says what is asked for and in which files it stands: all nodes' proofs are equal.
    """
    known = Values(values, None)
    trace_beside(known, lineage, audits, auditor)
    missing = tuple(known.missing)
    return [missing[begin : begin + KEYS_MAX] for begin in range(0, len(missing), KEYS_MAX)]


def _trace_batches(
    records: Records, model: str, totals: tuple[OrganisationUsage, ...]
) -> tuple[UseBatchRecord, ...]:
    """All batches that the totals count, or of each organisation the newest in its share."""
    found = (
        records.get(UseBatchRecord, model, item.organisation, number)
        for item in totals
        for number in range(item.batches - _shown(item, totals) + 1, item.batches + 1)
    )
    return tuple(batch for batch in found if batch is not None)


def _shown(item: OrganisationUsage, totals: Sequence[OrganisationUsage]) -> int:
    """How many batches of an organisation a file shows: nobody's many leave out another's."""
    return min(item.batches, BATCHES_MAX // len(totals))


def _trace_signers(records: Records, names: Iterable[str]) -> tuple[Signer, ...]:
    """Members of these names with all their keys, where there are such members."""
    found = ((records.get(Member, name), records.get(MemberKeys, name)) for name in names)
    return tuple(
        Signer(member, keys) for member, keys in found if member is not None and keys is not None
    )


def _acts(attested: Iterable[Attested], batches: Iterable[UseBatchRecord]) -> Iterator[Act]:
    """What was signed beside the lineage, by whom and at which height."""
    for item in attested:
        audit, visit = item.audit, item.visit
        yield Act(audit.auditor, f"attestation on {audit.organisation}", audit.height, audit.height)
        if visit is not None:
            what = f"visit of {visit.auditor}"
            yield Act(visit.trainer, what, visit.height, visit.height)
    for batch in batches:
        what = f"batch {batch.number} of uses"
        yield Act(batch.member, what, batch.height, batch.height)


def signers_of(lineage: Lineage, beside: Beside) -> tuple[Signer, ...]:
    """Everybody who signed something, the auditor of the file too, each once, in order of id."""
    found = {**lineage.signers, **{item.member.id: item for item in beside.signers}}
    if beside.auditor is not None:
        found[beside.auditor.member.id] = beside.auditor
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


def check_uses(beside: Beside) -> str:
    """Check that the batches of uses come to the totals: none is left out, and none is too many.

    Where only the newest are due, that all of these are there and come to no more. Raises
    `Refused("case.usage")`; returns what was checked, in words.
    """
    totals = () if beside.usage is None else beside.usage.organisations
    for item in totals:
        batches = [batch for batch in beside.batches if batch.organisation == item.organisation]
        found = OrganisationUsage(
            item.organisation,
            len(batches),
            sum(batch.count for batch in batches if batch.action is Action.INFERENCE),
            sum(batch.count for batch in batches if batch.action is Action.EXPORT),
        )
        due = _shown(item, totals)
        within = found.inferences <= item.inferences and found.exports <= item.exports
        if found.batches != due or not within or (due == item.batches and found != item):
            raise Refused(
                "case.usage",
                f"expected {due} batches of uses by {item.organisation} that come to "
                f"{item.inferences} inferences and {item.exports} exports, found {found.batches} "
                f"that come to {found.inferences} and {found.exports}",
            )
    shown, count = len(beside.batches), sum(item.batches for item in totals)
    if shown < count:
        return f"the newest {shown} of {count} batches of uses, within the model's totals"
    return f"{shown} batches of uses, which come to the model's totals"


def check_keys(beside: Beside, lineage: Lineage) -> str:
    """Check that what was signed beside the lineage was signed by members with keys valid then.

    Raises `Refused("case.key")`; returns what was checked, in words.
    """
    signers = {item.member.id: item for item in signers_of(lineage, beside)}
    count = 0
    for act in _acts(beside.attested, beside.batches):
        signer = signers.get(act.member)
        intervals = () if signer is None else signer.keys.intervals
        if not any(item.covers(act.first, act.last) for item in intervals):
            raise Refused(
                "case.key",
                f"expected a key of {act.member} valid at height {act.first}, for its {act.what}, "
                "found none",
            )
        count += 1
    return f"{count} acts signed beside the lineage, each with a key valid then"

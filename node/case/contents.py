"""What a case file says, as JSON values: the one source of its summary and of its page.

Everything comes from records that were proven under one header. Nothing comes from the certificate,
whose votes differ from node to node, nor from a clock.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fl.approval import terms_digest
from node.audit.check import EVIDENCE
from node.audit.lineage import Lineage, Part, Participant, RoundLineage, Signer, TaskLineage
from node.case.act import ARTICLES, UNCOVERED
from node.case.beside import Attested, Beside, organisations_of, signers_of
from node.case.words import STATUSES, condition, utc
from node.home.document import dump
from vm.block import Header
from vm.learning import Decision, Outcome, Update, UpdateStatus, Verdict
from vm.record import Dataset, Model
from vm.shape import PublicKey
from vm.usage import UseBatchRecord

FORMAT = "concilium.case.v1"  # of all that is derived: whoever changes how, changes the number
INTEGER_MAX = 2**53 - 1  # RFC 8785 writes no greater one; records may hold 2^53 itself


@dataclass(frozen=True, slots=True)
class Auditor:
    """Who signs a case file, and with which key."""

    member: str
    key: PublicKey


@dataclass(frozen=True, slots=True)
class Case:
    """What was proven for a case file, all of it at `header`."""

    header: Header
    lineage: Lineage
    beside: Beside
    auditor: Auditor


def contents(case: Case) -> dict[str, Any]:
    """The whole file as JSON values, oldest first; times are UTC as RFC 3339 has them."""
    lineage, beside = case.lineage, case.beside
    tasks = tuple(reversed(lineage.tasks))
    rounds = [_round(found, task) for task in tasks for found in task.rounds]
    found = {
        "format": FORMAT,
        "checkpoint": _checkpoint(case.header),
        "auditor": _auditor(case),
        "model": _model(lineage, beside),
        "versions": [_version(model) for model in reversed(lineage.versions)],
        "datasets": [_dataset(dataset) for dataset in _datasets(tasks)],
        "organisations": [
            dump(item)
            for item in sorted((*organisations_of(lineage), *beside.organisations), key=_id_of)
        ],
        "members": [_member(item) for item in signers_of(lineage, beside)],
        "tasks": [_task(task) for task in tasks],
        "rounds": rounds,
        "contributions": _contributions(rounds),
        "attestations": [_attested(item) for item in beside.attested],
        "usage": _usage(beside),
        "totals": _totals(lineage, rounds),
        "articles": [dump(item) for item in ARTICLES],
        "uncovered": list(UNCOVERED),
    }
    return dict(_safe(found))


def _id_of(item: Any) -> str:
    return str(item.id)


def _safe(value: Any) -> Any:
    """JSON values with integers that every reader has exactly; a greater one becomes text."""
    if isinstance(value, dict):
        return {name: _safe(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_safe(item) for item in value]
    if isinstance(value, int) and abs(value) > INTEGER_MAX:
        return str(value)
    return value


def _checkpoint(header: Header) -> dict[str, Any]:
    return {
        "chain": header.chain.hex(),
        "height": header.height,
        "time": utc(header.time_ms),
        "header": header.digest.hex(),
        "state": header.state.hex(),
        "validators": header.validators.hex(),
    }


def _auditor(case: Case) -> dict[str, Any]:
    """Who signed; `enrolled` says whether the chain knew this member by this key at that height."""
    signer = case.beside.auditor
    return {
        "member": case.auditor.member,
        "key": case.auditor.key.hex(),
        "organisation": None if signer is None else signer.member.organisation,
        "role": None if signer is None else signer.member.role.value,
        "enrolled": signer is not None and has_key(signer, case.auditor.key, case.header.height),
    }


def has_key(signer: Signer, key: PublicKey, height: int) -> bool:
    """Whether the key was the member's at that height."""
    return any(
        item.public_key == key and item.covers(height, height) for item in signer.keys.intervals
    )


def _member(signer: Signer) -> dict[str, Any]:
    return dict(dump(signer.member)) | {"keys": dump(signer.keys.intervals)}


def _model(lineage: Lineage, beside: Beside) -> dict[str, Any]:
    model, mark = lineage.model, lineage.mark
    return {
        "id": model.id,
        "version": model.version,
        "newest_version": None if beside.head is None else beside.head.version,
        "open_task": None if beside.head is None else beside.head.task,
        "organisation": model.organisation,
        "spec": dump(model.spec),
        "grid_bits": model.grid_bits,
        "mark": None if mark is None else dump(mark),
        "marked": mark is not None and mark.version <= model.version,
    }


def _version(model: Model) -> dict[str, Any]:
    return {
        "version": model.version,
        "weights": model.weights,
        "weights_bytes": model.weights_bytes,
        "task": model.task,
        "round": model.round,
        "created_height": model.created_height,
        "created": utc(model.created_ms),
        "contributions": dump(model.contributions),
    }


def _datasets(tasks: Iterable[TaskLineage]) -> tuple[Dataset, ...]:
    found = {item.dataset.id: item.dataset for task in tasks for item in task.participants}
    return tuple(found[name] for name in sorted(found))


def _dataset(dataset: Dataset) -> dict[str, Any]:
    conditions = [{"code": code, "means": condition(code)} for code in dataset.conditions]
    return dict(dump(dataset)) | {
        "conditions": conditions,
        "registered": utc(dataset.registered_ms),
    }


def _task(found: TaskLineage) -> dict[str, Any]:
    task = found.task
    return {
        "id": task.id,
        "title": task.terms.title,
        "purpose": task.terms.purpose,
        "steward": task.steward,
        "organisation": task.organisation,
        "phase": task.phase.value,
        "base_version": task.base_version,
        "opened_height": task.opened_height,
        "opened": utc(task.opened_ms),
        "evidence": task.terms.evidence.value,
        "terms_digest": terms_digest(task.terms).hex(),
        "terms": dump(task.terms),
        "sites": [_site(item) for item in found.participants],
    }


def _site(item: Participant) -> dict[str, Any]:
    approval = item.approval
    return dict(dump(item.site)) | {
        "approval": None
        if approval is None
        else {
            "trainer": approval.trainer,
            "stands": approval.stands,
            "terms": approval.terms.hex(),
            "approved_height": approval.approved_height,
            "changed_height": approval.changed_height,
        }
    }


def _round(found: RoundLineage, task: TaskLineage) -> dict[str, Any]:
    rnd = found.round
    return {
        "task": rnd.task,
        "number": rnd.number,
        "phase": rnd.phase.value,
        "code": rnd.code,
        "reason": rnd.reason,
        "base_version": rnd.base_version,
        "model_version": rnd.model_version,
        "opened_height": rnd.opened_height,
        "opened": utc(rnd.opened_ms),
        "score_bp": rnd.score_bp,
        "aggregators": sorted({item.validator for item in rnd.attestations}),
        "least_evidence": task.task.terms.evidence.value,
        "statuses": _tally(outcome.status for outcome in rnd.outcomes),
        "sites": [
            _part(part, outcome) for part, outcome in zip(found.sites, rnd.outcomes, strict=True)
        ],
    }


def _tally(statuses: Iterable[UpdateStatus]) -> dict[str, int]:
    found = Counter(statuses)
    return {status.value: found[status] for status in UpdateStatus if found[status]}


def _part(part: Part, outcome: Outcome) -> dict[str, Any]:
    """One site in a round: what became of it and why, and its update with all verdicts."""
    return dict(dump(outcome)) | {
        "means": STATUSES[outcome.status],
        "decline": None if part.decline is None else dump(part.decline),
        "update": None if part.update is None else _update(part.update),
        "decisions": {
            decision.value: sum(verdict.decision is decision for verdict in part.verdicts)
            for decision in Decision
        },
        "verdicts": [_verdict(verdict) for verdict in part.verdicts],
    }


def _update(update: Update) -> dict[str, Any]:
    return {
        "trainer": update.trainer,
        "dataset": update.dataset,
        "blob": update.blob,
        "trace": update.trace.hex(),
        "data": update.data.hex(),
        "segments": update.segments,
        "norm": update.norm,
        "evidence": update.evidence.value,
        "evidence_means": EVIDENCE[update.evidence],
        "loop": None if update.loop is None else dump(update.loop),
        "transaction": update.transaction.hex(),
        "height": update.height,
        "audits": {
            "passed": update.audits_passed,
            "failed": update.audits_failed,
            "unavailable": update.audits_unavailable,
        },
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    names = ("task", "round", "organisation")  # whoever reads it here knows these
    return {name: item for name, item in dump(verdict).items() if name not in names}


def _contributions(rounds: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What became of each organisation's part over all rounds, in order of id."""
    found: dict[str, list[dict[str, Any]]] = {}
    for item in rounds:
        for site in item["sites"]:
            found.setdefault(site["organisation"], []).append(site)
    return [
        {
            "organisation": name,
            "statuses": _tally(UpdateStatus(site["status"]) for site in sites),
            "contribution_bp": sum(site["contribution_bp"] or 0 for site in sites),
            "valued": sum(site["contribution_bp"] is not None for site in sites),
            "credits": sum(site["credits"] for site in sites),
        }
        for name, sites in sorted(found.items())
    ]


def _attested(item: Attested) -> dict[str, Any]:
    visit = item.visit
    return dict(dump(item.audit)) | {
        "visit": None
        if visit is None
        else {"trainer": visit.trainer, "height": visit.height, "time": utc(visit.time_ms)}
    }


def _usage(beside: Beside) -> dict[str, Any]:
    """What members recorded of the model's use: totals, and the batches shown by kind and singly.

    `complete` says whether these are all that the totals count.
    """
    kinds: dict[tuple[str, int, str, str], list[UseBatchRecord]] = {}
    for batch in beside.batches:
        kind = (batch.organisation, batch.version, batch.purpose.value, batch.action.value)
        kinds.setdefault(kind, []).append(batch)
    shown = Counter(batch.organisation for batch in beside.batches)
    totals = () if beside.usage is None else beside.usage.organisations
    return {
        "organisations": [
            dict(dump(item)) | {"shown": shown[item.organisation]} for item in totals
        ],
        "complete": len(beside.batches) == sum(item.batches for item in totals),
        "kinds": [
            {
                "organisation": batches[0].organisation,
                "version": batches[0].version,
                "purpose": batches[0].purpose.value,
                "action": batches[0].action.value,
                "batches": len(batches),
                "uses": sum(batch.entries for batch in batches),
                "count": sum(batch.count for batch in batches),
                "first": utc(min(batch.first_ms for batch in batches)),
                "last": utc(max(batch.last_ms for batch in batches)),
            }
            for _, batches in sorted(kinds.items())
        ],
        "batches": [_batch(batch) for batch in beside.batches],
    }


def _batch(batch: UseBatchRecord) -> dict[str, Any]:
    times = {"first": batch.first_ms, "last": batch.last_ms, "recorded": batch.time_ms}
    return dict(dump(batch)) | {name: utc(time_ms) for name, time_ms in times.items()}


def _totals(lineage: Lineage, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    updates = [
        site["update"] for item in rounds for site in item["sites"] if site["update"] is not None
    ]
    evidences = Counter(update["evidence"] for update in updates)
    audited = sum(any(update["audits"].values()) for update in updates)
    return {
        "versions": len(lineage.versions),
        "rounds": len(rounds),
        "failed_rounds": sum(item["model_version"] is None for item in rounds),
        "updates": len(updates),
        "verdicts": sum(len(site["verdicts"]) for item in rounds for site in item["sites"]),
        "statuses": _tally(
            UpdateStatus(site["status"]) for item in rounds for site in item["sites"]
        ),
        "evidence": {name: evidences[name] for name in EVIDENCE if evidences[name]},
        "audited_updates": audited,
    }

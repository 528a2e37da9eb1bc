"""Audits: what a model came from, as whoever fetched or read it checks it, trusting genesis alone.

It needs neither network nor LevelDB, numpy or torch. Whoever gave it is not trusted: every record
stands under a header that a quorum of validators certified, who were followed from the genesis
document, and `node.audit.rules` say that the records tell one complete story.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from node.audit.lineage import Lineage, Part, RoundLineage, trace
from node.audit.rules import check_lineage
from node.audit.values import Values
from node.home.document import dump
from vm.block import Header
from vm.epoch import ruling
from vm.inclusion import (
    CertifiedHeader,
    MultiProof,
    verify_multiproof,
)
from vm.learning import UpdateStatus
from vm.quorum import Epoch
from vm.shape import Digest
from vm.terms import Evidence

EVIDENCE = {
    Evidence.REPLAYED: "verifiers trained parts of it again",
    Evidence.COMMITTED: "bound on chain, not replayed",
    Evidence.SCORED: "judged by its scores alone",
}


@dataclass(frozen=True, slots=True)
class Audit:
    """What was verified, and how.

    `height` and `time_ms` are those of the certified header under which all of it stands; `steps`
    are the checks in words; `content` is what was proven, for people.
    """

    subject: str
    chain: Digest
    height: int
    time_ms: int
    steps: tuple[str, ...]
    content: Any


@dataclass(frozen=True, slots=True)
class ModelAudit:
    """A model's audit with its lineage, and its proof, for `node.audit.file`."""

    audit: Audit
    lineage: Lineage
    proof: MultiProof


def audit_lineage(
    chain: Digest, epochs: Sequence[Epoch], proof: MultiProof, id: str, version: int
) -> ModelAudit:
    """Verify a lineage with nothing trusted but the chain's id and the epochs followed from it."""
    proven = Values(verify_multiproof(proof, chain, epochs), "lineage")
    lineage = trace(proven, id, version)
    proven.expect_all_read()
    header = proof.certified.header
    absent = sum(record.value is None for record in proof.records)
    steps = (
        certificate_step(proof.certified, epochs),
        f"{len(proof.records)} state paths to one root, {absent} of them of absent records",
        *check_lineage(lineage),
        _evidence_step(lineage),
        _audit_step(lineage),
    )
    audit = report(f"model {id} version {version}", header, steps, summarize(lineage))
    return ModelAudit(audit, lineage, proof)


def summarize(lineage: Lineage) -> dict[str, Any]:
    """A lineage for people: the version, its mark, its datasets with conditions, its rounds."""
    participants = [found for task in lineage.tasks for found in task.participants]
    return {
        "model": dump(lineage.model),
        "mark": None if lineage.mark is None else dump(lineage.mark),
        "datasets": [
            {
                "id": found.dataset.id,
                "organisation": found.dataset.organisation,
                "conditions": list(found.dataset.conditions),
                "registered_height": found.dataset.registered_height,
            }
            for found in participants
        ],
        "rounds": [
            _summarize_round(found, task.task.terms.evidence)
            for task in lineage.tasks
            for found in task.rounds
        ],
    }


def _summarize_round(found: RoundLineage, least: Evidence) -> dict[str, Any]:
    return {
        "task": found.round.task,
        "round": found.round.number,
        "phase": found.round.phase.value,
        "model_version": found.round.model_version,
        "evidence": least.value,
        "outcomes": dump(found.round.outcomes),
        "updates": [_summarize_update(part) for part in found.sites if part.update is not None],
    }


def _summarize_update(part: Part) -> dict[str, Any]:
    update = part.update
    assert update is not None, "the caller found one"
    return {
        "organisation": update.organisation,
        "evidence": update.evidence.value,
        "audits": {
            "passed": update.audits_passed,
            "failed": update.audits_failed,
            "unavailable": update.audits_unavailable,
        },
        "verdicts": [
            {
                "verifier": verdict.verifier,
                "decision": verdict.decision.value,
                "code": verdict.code,
                "segment": verdict.segment,
                "rerun": verdict.rerun,
            }
            for verdict in part.verdicts
        ],
    }


def _evidence_step(lineage: Lineage) -> str:
    """What backs the updates: a proof of inclusion proves no training."""
    updates = [
        part.update
        for found in lineage.rounds
        for part in found.sites
        if part.update is not None and part.update.status is UpdateStatus.ACCEPTED
    ]
    counts = Counter(update.evidence for update in updates)
    said = "; ".join(
        f"{counts[item]} {item}: {text}" for item, text in EVIDENCE.items() if item in counts
    )
    return f"evidence of the accepted updates: {said or 'none, as no task made this version'}"


def _audit_step(lineage: Lineage) -> str:
    """What auditors have attested of the traces, and what a failed audit has marked."""
    updates = [
        part.update for found in lineage.rounds for part in found.sites if part.update is not None
    ]
    passed = sum(update.audits_passed for update in updates)
    failed = sum(update.audits_failed for update in updates)
    unavailable = sum(update.audits_unavailable for update in updates)
    said = f"audits of traces: {passed} passed, {failed} failed, {unavailable} unavailable"
    mark = lineage.mark
    if mark is None:
        return f"{said}; no mark on the model"
    return f"{said}; versions from {mark.version} on are marked, the decision is {mark.decision}"


def certificate_step(certified: CertifiedHeader, epochs: Sequence[Epoch]) -> str:
    """Who stands behind a header, in words."""
    certificate = certified.certificate
    epoch = ruling(epochs, certificate.height)
    votes = f"{len(certificate.votes)} of {epoch.validators.n} validators"
    if epoch.number:
        start = f"epoch {epochs[0].number}" if epochs[0].number else "genesis"
        votes += f" of epoch {epoch.number}, followed from {start} step by step"
    if certified.later is None:
        return f"header {certified.header.height} certified by {votes}"
    return (
        f"header {certified.header.height} in the history of header "
        f"{certified.later.header.height}, certified by {votes}"
    )


def report(subject: str, header: Header, steps: tuple[str, ...], content: Any) -> Audit:
    """What was verified under `header`."""
    return Audit(subject, header.chain, header.height, header.time_ms, steps, content)

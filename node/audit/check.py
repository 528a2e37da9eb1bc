"""Audits: what a model came from, fetched over HTTP or read from a file, trusting genesis alone.

It needs neither LevelDB nor numpy nor torch. Whoever answers is not trusted: every record stands
under a header that a quorum of validators certified, who were followed from the genesis document,
and `node.audit.rules` say that the records tell one complete story.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from node.api.resource import BY_KIND, LINEAGE_PATH
from node.api.views import base64_text
from node.audit.lineage import Lineage, Part, RoundLineage, trace
from node.audit.rules import check_lineage
from node.client.client import Client
from node.client.reply import ProofBody, Reply, read_base64
from node.home.document import dump
from vm.block import Header
from vm.encoding import decode
from vm.epoch import ruling
from vm.genesis import Genesis
from vm.inclusion import (
    LINEAGE_BYTES_MAX,
    LINEAGE_ITEMS_MAX,
    CertifiedHeader,
    LineageProof,
    RecordProof,
    TransactionProof,
    expect_key,
    verify_lineage,
    verify_record,
    verify_transaction,
)
from vm.learning import UpdateStatus
from vm.opened import UseProof, read_proof, verify_uses
from vm.quorum import Epoch
from vm.record import ModelHead
from vm.refusal import Refused
from vm.shape import Digest, pack, unpack
from vm.sparse import VALUE_BYTES_MAX
from vm.state import Record, state_key
from vm.succession import Step, follow
from vm.terms import Evidence

R = TypeVar("R", bound=Record)

FILE_BYTES_MAX = LINEAGE_BYTES_MAX // 3 * 4 + 1024 * 1024  # base64, and JSON around it
FILE_FORMAT = "concilium.proof.v1"
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
    """A model's audit with its lineage, and the proof that `write_file` keeps."""

    audit: Audit
    lineage: Lineage
    proof: LineageProof


async def audit_model(client: Client, id: str, version: int | None = None) -> ModelAudit:
    """Fetch and verify the lineage of a model version, the newest if None.

    A node whose answer does not hold is passed over for the next; see `client.distrusted`. Raises
    `Refused` with `audit.*`, `lineage.*`, `client.unreachable`, or what a node answered.
    """
    newest: tuple[str, ...] = ()
    if version is None:
        head, header = await client.record_at(ModelHead, id)
        if head is None:
            raise Refused("lineage.missing", f"expected model {id}, found none")
        version = head.version
        newest = (f"version {version} the newest at height {header.height}, {utc(header.time_ms)}",)
    wanted = version

    def read(reply: Reply) -> ModelAudit:
        body = reply.read(ProofBody)
        return client.verified(reply, lambda: _audit(body))

    def _audit(body: ProofBody) -> ModelAudit:
        proof = _unpack_lineage(read_base64(body.proof))
        return audit_lineage(client.chain, client.proven.epochs, proof, id, wanted)

    path = LINEAGE_PATH.format(id=id, version=version)
    found = await client.ask(path, read, bytes_max=FILE_BYTES_MAX)
    return replace(found, audit=replace(found.audit, steps=(*found.audit.steps, *newest)))


def _unpack_lineage(data: bytes) -> LineageProof:
    return unpack(LineageProof, data, LINEAGE_BYTES_MAX, LINEAGE_ITEMS_MAX)


def audit_lineage(
    chain: Digest, epochs: Sequence[Epoch], proof: LineageProof, id: str, version: int
) -> ModelAudit:
    """Verify a lineage with nothing trusted but the chain's id and the epochs followed from it."""
    proven = _Proven(verify_lineage(proof, chain, epochs))
    lineage = trace(proven, id, version)
    proven.expect_all_read()
    header = proof.certified.header
    absent = sum(record.value is None for record in proof.records)
    steps = (
        _certificate_step(proof.certified, epochs),
        f"{len(proof.records)} state paths to one root, {absent} of them of absent records",
        *check_lineage(lineage, epochs),
        _evidence_step(lineage),
        _audit_step(lineage),
    )
    audit = _report(f"model {id} version {version}", header, steps, summarize(lineage))
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


def utc(time_ms: int) -> str:
    """A block's time for people."""
    return datetime.fromtimestamp(time_ms / 1_000, UTC).isoformat(timespec="seconds")


def write_file(
    proof: LineageProof | RecordProof | TransactionProof | UseProof, steps: Sequence[Step] = ()
) -> str:
    """A proof as a file of its own: JSON around the canonical bytes.

    `steps` lead from genesis to the epoch of its certificate or further; the file carries those
    that it needs.
    """
    certified = proof.batch.certified if isinstance(proof, UseProof) else proof.certified
    height = certified.certificate.height
    name = {
        LineageProof: "lineage",
        RecordProof: "record",
        TransactionProof: "transaction",
        UseProof: "use",
    }
    document = {
        "format": FILE_FORMAT,
        "kind": name[type(proof)],
        "chain": certified.header.chain.hex(),
        "steps": [base64_text(pack(step)) for step in steps if step.epoch.first <= height],
        "proof": base64_text(pack(proof)),
    }
    return json.dumps(document, indent=2) + "\n"


def verify_file(genesis: Genesis, text: str | bytes) -> Audit:
    """Verify a file that `write_file` made, offline; raises `Refused` with the step that failed."""
    if len(text) > FILE_BYTES_MAX:
        raise Refused("file.too_large", f"expected at most {FILE_BYTES_MAX} bytes, found more")
    try:
        document = json.loads(text)
        form, kind, proof = document["format"], document["kind"], document["proof"]
        steps = document["steps"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused("file.format", "expected JSON with format, kind, steps and proof") from None
    if form != FILE_FORMAT or not isinstance(steps, list):
        raise Refused("file.format", f"expected format {FILE_FORMAT}, found {str(form)[:80]}")
    if not all(isinstance(text, str) for text in (proof, *steps)):
        raise Refused("file.format", "expected steps and proof as text, found something else")
    epochs = follow(genesis, (unpack(Step, read_base64(step)) for step in steps))
    data = read_base64(proof)
    match kind:
        case "lineage":
            return _audit_lineage_file(genesis.chain, epochs, _unpack_lineage(data))
        case "record":
            return _audit_record(genesis.chain, epochs, unpack(RecordProof, data))
        case "transaction":
            return _audit_transaction(genesis.chain, epochs, unpack(TransactionProof, data))
        case "use":
            return _audit_uses(genesis.chain, epochs, read_proof(data))
        case _:
            raise Refused(
                "file.kind",
                f"expected lineage, record, transaction or use, found {str(kind)[:80]}",
            )


def _audit_lineage_file(chain: Digest, epochs: Sequence[Epoch], proof: LineageProof) -> Audit:
    """Of the model whose record comes first, as `trace` reads it first."""
    match decode(proof.records[0].key) if proof.records else None:
        case ("model", str(id), int(version)):
            return audit_lineage(chain, epochs, proof, id, version).audit
        case _:
            raise Refused("lineage.missing", "expected a model's record first, found none")


def _audit_record(chain: Digest, epochs: Sequence[Epoch], proof: RecordProof) -> Audit:
    verify_record(proof, chain, epochs)
    parts = decode(proof.key)
    if not isinstance(parts, tuple) or not parts:  # the absence of any bytes can be proven
        raise Refused("audit.key", f"expected the key of a record, found {proof.key.hex()[:120]}")
    label = " ".join(str(part) for part in parts)
    steps = [_certificate_step(proof.certified, epochs)]
    if proof.value is None:
        steps.append("1 state path to its root, of an absent record")
        return _report(f"absence of {label}", proof.certified.header, tuple(steps), None)
    steps.append("1 state path to its root")
    resource = BY_KIND.get(str(parts[0]))
    record = None if resource is None else unpack(resource.record, proof.value, VALUE_BYTES_MAX)
    return _report(label, proof.certified.header, tuple(steps), dump(record))


def _audit_transaction(chain: Digest, epochs: Sequence[Epoch], proof: TransactionProof) -> Audit:
    transaction = verify_transaction(proof, chain, epochs)
    header = proof.certified.header
    steps = (
        _certificate_step(proof.certified, epochs),
        f"transaction and receipt {proof.index} of {proof.size} in block {header.height}",
        f"{transaction.intent.sender}'s signature over it",
    )
    return _report(
        f"transaction {transaction.id.hex()}", header, steps, {"receipt": dump(proof.receipt)}
    )


def _audit_uses(chain: Digest, epochs: Sequence[Epoch], proof: UseProof) -> Audit:
    batch, uses = verify_uses(proof, chain, epochs)
    if len(uses) == batch.entries:
        opened = f"all {batch.entries} uses, {batch.count} in count, to the batch's root"
    else:
        opened = f"1 use of {batch.entries} with its path to the batch's root"
    steps = (
        _certificate_step(proof.batch.certified, epochs),
        "1 state path to its root, of the batch",
        opened,
        "model, version, purpose, action and times as the batch says",
    )
    return _report(
        f"uses of model {batch.model} by {batch.organisation}, batch {batch.number}",
        proof.batch.certified.header,
        steps,
        {"batch": dump(batch), "uses": dump(uses)},
    )


def _certificate_step(certified: CertifiedHeader, epochs: Sequence[Epoch]) -> str:
    certificate = certified.certificate
    epoch = ruling(epochs, certificate.height)
    votes = f"{len(certificate.votes)} of {epoch.validators.n} validators"
    if epoch.number:
        votes += f" of epoch {epoch.number}, followed from genesis step by step"
    if certified.later is None:
        return f"header {certified.header.height} certified by {votes}"
    return (
        f"header {certified.header.height} in the history of header "
        f"{certified.later.header.height}, certified by {votes}"
    )


def _report(subject: str, header: Header, steps: tuple[str, ...], content: Any) -> Audit:
    return Audit(subject, header.chain, header.height, header.time_ms, steps, content)


class _Proven:
    """A source of records that has nothing but what was proven."""

    def __init__(self, values: dict[bytes, bytes | None]) -> None:
        self._values = values
        self._unread = set(values)

    def get(self, cls: type[R], *key: str | int) -> R | None:
        name = state_key(cls.KIND, key)
        if name not in self._values:
            label = " ".join(str(part) for part in key)
            raise Refused(
                "lineage.incomplete", f"expected a path of {cls.KIND} {label}, found none"
            )
        self._unread.discard(name)
        value = self._values[name]
        if value is None:
            return None
        record = unpack(cls, value, VALUE_BYTES_MAX)
        expect_key(name, state_key(cls.KIND, record.key))
        return record

    def expect_all_read(self) -> None:
        """Equal lineages have equal proofs: nothing stands in one that the story does not need."""
        if self._unread:
            raise Refused(
                "lineage.excess",
                f"expected only records of the lineage, found {len(self._unread)} others",
            )

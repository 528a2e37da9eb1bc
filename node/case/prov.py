"""A case file's provenance in the W3C's PROV data model, as canonical PROV-JSON.

Identifiers are those of the records, so they are equal in every case file of one chain. Entities
are model versions, updates, verdicts, datasets and attestations; activities are rounds, trainings
and batches of uses; agents are members and organisations.
"""

import json
from typing import Any

import rfc8785
from prov.constants import PROV
from prov.model import ProvBundle, ProvDocument

from node.audit.lineage import Part, Participant, RoundLineage, TaskLineage
from node.case.beside import organisations_of, signers_of
from node.case.contents import Case
from node.case.words import utc
from vm.learning import UpdateStatus
from vm.record import Member, Model, Organisation
from vm.usage import UseBatchRecord

PREFIX = "c"


def write_prov(case: Case) -> bytes:
    """The document's bytes: equal for equal cases."""
    lineage, beside = case.lineage, case.beside
    document = ProvDocument()
    document.add_namespace(PREFIX, f"urn:concilium:{case.header.chain.hex()}:")
    for organisation in (*organisations_of(lineage), *beside.organisations):
        _add_organisation(document, organisation)
    for signer in signers_of(lineage, beside):
        _add_member(document, signer.member)
    for model in reversed(lineage.versions):
        _add_version(document, model)
    for task in reversed(lineage.tasks):
        _add_task(document, task)
    for item in beside.attested:
        audit = item.audit
        name = _name("attestation", *audit.key)
        document.entity(name, {_name("outcome"): audit.outcome.value, _name("code"): audit.code})
        document.wasAttributedTo(name, _name("member", audit.auditor))
        document.wasDerivedFrom(name, _name("update", *audit.key[:3]))
    for batch in beside.batches:
        _add_uses(document, batch)
    text = document.serialize(format="json")
    assert text is not None, "it is None only where it goes to a stream"
    return rfc8785.dumps(json.loads(text))


def _name(kind: str, *key: str | int) -> str:
    return f"{PREFIX}:{'/'.join((kind, *map(str, key)))}"


def _add_organisation(document: ProvBundle, organisation: Organisation) -> None:
    document.agent(
        _name("organisation", organisation.id),
        {"prov:type": PROV["Organization"], "prov:label": organisation.title or organisation.id},
    )


def _add_member(document: ProvBundle, member: Member) -> None:
    name = _name("member", member.id)
    document.agent(name, {_name("role"): member.role.value, _name("key"): member.public_key.hex()})
    document.actedOnBehalfOf(name, _name("organisation", member.organisation))


def _add_version(document: ProvBundle, model: Model) -> None:
    name = _name("model", model.id, model.version)
    document.entity(name, {_name("weights"): model.weights, _name("version"): model.version})
    document.wasAttributedTo(name, _name("organisation", model.organisation))
    if model.version:
        document.wasDerivedFrom(name, _name("model", model.id, model.version - 1))


def _add_task(document: ProvBundle, found: TaskLineage) -> None:
    task = found.task
    name = _name("task", task.id)
    document.entity(name, {"prov:type": PROV["Plan"], _name("purpose"): task.terms.purpose})
    document.wasAttributedTo(name, _name("member", task.steward))
    for item in found.participants:
        _add_dataset(document, item)
    for rnd in found.rounds:
        _add_round(document, found, rnd)


def _add_dataset(document: ProvBundle, item: Participant) -> None:
    dataset = item.dataset
    name = _name("dataset", dataset.id)
    if document.get_record(name):  # another task's
        return
    document.entity(
        name,
        {
            "prov:label": dataset.title or dataset.id,
            _name("root"): dataset.root.hex(),
            _name("conditions"): " ".join(dataset.conditions),
        },
    )
    document.wasAttributedTo(name, _name("organisation", dataset.organisation))


def _add_round(document: ProvBundle, task: TaskLineage, found: RoundLineage) -> None:
    rnd, model = found.round, task.task.terms.model
    name = _name("round", *rnd.key)
    attributes: dict[str, Any] = {_name("phase"): rnd.phase.value, _name("code"): rnd.code}
    document.activity(name, utc(rnd.opened_ms), None, attributes)
    steward = _name("member", task.task.steward)
    document.wasAssociatedWith(name, steward, _name("task", rnd.task))
    for validator in sorted({item.validator for item in rnd.attestations}):
        document.wasAssociatedWith(name, _name("member", validator))
    base = _name("model", model, rnd.base_version)
    document.used(name, base)
    for part in found.sites:
        if part.update is not None:
            _add_update(document, part, base, name)
    if rnd.model_version is not None:
        document.wasGeneratedBy(_name("model", model, rnd.model_version), name)


def _add_update(document: ProvBundle, part: Part, base: str, rnd: str) -> None:
    update = part.update
    assert update is not None, "the caller found one"
    name, training = _name("update", *update.key), _name("training", *update.key)
    document.activity(training)
    document.wasAssociatedWith(
        training, _name("member", update.trainer), _name("task", update.task)
    )
    document.used(training, base)
    document.used(training, _name("dataset", update.dataset))
    document.entity(
        name,
        {
            _name("status"): update.status.value,
            _name("evidence"): update.evidence.value,
            _name("blob"): update.blob,
            _name("trace"): update.trace.hex(),
        },
    )
    document.wasGeneratedBy(name, training)
    if update.status is UpdateStatus.ACCEPTED:
        document.used(rnd, name)
    for verdict in part.verdicts:
        judged = _name("verdict", *verdict.key)
        document.entity(
            judged, {_name("decision"): verdict.decision.value, _name("code"): verdict.code}
        )
        document.wasAttributedTo(judged, _name("member", verdict.verifier))
        document.wasDerivedFrom(judged, name)


def _add_uses(document: ProvBundle, batch: UseBatchRecord) -> None:
    name = _name("uses", *batch.key)
    attributes: dict[str, Any] = {
        _name("purpose"): batch.purpose.value,
        _name("action"): batch.action.value,
        _name("count"): batch.count,
    }
    document.activity(name, utc(batch.first_ms), utc(batch.last_ms), attributes)
    document.wasAssociatedWith(name, _name("member", batch.member))
    document.used(name, _name("model", batch.model, batch.version))

"""From proofs to the case that they tell, for whoever has fetched them and whoever has a file."""

from collections.abc import Collection, Mapping, Sequence

from node.audit.check import audit_lineage
from node.audit.lineage import Lineage
from node.audit.values import Values
from node.case.beside import (
    AuditKey,
    audit_keys,
    check_attested,
    check_keys,
    check_uses,
    due,
    trace_beside,
)
from node.case.contents import Auditor, Case
from node.case.proofs import Proofs
from vm.inclusion import MultiProof, verify_multiproof
from vm.refusal import Refused
from vm.trust import Trust


def tell(trust: Trust, proofs: Proofs, auditor: Auditor) -> tuple[Case, tuple[str, ...]]:
    """Check all proofs and the rules of the story; the case, and what was checked, in words.

    Raises `Refused` with `audit.*` or `lineage.*`, or with `case.checkpoint`, `case.incomplete`,
    `case.excess`, `case.audits`, `case.usage`, `case.key` or `case.proofs`.
    """
    story = audit_lineage(trust.chain, trust.epochs, proofs.lineage, *proofs.version)
    header = proofs.lineage.certified.header
    values: dict[bytes, bytes | None] = {}
    for proof in proofs.beside:
        if proof.certified.header != header:
            raise Refused("case.checkpoint", "expected all records under one header, found two")
        values |= verify_multiproof(proof, trust.chain, trust.epochs)
    known = Values(values, "case")
    audits = audit_keys(values)
    beside = trace_beside(known, story.lineage, audits, auditor.member)
    known.expect_all_read()
    checked = (
        *story.audit.steps,
        f"{len(values)} records beside the lineage to the same root",
        check_attested(beside, story.lineage),
        check_uses(beside),
        check_keys(beside, story.lineage),
    )
    _check_files(proofs.beside, values, story.lineage, audits, auditor.member)
    return Case(header, story.lineage, beside, auditor), checked


def _check_files(
    files: Sequence[MultiProof],
    values: Mapping[bytes, bytes | None],
    lineage: Lineage,
    audits: Collection[AuditKey],
    auditor: str,
) -> None:
    """Check that each file holds what a collector asks for together; raise `case.proofs`."""
    seen: dict[bytes, bytes | None] = {}
    expected: list[set[bytes]] = []
    while parts := due(seen, lineage, audits, auditor):
        expected += [set(part) for part in parts]
        seen |= {key: values[key] for part in parts for key in part}
    if [{entry.key for entry in proof.records} for proof in files] != expected:
        raise Refused(
            "case.proofs",
            f"expected {len(expected)} files of the records that a report asks for together, "
            f"found others in {len(files)}",
        )

"""From proofs to the case that they tell, for whoever has fetched them and whoever has a file."""

from node.audit.check import audit_lineage
from node.case.beside import Known, audit_keys, check_attested, check_keys, check_uses, trace_beside
from node.case.contents import Auditor, Case
from node.case.proofs import Proofs
from vm.inclusion import verify_lineage
from vm.refusal import Refused
from vm.trust import Trust


def tell(trust: Trust, proofs: Proofs, auditor: Auditor) -> tuple[Case, tuple[str, ...]]:
    """Check all proofs and the rules of the story; the case, and what was checked, in words.

    Raises `Refused` with `audit.*` or `lineage.*`, or with `case.checkpoint`, `case.incomplete`,
    `case.excess`, `case.audits`, `case.usage` or `case.key`.
    """
    story = audit_lineage(trust.chain, trust.epochs, proofs.lineage, *proofs.version)
    header = proofs.lineage.certified.header
    values: dict[bytes, bytes | None] = {}
    for proof in proofs.beside:
        if proof.certified.header != header:
            raise Refused("case.checkpoint", "expected all records under one header, found two")
        values |= verify_lineage(proof, trust.chain, trust.epochs)
    known = Known(values)
    beside = trace_beside(known, story.lineage, audit_keys(values), auditor.member)
    known.expect_exact()
    checked = (
        *story.audit.steps,
        f"{len(values)} records beside the lineage to the same root",
        check_attested(beside, story.lineage),
        check_uses(beside),
        check_keys(beside, story.lineage),
    )
    return Case(header, story.lineage, beside, auditor), checked

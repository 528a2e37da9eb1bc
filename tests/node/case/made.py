"""A chain with something of everything that a case file shows."""

from dataclasses import replace

from fl.body import AdmitAuditor, AttestAudit
from node.audit.lineage import trace
from node.case.beside import trace_beside
from node.case.contents import Case, Signer
from tests.harness import key_of
from tests.node.network import (
    HOSPITALS,
    MODEL,
    TASK,
    Network,
    fail_round,
    open_task,
    run_round,
    say,
)
from vm.conduct import AuditOutcome
from vm.record import Role
from vm.registry import EnrolMember

VERSION = 2
SIGNER = f"{HOSPITALS[1]}.auditor"
AUDITED = [(TASK, 1, HOSPITALS[0], HOSPITALS[1]), (TASK, 3, HOSPITALS[2], HOSPITALS[1])]


def run_case(network: Network) -> None:
    """Three rounds, of which the second fails, and two audits: one failed, one not to be had."""
    say(network, [(f"{HOSPITALS[1]}.admin", "member.enrol", _auditor())])
    open_task(network, VERSION)
    run_round(network, 1)
    fail_round(network, 2)
    run_round(network, 3)
    say(network, [_visit(HOSPITALS[2], 3)])
    say(
        network,
        [
            _attestation(HOSPITALS[0], 1, AuditOutcome.UNAVAILABLE, "audit.expired"),
            _attestation(HOSPITALS[2], 3, AuditOutcome.FAILED, "audit.differs"),
        ],
    )


def case_of(network: Network) -> Case:
    """The case of the newest version, read from the node's state."""
    state, row = network.chain.state(), network.chain.store.row(network.chain.head.height)
    assert row is not None
    lineage = trace(state, MODEL, VERSION)
    signer = Signer(SIGNER, key_of(SIGNER).public)
    return Case(row.header, lineage, trace_beside(state, lineage, AUDITED, SIGNER), signer)


def titled(case: Case, title: str) -> Case:
    """The case with other words from a stranger in it."""
    task = case.lineage.tasks[0]
    terms = replace(task.task.terms, title=title)
    changed = replace(task, task=replace(task.task, terms=terms))
    return replace(case, lineage=replace(case.lineage, tasks=(changed,)))


def _auditor() -> EnrolMember:
    return EnrolMember(SIGNER, Role.AUDITOR, key_of(SIGNER).public, None)


def _visit(hospital: str, number: int) -> tuple[str, str, object]:
    return f"{hospital}.trainer", "learning.visit", AdmitAuditor(TASK, number, SIGNER)


def _attestation(
    hospital: str, number: int, outcome: AuditOutcome, code: str
) -> tuple[str, str, object]:
    segments = 0 if outcome is AuditOutcome.UNAVAILABLE else 3
    body = AttestAudit(TASK, number, hospital, outcome, code, "as found on site", segments)
    return SIGNER, "learning.audit", body

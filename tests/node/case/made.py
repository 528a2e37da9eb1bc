"""A chain with something of everything that a case file shows, and case files taken apart."""

import asyncio
import io
import zipfile
from collections.abc import Callable
from dataclasses import replace

import pytest

from fl.body import AdmitAuditor, AttestAudit
from node.audit.lineage import trace
from node.case.archive import DATE, make_case
from node.case.beside import trace_beside
from node.case.collect import collect
from node.case.contents import Auditor, Case
from node.case.proofs import Checkpoint, Proofs
from node.case.story import tell
from node.client.client import Client
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
    uses,
)
from tests.node.serving import serve
from vm.conduct import AuditOutcome
from vm.keys import SigningKey
from vm.record import Role
from vm.refusal import Refused
from vm.registry import EnrolMember
from vm.trust import Trust, from_genesis

VERSION = 2
AUDITOR = f"{HOSPITALS[1]}.auditor"
AUDITED = [(TASK, 1, HOSPITALS[0], HOSPITALS[1]), (TASK, 3, HOSPITALS[2], HOSPITALS[1])]


def run_case(network: Network) -> None:
    """Three rounds, of which the second fails, two audits, and batches of uses by two hospitals.

    One audit failed, one found nothing to be had. Two blocks come after all of it.
    """
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
    network.block(*(uses(network, hospital, 1) for hospital in HOSPITALS[:2]))
    network.block(uses(network, HOSPITALS[0], 2))
    network.block()
    network.block()


def case_of(network: Network) -> Case:
    """The case of the newest version, read from the node's state."""
    state, row = network.chain.state(), network.chain.store.row(network.chain.head.height)
    assert row is not None
    lineage = trace(state, MODEL, VERSION)
    auditor = Auditor(AUDITOR, key_of(AUDITOR).public)
    return Case(row.header, lineage, trace_beside(state, lineage, AUDITED, AUDITOR), auditor)


async def fetch(
    network: Network, auditor: str, at: int | None, checkpoint: Checkpoint | None
) -> tuple[Trust, Proofs]:
    """The proofs of the newest version, from a node of this network over HTTP."""
    async with serve(network) as (url, _), Client(network.genesis, [url]) as client:
        proofs = await collect(client, MODEL, auditor=auditor, at=at, checkpoint=checkpoint)
        return Trust(client.chain, client.proven.epochs, None), proofs


def make(
    network: Network,
    *,
    at: int | None = None,
    checkpoint: Checkpoint | None = None,
    auditor: str = AUDITOR,
    key: SigningKey | None = None,
) -> bytes:
    """The case file of the newest version, signed with the auditor's key if no other is given."""
    trust, proofs = asyncio.run(fetch(network, auditor, at, checkpoint))
    key = key or key_of(auditor)
    case, _ = tell(trust, proofs, Auditor(auditor, key.public))
    return make_case(trust, case, proofs, key)


def titled(case: Case, title: str) -> Case:
    """The case with other words from a stranger in it."""
    task = case.lineage.tasks[0]
    terms = replace(task.task.terms, title=title)
    changed = replace(task, task=replace(task.task, terms=terms))
    return replace(case, lineage=replace(case.lineage, tasks=(changed,)))


def _auditor() -> EnrolMember:
    return EnrolMember(AUDITOR, Role.AUDITOR, key_of(AUDITOR).public, None)


def _visit(hospital: str, number: int) -> tuple[str, str, object]:
    return f"{hospital}.trainer", "learning.visit", AdmitAuditor(TASK, number, AUDITOR)


def _attestation(
    hospital: str, number: int, outcome: AuditOutcome, code: str
) -> tuple[str, str, object]:
    segments = 0 if outcome is AuditOutcome.UNAVAILABLE else 3
    body = AttestAudit(TASK, number, hospital, outcome, code, "as found on site", segments)
    return AUDITOR, "learning.audit", body


def trust_of(network: Network) -> Trust:
    """What an auditor trusts who has the genesis document."""
    return from_genesis(network.genesis)


def parts_of(data: bytes) -> dict[str, bytes]:
    """The parts of an archive, by the standard library."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(
    parts: list[tuple[str, bytes]],
    method: int = zipfile.ZIP_STORED,
    date: tuple[int, int, int, int, int, int] = DATE,
) -> bytes:
    """An archive as a case file is one, of any parts."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in parts:
            info = zipfile.ZipInfo(name, date)
            info.create_system, info.external_attr, info.compress_type = 3, 0o100644 << 16, method
            archive.writestr(info, data)
    return target.getvalue()


def refusal(check: Callable[[], object]) -> str:
    """The code with which `check` refuses."""
    with pytest.raises(Refused) as caught:
        check()
    return caught.value.code

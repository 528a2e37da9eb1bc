"""`concilium audit learning`: whether an auditor came in time, by the chain's own clock."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest

from node.cli import main
from node.commands import attest
from node.home.testnet import Layout, write_testnet
from node.peer.auditing import Finding
from tests.fl.dialogue import TASK, visit, with_auditors
from tests.harness import BLOCK_MS
from tests.node.hospital import Town
from tests.node.peer.looks import opened, run
from vm.conduct import Audit, AuditOutcome
from vm.learning import Round, RoundPhase
from vm.state import Record

NOW = datetime(2026, 3, 1, tzinfo=UTC)  # of the certificates; nothing here connects
AUDITOR = "hospital-2.auditor"
WITHDRAWN = "audit.unavailable"  # while the trace still has to be there
PASSED = Finding(AuditOutcome.PASSED, "audit.passed", "4 of 4 segments replayed", 4)


@dataclass
class Idle:
    """A client of a chain on which nothing happens but what this command sends."""

    town: Town

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def record(self, cls: type[Record], *key: str | int) -> Record | None:
        """As the executed chain has it."""
        return self.town.chain.state.get(cls, *key)

    async def header(self) -> SimpleNamespace:
        """As much of the newest header as is asked for."""
        return SimpleNamespace(time_ms=self.town.chain.time_ms)

    async def header_at(self, height: int) -> SimpleNamespace:
        """The same of this height's, which is the newest."""
        assert height == self.town.chain.height
        return await self.header()


@dataclass
class Audits:
    """An ended round that hospital 1 has trained, and the auditor of hospital 2 there."""

    town: Town
    layout: Layout
    replayed: int = 0

    def end(self, time_ms: int) -> None:
        """The round fails for want of updates at this time of the chain."""
        self.town.chain.block(time_ms=time_ms)
        assert self.town.chain.get(Round, TASK, 1).phase is RoundPhase.FAILED

    def until_ms(self) -> int:
        """Until when its trace has to be kept."""
        return self.town.chain.get(Round, TASK, 1).deadline_ms + BLOCK_MS

    async def replay(self, *_: object) -> Finding:
        """What the trace comes to."""
        self.replayed += 1
        return PASSED

    def audit(self, *flags: str) -> AuditOutcome:
        """What the command attests."""
        homes = str(self.layout.auditor), str(self.layout.home("hospital-1", "peer"))
        assert main(["audit", "learning", *homes, "--task", TASK, "--round", "1", *flags]) == 0
        return self.attested().outcome

    def attested(self) -> Audit:
        """What the chain has of it."""
        return self.town.chain.get(Audit, TASK, 1, "hospital-1", "hospital-2")


@pytest.fixture
def audits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audits:
    """The round still runs; the trace is kept for a block's time after it."""
    town = opened(tmp_path / "town", trace_retention_ms=BLOCK_MS)
    with_auditors(town.chain)
    run(town.trainer(1).work(TASK))
    layout = write_testnet(tmp_path / "net", now=NOW)
    settings = layout.auditor / "concilium.toml"
    settings.write_text(settings.read_text().replace('id = "auditor"', f'id = "{AUDITOR}"'))
    found = Audits(town, layout)
    monkeypatch.setattr(attest, "Client", lambda *_: Idle(town))
    monkeypatch.setattr(attest, "Submitter", lambda client, member, key: town._parts(member)[0])
    monkeypatch.setattr(attest, "_replay", found.replay)
    return found


def test_who_comes_in_time_replays(audits: Audits) -> None:
    """The hospital signs the visit first."""
    audits.end(audits.until_ms() - BLOCK_MS)

    assert audits.audit() is AuditOutcome.PASSED


def test_who_was_let_in_in_time_replays_however_late(audits: Audits) -> None:
    """The trace has to be there for him; the time of his visit counts."""
    audits.end(audits.until_ms() - BLOCK_MS)
    audits.town.chain.applied([visit(2, 1)])
    audits.town.chain.block(time_ms=audits.until_ms() + 10 * BLOCK_MS)

    assert audits.audit() is AuditOutcome.PASSED


def test_who_comes_late_to_an_idle_chain_replays_nothing(audits: Audits) -> None:
    """Its newest header tells an old time; the visit's own block tells when he came."""
    audits.end(audits.until_ms())

    assert audits.audit() is AuditOutcome.UNAVAILABLE
    assert audits.replayed == 0


@pytest.mark.parametrize(("late_ms", "code"), [(0, "audit.expired"), (-BLOCK_MS, WITHDRAWN)])
def test_what_is_unavailable_is_attested_at_once_on_an_idle_chain(
    audits: Audits, late_ms: int, code: str
) -> None:
    """The newest header tells an old time: where the attestation's own block is late, it says so.

    The reason stays as it was given.
    """
    audits.end(audits.until_ms() + late_ms)

    assert audits.audit("--unavailable", "consent withdrawn") is AuditOutcome.UNAVAILABLE
    assert audits.attested().code == code
    assert audits.attested().reason == "consent withdrawn"

"""An audit that ends after the trace had to be kept, of an auditor who was let in before."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fl.body import AdmitAuditor
from node.client.submitter import Submitter
from node.demo.processes import CONCILIUM
from node.home import config
from node.home.keyfile import read_key
from tests.network.running import HOSPITALS, SERIAL, Running, concilium, newcomer, patiently
from tests.network.synthetic import TASK, open_task, register_datasets, write_rows
from vm.conduct import Audit, AuditOutcome, Visit
from vm.learning import Round, Update
from vm.refusal import Refused

pytestmark = pytest.mark.network

KEPT_MS = 10_000  # from the verdicts on: for aggregates, then for the visit
AUDITOR = "auditor"


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Running]:
    """A network that trains one round, whose traces need not be kept for long."""
    net = Running(tmp_path / "net", tasks=[TASK])
    try:
        net.start_all()
        write_rows(net)
        register_datasets(net, tmp_path)
        open_task(net, tmp_path, 1, aggregate_ms=KEPT_MS, trace_retention_ms=0)
        for number in net.numbers:
            home = net.home(number, "peer")
            net.spawn(home, [*CONCILIUM, "peer", "run", str(home)])
        yield net
    finally:
        net.close()


async def let_in(net: Running, number: int) -> int:
    """A hospital lets the auditor in once the round is over; until when its trace is kept, in ms.

    Returns when that is past by the chain's time.
    """
    trainer = config.load(config.PeerConfig, net.home(number, "peer"), {}).trainer
    async with net.client() as client, net.pen(1) as admin:

        async def ended() -> Round:
            found = await client.record(Round, TASK, 1)
            if found is None or found.model_version is None:
                raise Refused("test.waiting", "expected a round that has closed")
            return found

        until_ms = (await patiently(ended)).deadline_ms
        body = AdmitAuditor(TASK, 1, AUDITOR)
        await Submitter(client, trainer.id, read_key(trainer.key)).submit("learning.visit", body)
        while (await client.header()).time_ms <= until_ms:  # an idle chain has no time of its own
            await admin.submit("member.enrol", newcomer(f"trainer-{next(SERIAL)}"))
        return until_ms


@pytest.mark.timeout(120)
def test_who_came_in_time_attests_what_he_found_however_late(net: Running) -> None:
    """Where he was let in his replay counts; where he was not, the trace may be gone by now."""
    until_ms = asyncio.run(let_in(net, 1))

    def audit(number: int) -> Any:
        homes = net.layout.auditor, net.home(number, "peer")
        command = ("audit", "learning", *homes, "--task", TASK, "--round", "1")
        return concilium(*command, "--format", "json").data

    visited, unvisited = audit(1), audit(2)

    assert (visited["outcome"], visited["code"]) == ("passed", "audit.passed")
    assert (unvisited["outcome"], unvisited["code"]) == ("unavailable", "audit.expired")

    async def read() -> None:
        async with net.client() as client:
            key = (TASK, 1, HOSPITALS[0])
            visit = await client.record(Visit, *key, AUDITOR)
            found = await client.record(Audit, *key, AUDITOR)
            update = await client.record(Update, *key)
            assert visit is not None
            assert found is not None
            assert update is not None
            attested = await client.header_at(found.height)
            assert visit.time_ms <= until_ms < attested.time_ms
            assert found.outcome is AuditOutcome.PASSED
            assert update.audits_passed == 1
            assert await client.record(Visit, TASK, 1, HOSPITALS[1], AUDITOR) is None

    asyncio.run(read())

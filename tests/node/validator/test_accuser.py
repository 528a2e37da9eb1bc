"""Evidence goes to the chain until it is recorded there, and is not reported again after that."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from consensus.message import Envelope, Evidence, Prepare, decode_envelope, signing_digest
from node.validator.accuser import Accuser
from tests.harness import key_of
from tests.node.network import Network, open_network
from vm.governance import ReportFault
from vm.proposal import Fault
from vm.refusal import Refused

LIAR = "hospital-2.validator"


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain at genesis."""
    with open_network(tmp_path) as found:
        yield found


def evidence(network: Network, payload: bytes | None = None) -> Evidence:
    """Two votes of one validator for one slot."""
    envelopes = []
    for digest in (b"a" * 32, b"b" * 32):
        body = Prepare(0, 1, digest)
        signature = key_of(LIAR).sign(signing_digest(network.chain.id, 0, body))
        envelopes.append(Envelope(LIAR, 0, body, signature, payload))
    return Evidence(*envelopes)


class Desk:
    """Where reports arrive; with `executes`, they are executed at once."""

    def __init__(self, network: Network, *, executes: bool) -> None:
        self.network = network
        self.executes = executes
        self.reports: list[ReportFault] = []

    async def submit(self, kind: str, body: ReportFault) -> None:
        """Take a report."""
        assert kind == "validator.fault"
        self.reports.append(body)
        if not self.executes:
            raise Refused("disk.full", "no room")
        self.network.block(self.network.sign("hospital-1.validator", kind, body))


def test_evidence_is_reported_once(network: Network) -> None:
    """The chain records whose key it was; nothing is left to do, also after a restart."""
    network.chain.store.write_evidence(evidence(network, b"payload"))
    desk = Desk(network, executes=True)

    done = asyncio.run(Accuser(network.chain, desk.submit).attempt())
    again = asyncio.run(Accuser(network.chain, desk.submit).attempt())

    (report,) = desk.reports
    fault = network.chain.state().get(Fault, key_of(LIAR).public.hex())
    assert (done, again) == (True, True)
    assert decode_envelope(report.first).payload is None
    assert fault is not None
    assert fault.validator == LIAR


def test_a_report_that_is_refused_is_tried_again(network: Network) -> None:
    """It may be the disk, or a quota."""
    network.chain.store.write_evidence(evidence(network))
    desk = Desk(network, executes=False)
    accuser = Accuser(network.chain, desk.submit)

    assert not asyncio.run(accuser.attempt())
    desk.executes = True
    assert asyncio.run(accuser.attempt())
    assert len(desk.reports) == 2


def test_what_another_reported_is_not_reported_again(network: Network) -> None:
    """One proof is enough."""
    first = Desk(network, executes=True)
    network.chain.store.write_evidence(evidence(network))
    asyncio.run(Accuser(network.chain, first.submit).attempt())
    second = Desk(network, executes=True)

    assert asyncio.run(Accuser(network.chain, second.submit).attempt())
    assert second.reports == []


def test_evidence_that_is_too_large_for_a_transaction_stays_here(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole new view may be; people can still look at it."""
    from node.validator import accuser as module

    network.chain.store.write_evidence(evidence(network))
    monkeypatch.setattr(module, "EVIDENCE_BYTES_MAX", 10)
    desk = Desk(network, executes=True)

    assert asyncio.run(Accuser(network.chain, desk.submit).attempt())
    assert desk.reports == []

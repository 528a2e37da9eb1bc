"""Evidence goes to the chain until it is recorded there, and is not reported again after that."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.validator.accuser import Accuser
from tests.harness import key_of
from tests.node.network import Network, open_network
from tests.vm.liar import evidence
from vm.evidence import Evidence
from vm.proposal import Fault
from vm.refusal import Refused

LIAR = "hospital-2.validator"


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain at genesis."""
    with open_network(tmp_path) as found:
        yield found


def keep(network: Network) -> Evidence:
    """Evidence that the replica has left in the store."""
    found = evidence(key_of(LIAR), network.chain.id, LIAR)
    network.chain.store.write_evidence(found)
    return found


class Desk:
    """Where reports arrive; with `executes`, they are executed at once."""

    def __init__(self, network: Network, *, executes: bool) -> None:
        self.network = network
        self.executes = executes
        self.reports: list[Evidence] = []

    async def submit(self, kind: str, body: Evidence) -> None:
        """Take a report."""
        assert kind == "validator.fault"
        self.reports.append(body)
        if not self.executes:
            raise Refused("disk.full", "no room")
        self.network.block(self.network.sign("hospital-1.validator", kind, body))


def test_evidence_is_reported_once(network: Network) -> None:
    """The chain records whose key it was; nothing is left to do, also after a restart."""
    kept = keep(network)
    desk = Desk(network, executes=True)

    done = asyncio.run(Accuser(network.chain, desk.submit).attempt())
    again = asyncio.run(Accuser(network.chain, desk.submit).attempt())

    assert desk.reports == [kept]
    fault = network.chain.state().get(Fault, key_of(LIAR).public.hex())
    assert (done, again) == (True, True)
    assert fault is not None
    assert fault.validator == LIAR


def test_a_report_that_is_refused_is_tried_again(network: Network) -> None:
    """It may be the disk, or a quota."""
    keep(network)
    desk = Desk(network, executes=False)
    accuser = Accuser(network.chain, desk.submit)

    assert not asyncio.run(accuser.attempt())
    desk.executes = True
    assert asyncio.run(accuser.attempt())
    assert len(desk.reports) == 2


def test_what_another_reported_is_not_reported_again(network: Network) -> None:
    """One proof is enough."""
    first = Desk(network, executes=True)
    keep(network)
    asyncio.run(Accuser(network.chain, first.submit).attempt())
    second = Desk(network, executes=True)

    assert asyncio.run(Accuser(network.chain, second.submit).attempt())
    assert second.reports == []


def test_a_second_fault_with_another_key_is_kept_too(network: Network) -> None:
    """A seat whose key was rotated after a fault may be faulty again: that proof is reported."""
    store, chain = network.chain.store, network.chain.id
    earlier, later = (evidence(key_of(LIAR), chain, LIAR, epoch=epoch) for epoch in (0, 1))

    for found in (earlier, later, earlier):
        store.write_evidence(found)

    assert store.evidence() == [later]

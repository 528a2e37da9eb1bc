"""Seats come, go and change keys on real processes, while transactions flow."""

import asyncio
import shutil
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest

from node.commands.report import OUTDATED, REFUSED
from node.demo.processes import free_ports
from node.home import config
from node.home.admission import Newcomer, write_admin
from node.home.config import Endpoint, Http
from node.home.keyfile import read_key
from node.home.seat import Plan, write_seat
from node.home.testnet import HOST
from tests.network.newer import PROTOCOL
from tests.network.running import (
    Flow,
    Running,
    assert_nothing_lost,
    concilium,
    patiently,
    until,
)
from vm.governance import Approve, Propose
from vm.proposal import AdmitOrganisation, Change, Fault, UnseatValidator, UpgradeProtocol
from vm.record import Member, Standing
from vm.refusal import Refused
from vm.state import Record

pytestmark = [pytest.mark.network, pytest.mark.timeout(240)]

R = TypeVar("R", bound=Record)

BLOCKS = 10_000  # for which a proposal of these tests is open


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Running]:
    """Four validators, ready."""
    running = Running(tmp_path / "net")
    try:
        running.start_all()
        yield running
    finally:
        running.close()


async def decide(net: Running, id: str, change: Change, seats: int) -> None:
    """As many organisations as it takes agree: more than two thirds of those with a seat."""
    async with net.pen(1) as pen:
        height = await pen.height()
        await pen.submit("governance.propose", Propose(id, change, height + BLOCKS))
    for number in range(2, 2 * seats // 3 + 2):
        async with net.pen(number) as pen:
            await pen.submit("governance.approve", Approve(id))


def await_role(net: Running, number: int, role: str) -> None:
    """Wait until a validator is there and says that this is its part."""
    net.await_ready(number)
    until(lambda: net.status(number)["role"] == role, f"validator {number} {role}")


def join(net: Running, number: int, ports: int) -> None:
    """A new organisation is admitted, and its validator seated and started."""
    name, like = f"hospital-{number}", config.load(config.ValidatorConfig, net.home(1), {})
    office = config.load(config.OfficeConfig, net.home(1, "admin"), {}).client
    newcomer = Newcomer(name, name.title(), "NL", f"{name}.admin")
    write_admin(net.home(number, "admin"), newcomer, net.layout.genesis, office)
    admin = config.load(config.OfficeConfig, net.home(number, "admin"), {}).member
    key = read_key(admin.key).public
    admission = AdmitOrganisation(name, newcomer.title, newcomer.region, newcomer.admin, key)
    asyncio.run(decide(net, f"admit-{number}", admission, number - 1))
    at, http = Endpoint(HOST, ports), Endpoint(HOST, ports + 1)
    plan = Plan(
        id=f"{name}.validator",
        organisation=name,
        genesis=net.layout.genesis,
        authority=net.layout.directory / "authority",
        validators=like.peer.validators,
        listen=at,
        address=at,
        http=Http(listen=http),
    )
    made = write_seat(net.home(number), plan, datetime.now(UTC))
    asyncio.run(decide(net, f"seat-{number}", made.seat, number - 1))
    net.urls.append(f"http://{http}")
    net.start(number)


def test_a_network_grows_from_four_to_seven_and_shrinks_back(net: Running) -> None:
    """Under load, nothing acknowledged is lost, and an auditor follows from genesis."""
    ports = free_ports(6)

    with Flow(net) as flow:
        for number in (5, 6, 7):
            join(net, number, ports + 2 * (number - 5))
            await_role(net, number, "voting")
        flow.await_more()
        grown = asyncio.run(audit(net, 5, 6, 7))
        for seats in (7, 6, 5):
            change = UnseatValidator(f"hospital-{seats}.validator")
            asyncio.run(decide(net, f"unseat-{seats}", change, seats))
            await_role(net, seats, "observing")
        flow.await_more()

    assert grown >= 7
    assert asyncio.run(audit(net, 1, 2, 3, 4)) == 4
    assert net.status(1)["epoch"] == 6
    assert_nothing_lost(net, flow.acknowledged)


async def audit(net: Running, *numbers: int) -> int:
    """The number of seats that a client with nothing but the genesis document follows to."""
    async with net.client(*numbers) as client:
        await patiently(client.header)
        return client.proven.epochs[-1].validators.n


def test_a_key_is_rotated_and_a_lost_journal_recovered(net: Running) -> None:
    """By the command line, with the other organisations' approval, while the chain goes on."""
    with Flow(net) as flow:
        rotate(net, 2, "rotate-2")
        until(lambda: not (net.home(2) / "keys/next.key").exists(), "the new key in use")
        await_role(net, 2, "voting")

        assert net.signal(net.home(4), signal.SIGTERM) == 0
        shutil.rmtree(net.home(4) / "store/journal")
        net.start(4)
        refused = net.wait(4)
        answer = concilium("validator", "recover", net.home(4), "--format", "json")
        net.start(4)
        net.await_ready(4)
        role = net.status(4)["role"]
        rotate(net, 4, "rotate-4")
        await_role(net, 4, "voting")
        flow.await_more()

    assert refused == REFUSED
    assert f"concilium validator recover {net.home(4)}" in net.log(4).replace("\n", "")
    assert len(answer.data["barred"]) == 1
    assert role == "observing"
    assert_nothing_lost(net, flow.acknowledged)


def rotate(net: Running, number: int, id: str) -> None:
    """The validator's organisation makes a key and proposes it; two others approve."""
    made = concilium("validator", "rotate", net.home(number), "--format", "json").data
    admin = net.home(number, "admin")
    concilium("governance", "propose", admin, made["document"], "--id", id, "--format", "json")
    listed = concilium("governance", "list", net.home(1, "admin"), "--format", "json").data
    assert [item["id"] for item in listed] == [id]
    others = [other for other in (1, 2, 3) if other != number][:2]
    for other in others:
        done = concilium("governance", "approve", net.home(other, "admin"), id, "--format", "json")
    assert done.data["proposal"]["phase"] == "applied"


def test_an_old_node_stops_cleanly_before_a_protocol_that_it_does_not_know(
    net: Running,
) -> None:
    """The others go on; with the newer software it goes on where it stopped."""
    for number in (1, 2, 3):
        net.signal(net.home(number), signal.SIGTERM)
        start_newer(net, number)
    net.await_ready()

    with Flow(net) as flow:
        asyncio.run(decide(net, "upgrade", UpgradeProtocol(PROTOCOL), 4))
        code = net.wait(4)
        flow.await_more()
        start_newer(net, 4)
        net.await_ready(4)
        flow.await_more()

    assert code == OUTDATED
    assert PROTOCOL in net.log(4)
    assert "Traceback" not in net.log(4)
    assert_nothing_lost(net, flow.acknowledged)


def start_newer(net: Running, number: int) -> None:
    """Start a validator with software that knows the next protocol too."""
    home = net.home(number)
    net.spawn(home, [sys.executable, "-m", "tests.network.newer", "run", str(home)])


def test_a_validator_that_signs_twice_is_recorded_and_suspended(net: Running) -> None:
    """Every node has the proof on chain; its seat counts and does not vote, and the rest go on."""
    liar = "hospital-4.validator"
    assert net.signal(net.home(4), signal.SIGTERM) == 0
    public = read_key(net.home(4) / "keys/validator.key").public.hex()
    slot = str(net.status(1)["view"]), str(net.status(1)["executed_height"] + 5)

    net.spawn(net.home(4), [sys.executable, "-m", "tests.network.double", str(net.home(4)), *slot])
    faults = [asyncio.run(record(net, number, Fault, public)) for number in (1, 2, 3)]
    with Flow(net) as flow:
        until(lambda: net.status(1)["epoch"] == 1, "the epoch without its vote")
        flow.await_more()

    (fault,) = set(faults)
    assert (fault.validator, fault.suspended_height) == (liar, fault.height)
    for number in (1, 2, 3):
        assert asyncio.run(record(net, number, Member, liar)).standing is Standing.SUSPENDED
        assert net.status(number)["role"] == "voting"


async def record(net: Running, number: int, cls: type[R], *key: str) -> R:
    """A record that one validator proves, once it is there."""

    async def ask() -> R:
        found = await client.record(cls, *key)
        if found is None:
            raise Refused("test.waiting", f"expected {cls.__name__} {key}")
        return found

    async with net.client(number) as client:
        return await patiently(ask)

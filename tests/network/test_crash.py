"""Four real validators under kill -9 and SIGTERM: the network goes on and loses nothing."""

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.home.document import dump
from tests.network.running import (
    HOSPITALS,
    Flow,
    Running,
    assert_nothing_lost,
    concilium,
    newcomer,
    patiently,
    until,
)
from vm.refusal import Refused

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Four validators, ready."""
    running = Running(tmp_path_factory.mktemp("crash") / "net")
    try:
        running.start_all()
        yield running
    finally:
        running.close()


def test_a_transaction_goes_through_the_command_line(net: Running, tmp_path: Path) -> None:
    """`concilium submit` waits for the certified receipt, and says so in text and in JSON."""
    bodies = []
    for name in ("by-text", "by-json"):
        bodies.append(tmp_path / f"{name}.json")
        bodies[-1].write_text(json.dumps(dump(newcomer(name))))
    home = net.home(2, "admin")

    text = concilium("submit", home, "member.enrol", bodies[0])
    receipt = concilium("submit", home, "member.enrol", bodies[1], "--format", "json").data

    assert text.code == 0
    assert "member.enrol is certified at height" in text.out
    assert (receipt["result"], receipt["code"]) == ("applied", "applied")
    assert_nothing_lost(net, ["by-text", "by-json"])


def test_status_shows_every_validator(net: Running) -> None:
    """`concilium status` names view, primary, heights and state of all four."""
    home = net.layout.auditor
    until(lambda: net.status(4)["certified_height"] > 0, "a certified block")

    text = concilium("status", "--home", home)
    data = concilium("status", "--home", home, "--format", "json").data

    assert text.code == 0
    assert {item["name"] for item in data.values()} == {f"{h}.validator" for h in HOSPITALS}
    assert list(data) == list(net.urls)
    for hospital in HOSPITALS:
        assert f"{hospital}.validator" in text.out


def test_the_primary_is_killed_while_transactions_flow(net: Running, tmp_path: Path) -> None:
    """The others go on in a new view; restarted, it catches up to the same state."""
    before = net.status(1)
    killed = next(n for n, h in enumerate(HOSPITALS, 1) if before["primary"] == f"{h}.validator")
    survivor = killed % len(HOSPITALS) + 1
    body = tmp_path / "body.json"
    body.write_text(json.dumps(dump(newcomer("meanwhile"))))

    with Flow(net) as flow:
        flow.await_more()
        net.kill(killed)
        # its own admin asks the dead validator first
        answer = concilium("submit", net.home(killed, "admin"), "member.enrol", body)
        flow.await_more()
        view = net.status(survivor)["view"]
        net.start(killed)
        net.await_ready(killed)
        flow.await_more()

    assert answer.code == 0, answer
    assert view > before["view"]
    assert_nothing_lost(net, [*flow.acknowledged, "meanwhile"])


def test_sigterm_ends_cleanly_and_a_restart_of_all_loses_nothing(net: Running) -> None:
    """Exit code 0 even with a reader of events connected; the chain goes on where it was."""
    with Flow(net) as flow:
        flow.await_more()
    heights = [net.status(number)["certified_height"] for number in range(1, 5)]
    host, port = net.urls[0].removeprefix("http://").split(":")

    with socket.create_connection((host, int(port))) as reader:
        reader.sendall(b"GET /v1/events HTTP/1.1\r\nHost: test\r\n\r\n")
        reader.recv(1)
        codes = [net.signal(net.home(number), signal.SIGTERM) for number in range(1, 5)]
    net.start_all()

    assert codes == [0, 0, 0, 0]
    for number, height in enumerate(heights, 1):
        assert "Traceback" not in net.log(number)
        assert net.status(number)["certified_height"] >= height
    assert_nothing_lost(net, flow.acknowledged)


def test_all_four_are_killed_at_once(net: Running) -> None:
    """What was acknowledged is on disk at a quorum: nothing is lost when the power goes."""
    with Flow(net) as flow:
        flow.await_more()
        for number in range(1, 5):
            net.kill(number)
        net.start_all()
        flow.await_more()

    assert_nothing_lost(net, flow.acknowledged)


def test_two_of_four_are_too_few_and_nothing_is_promised(net: Running) -> None:
    """Without a quorum a submission waits, unacknowledged; it is certified when one is back."""

    async def run() -> bool:
        async with net.pen(1) as pen:
            sent = asyncio.create_task(pen.submit("member.enrol", newcomer("patient")))
            await patiently(lambda: _admitted(net, 1))
            early = sent.done()
            for number in (3, 4):
                net.start(number)
            await sent
            return early

    for number in (3, 4):
        net.kill(number)

    early = asyncio.run(run())

    assert not early
    net.await_ready()
    assert_nothing_lost(net, ["patient"])


async def _admitted(net: Running, number: int) -> None:
    """Refused as long as nothing waits at the validator."""
    if not (await asyncio.to_thread(net.status, number))["pending"]:
        raise Refused("test.pending", "expected a waiting transaction, found none")

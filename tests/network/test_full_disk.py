"""A validator whose disk is full stops loudly and comes back; the others go on."""

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

from tests.network.running import Running, newcomer, patiently
from vm.record import Member

pytestmark = pytest.mark.network

FULL_KIB = 96  # a few dozen blocks into the journal
AHEAD = 5  # blocks of the others after the full one stopped


@pytest.fixture
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Four validators, the last with little room on its disk."""
    running = Running(tmp_path_factory.mktemp("full") / "net")
    try:
        for number in (1, 2, 3):
            running.start(number)
        running.start(4, file_kib_max=FULL_KIB)
        running.await_ready()
        yield running
    finally:
        running.close()


def test_a_full_disk_stops_one_validator_loudly_and_loses_nothing(net: Running) -> None:
    """It says disk.full, says so again while there is no room, and catches up once there is."""
    acknowledged: list[str] = []

    async def fill() -> None:
        async with net.pen(4) as pen:  # it asks the full one first
            while net.alive(4):
                acknowledged.append(f"trainer-{len(acknowledged)}")
                await pen.submit("member.enrol", newcomer(acknowledged[-1]))
            for number in range(AHEAD):
                acknowledged.append(f"later-{number}")
                await pen.submit("member.enrol", newcomer(acknowledged[-1]))

    asyncio.run(fill())

    assert net.wait(4) == 3
    log = net.log(4)
    assert "disk.full" in log
    assert "nothing that was acknowledged is lost" in log
    assert "Traceback" not in log

    (net.home(4) / "log").rename(net.home(4) / "log.1")  # which had grown beyond the next limit
    net.start(4, file_kib_max=1)  # still no room: refused again, not damaged
    assert net.wait(4) == 3
    assert net.log(4).startswith("disk.full: ")
    net.start(4)
    net.await_ready()
    headers = net.headers()
    assert len({header.state for header in headers}) == 1

    async def look() -> None:
        async with net.client(4) as client:
            for name in acknowledged:
                assert await patiently(partial(client.record, Member, name)), name

    asyncio.run(look())

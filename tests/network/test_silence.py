"""A validator that is stopped, not dead: its sockets are open and nothing comes from them."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from node.demo.processes import CONCILIUM
from tests.network.running import HOSPITALS, Running, patiently
from tests.network.synthetic import TASK, open_task, register_datasets, write_rows
from vm.learning import (
    Round,
    Task,
    TaskPhase,
    Update,
    UpdateStatus,
)
from vm.refusal import Refused

pytestmark = pytest.mark.network

ROUNDS = 3
STOPPED = 1  # the primary of view 0, and the one that hospital 1 asks first


async def await_record(net: Running, cls: type[Any], *key: str | int, closed: bool = False) -> None:
    """Wait until the record is there, or until the task is no longer open."""
    async with net.client(2, 3, 4) as client:

        async def look() -> None:
            found = await client.record(cls, *key)
            if found is None or (closed and found.phase is TaskPhase.OPEN):
                raise Refused("test.waiting", f"expected {cls.__name__} {key}")

        await patiently(look)


async def rounds(net: Running) -> list[Round]:
    """The task's rounds, proven."""
    async with net.client() as client:
        found = [await client.record(Round, TASK, number) for number in range(1, ROUNDS + 1)]
    return [rnd for rnd in found if rnd is not None]


@pytest.mark.timeout(180)
def test_rounds_close_while_a_validator_is_stopped(tmp_path: Path) -> None:
    """Every update counts in every round, and the stopped validator catches up afterwards."""
    net = Running(tmp_path / "net", tasks=[TASK])
    try:
        net.start_all()
        write_rows(net)
        register_datasets(net, tmp_path)
        open_task(net, tmp_path, ROUNDS)
        for number in range(1, len(HOSPITALS) + 1):
            home = net.home(number, "peer")
            net.spawn(home, [*CONCILIUM, "peer", "run", str(home)])
        asyncio.run(await_record(net, Update, TASK, 1, HOSPITALS[1]))

        net.send(net.home(STOPPED), signal.SIGSTOP)
        asyncio.run(await_record(net, Task, TASK, closed=True))
        net.send(net.home(STOPPED), signal.SIGCONT)

        states = {header.state for header in net.headers()}  # once all have caught up
        found = asyncio.run(rounds(net))
        assert [rnd.model_version for rnd in found] == list(range(1, ROUNDS + 1))
        statuses = {outcome.status for rnd in found for outcome in rnd.outcomes}
        assert statuses == {UpdateStatus.ACCEPTED}
        assert len(states) == 1
    finally:
        net.close()

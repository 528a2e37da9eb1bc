"""A training peer that is killed in the middle of training goes on; another sits a round out."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from fl.dataset import leaves
from fl.model import initial, prepare
from fl.sampling import split
from fl.trace import Origin
from fl.train import Job, train
from fl.weights import pack_update
from node.demo.processes import CONCILIUM
from node.home.config import CONFIG_FILE
from node.home.keyfile import read_secret
from node.home.testnet import ROWS_SECRET
from node.peer.site import load_data
from node.wire.cid import address
from tests.fl.terms import sgd
from tests.network.running import HOSPITALS, Running, concilium, patiently, until
from tests.network.synthetic import (
    GRID_BITS,
    PREPROCESSING,
    SPEC,
    TASK,
    open_task,
    register_datasets,
    write_rows,
)
from vm.learning import Decline, Round, SiteApproval, Task, Update
from vm.refusal import Refused
from vm.terms import MICRO

pytestmark = pytest.mark.network

STEWARD = 1
KILLED = 1
DECLINING = 2
SEGMENTS = 200
TRAINING = sgd(MICRO // 20, 0, 0, steps=8_000, batch_rows=16, snapshot_steps=40)  # seconds
DONE_BEFORE = 10  # segments on disk when the blow comes


def record(net: Running, cls: type[Any], *key: str | int) -> Any:
    """A proven record, once it is there."""

    async def ask() -> Any:
        async with net.client() as client:

            async def look() -> Any:
                found = await client.record(cls, *key)
                if found is None:
                    raise Refused("test.waiting", f"expected {cls.__name__} {key}")
                return found

            return await patiently(look)

    return asyncio.run(ask())


def uninterrupted(net: Running) -> str:
    """The address of the update that the hospital's rows give, trained here in one go."""
    home, hospital = net.home(KILLED, "peer"), HOSPITALS[KILLED - 1]
    secret = read_secret(home / ROWS_SECRET)
    table = load_data(home / "rows.csv", PREPROCESSING, secret).table
    rows = prepare(SPEC, PREPROCESSING, table, leaves(table, secret))
    part = rows.take(split(secret, table.labels).train)
    job = Job(SPEC, GRID_BITS, TRAINING, record(net, Round, TASK, 1).beacon, f"{hospital}.dataset")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the peer has; two that wait for each other are slower
    try:
        result = train(job, initial(SPEC, GRID_BITS, seed=1), part)
    finally:
        torch.set_num_threads(threads)
    origin = Origin(TASK, 1, f"{hospital}.trainer", f"{hospital}.dataset")
    return address(pack_update(SPEC, GRID_BITS, origin, result.delta, result.segments))


@pytest.mark.timeout(180)
def test_a_killed_peer_resumes_from_its_newest_snapshot(tmp_path: Path) -> None:
    """With kill -9 in the middle of a round; its update is that of an uninterrupted training.

    A person has approved the task there, and takes that back in the end. Meanwhile another site
    declines the round by command, with a code and a reason; the steward then closes the task.
    """
    net = Running(tmp_path / "net", tasks=[TASK])
    home = net.home(KILLED, "peer")
    trace = home / "store" / "traces" / TASK / "1"
    command = [*CONCILIUM, "peer", "run", str(home), "--format", "json"]
    config = home / CONFIG_FILE
    config.write_text(config.read_text().replace('approve = "list"', 'approve = "ask"'))
    declining = ("peer", "decline", net.home(DECLINING, "peer"), TASK, "--format", "json")
    try:
        net.start_all()
        write_rows(net)
        register_datasets(net, tmp_path)
        open_task(net, tmp_path, 1, training=TRAINING)

        reason = ("--reason", "The machine is moved today")
        declined = concilium(*declining, "--code", "site.maintenance", *reason).data
        wrong = concilium(*declining, "--code", "no code", *reason)
        approved = concilium("peer", "approve", home, TASK, "--yes", "--format", "json").data
        net.spawn(home, command)
        until((trace / f"snapshot-{DONE_BEFORE}").exists, "segments on disk")
        assert net.signal(home, signal.SIGKILL) == -signal.SIGKILL
        done = max(int(path.name.removeprefix("snapshot-")) for path in trace.glob("snapshot-*"))
        assert "round.trained" not in net.log(KILLED, "peer")
        net.spawn(home, command)
        update = record(net, Update, TASK, 1, HOSPITALS[KILLED - 1])
        net.signal(home, signal.SIGTERM)
        standing = record(net, SiteApproval, TASK, HOSPITALS[KILLED - 1])
        withdrawn = concilium("peer", "withdraw", home, TASK, "--format", "json").data
        closed = concilium(
            *("task", "close", net.home(STEWARD, "steward"), TASK, "--format", "json"),
            *("--reason", "The machine is needed"),
        )

        lines = [json.loads(line) for line in net.log(KILLED, "peer").splitlines()]
        (resumed,) = [line for line in lines if line["event"] == "round.resumed"]
        assert DONE_BEFORE <= resumed["segment"] <= done < SEGMENTS == resumed["segments"]
        assert update.blob == uninterrupted(net)
        assert (declined["round"], declined["code"]) == (1, "site.maintenance")
        assert record(net, Decline, TASK, 1, HOSPITALS[DECLINING - 1]).reason == reason[1]
        assert wrong.error[0] == "document.bounds"
        assert (standing.stands, standing.terms.hex()) == (True, approved["digest"])
        assert (withdrawn["withdrawn"], withdrawn["withdrawn_on_chain"]) == (True, True)
        assert not record(net, SiteApproval, TASK, HOSPITALS[KILLED - 1]).stands
        assert closed.code == 0, closed
        assert record(net, Task, TASK).closing == "The machine is needed"
    finally:
        net.close()

"""The bench's figures, from counts made up by hand, and its bare loops on real patients."""

import asyncio
import json
import socket
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bench.bare import RULES, rounds_s, rules_ms, updates_of
from tests.bench.figures import Count, Event, Learning, document, markdown, summarize
from tests.bench.loop import Plan
from tests.bench.others import Flower, byzfl_ms, flower
from tests.bench.peer import Meter
from tests.lab.data import hospitals, source

KINDS = ("learning.proof", "learning.seal", "learning.verdict")
ROUND_S = 4.0
OPENED_S = [0.0, 10.0, 14.0, 18.0]  # the first round takes longer, for peers start in it


def count(late_s: float) -> Count:
    """A peer that hands in one second after the other, `late_s` late, 500 bytes for each round."""
    events = tuple(
        Event(
            kind,
            number,
            OPENED_S[number - 1] + place + late_s,
            OPENED_S[number - 1] + place + late_s + 0.5,
            sent=9_000 + 300 * number,
            received=7_000 + 200 * number,
            blob=100 if place == 0 else 0,
        )
        for number in (1, 2, 3)
        for place, kind in enumerate(KINDS)
    )
    return Count(events, train_s=2.0, verify_s=1.0, process_s=9.0)


@pytest.fixture
def sockets() -> Iterator[None]:
    """Sockets are as they were, afterwards."""
    names = ("recv", "recv_into", "send")
    yield
    for name in names:
        if name in vars(socket.socket):
            delattr(socket.socket, name)


def test_a_network_is_judged_by_its_last_peer_and_without_its_first_round() -> None:
    """Medians over rounds 2 and 3; bytes go from the first proof to the last one."""
    found = summarize(OPENED_S, [count(0.0), count(0.25)])

    assert found.round_s == ROUND_S
    assert found.phases_s == {"proof": (0.25, 0.75), "seal": (1.25, 1.75), "reveal": (2.25, 2.75)}
    assert (found.sent, found.received, found.update) == (300, 200, 100)
    assert found.traffic_ratio == 2.5
    assert found.verification_ratio == 0.5


def test_the_tables_say_rounds_cores_and_ratios() -> None:
    """Markdown and JSON hold the same figures."""
    network = summarize(OPENED_S, [count(0.0)])
    slow = replace(network, round_s=2 * ROUND_S)
    rules, theirs = {"median": 12.0, "krum": 9.0}, {"median": 3.0}
    flower = Flower(20.0, 1.0)
    found = Learning(3, 2, 0.1, 37, 10, 0.5, 0.4, network, slow, 1_000, rules, theirs, flower)

    text, data = markdown(found), json.loads(json.dumps(document(found)))

    assert "3 rounds" in text
    assert "2 cores" in text
    assert "| four validators, without replay | 4.000 | 8.0 | 3.500 | 500 | 2.50 | 0.50 |" in text
    assert "| median | 12 | 3 |" in text
    assert "| krum | 9 | not installed |" in text
    assert "| Flower simulation, its first round after 20 s | 1.000 | 2.0 | 0.500 |" in text
    assert data["ratios"]["flower"] == {"round_over_bare": 2.0, "overhead_s": 0.5}
    assert data["ratios"]["replayed"]["round_over_bare"] == 16
    assert "| four validators, with replay | 8.000 |" in text
    alone = replace(found, replayed=None)
    assert "with replay" not in markdown(alone)
    assert document(alone)["ratios"].keys() == {"plain", "flower"}
    assert data["ratios"]["plain"]["overhead_s"] == ROUND_S - 0.5


def test_a_peer_s_count_survives_its_file(tmp_path: Path) -> None:
    """What a peer writes is what the bench reads."""
    meter, path = Meter(), tmp_path / "count.json"
    meter.events.append(count(0.0).events[0])
    assert meter.timed("verify", sum)([1, 2]) == 3

    meter.write(path)

    found = Count.of(json.loads(path.read_text()))
    assert asdict(found.events[0]) == asdict(count(0.0).events[0])
    assert found.process_s > 0


@pytest.mark.usefixtures("sockets")
def test_bytes_of_streams_are_counted_both_ways() -> None:
    """What asyncio's transports send and receive, which all clients here are made of."""
    meter = Meter()
    meter.count_sockets()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1_000))
        writer.close()

    async def talk() -> bytes:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(bytes(1_000))
            found = await reader.readexactly(1_000)
            writer.close()
            await writer.wait_closed()
            return found

    assert asyncio.run(talk()) == bytes(1_000)

    assert meter.bytes == {"sent": 2_000, "received": 2_000}  # both ends live here


def test_bare_loops_and_rules_run() -> None:
    """A time for each round in either width, and one for each rule."""
    data = source("opt")
    sites = hospitals(data, 4, iid=False, seed=1)

    for dtype in (torch.float64, torch.float32):
        assert all(taken > 0 for taken in rounds_s(data, sites, 2, dtype))
    updates = updates_of(1_000, 1)
    assert rules_ms(updates).keys() == RULES.keys()
    assert byzfl_ms(updates).keys() in (RULES.keys(), set())  # byzfl may be missing


def test_flower_is_run_by_its_own_interpreter(tmp_path: Path) -> None:
    """It gets each site's rows, the task's plan and the model's widths, and tells its times."""
    data = source("opt")
    sites = hospitals(data, 4, iid=False, seed=1)
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        'test "$1 $2" = "-m tests.bench.flower" || exit 1\n'
        f"cp $3 $4 {tmp_path}\n"
        'echo \'{"start_s": 7.0, "rounds_s": [2.0, 1.0, 3.0]}\' > $5\n'
    )
    python.chmod(0o700)
    (tmp_path / "work").mkdir()

    found = flower(python, data, sites, 4, tmp_path / "work")

    assert found == Flower(start_s=7.0, round_s=2.0)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (plan["widths"], plan["rounds"], plan["sites"]) == ([36], 4, 4)
    assert Plan(**plan["plan"]).steps == data.training.steps
    with np.load(tmp_path / "sites.npz") as arrays:
        assert arrays["inputs_3"].shape == tuple(sites[3].train.inputs.shape)
        assert len(arrays["labels_0"]) == len(sites[0].train.labels)


def test_what_flower_says_when_it_fails_is_told(tmp_path: Path) -> None:
    """An environment without it is a mistake to be seen."""
    data = source("opt")
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no flwr here >&2\nexit 1\n")
    python.chmod(0o700)

    with pytest.raises(AssertionError, match="no flwr here"):
        flower(python, data, hospitals(data, 4, iid=False, seed=1), 2, tmp_path)

"""What reads take counts as requests: nobody has the node's processor for the asking."""

import itertools
from pathlib import Path

import aiohttp
import pytest

from node.api import events
from node.readers import desk
from tests.node.network import HOSPITALS, learn
from tests.node.readers.reading import AUDITOR, TRAINER, private_network, run, signed
from tests.node.serving import Node, get


@pytest.mark.parametrize("member", [TRAINER, None])
def test_what_a_read_takes_counts_as_so_many_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str | None
) -> None:
    """The attack: within the pace, each read one that takes the interpreter for a second."""
    monkeypatch.setattr(desk, "BURST_S", 0.05)  # fifty of a thousand a second
    now, ticks = [1_700_000_000.0], itertools.count()

    async def check(url: str, node: Node) -> None:
        path = f"{url}/v1/members"

        async def status() -> int:
            headers = signed(path, member, at_s=now[0]) if member else None
            return (await get(path, headers=headers)).status

        assert [await status(), await status()] == [200, 429]
        other = signed(path, AUDITOR, at_s=now[0])
        assert (await get(path, headers=other)).status == 200
        now[0] += 0.1
        assert await status() == 429
        now[0] += 0.1
        assert await status() == 200

    with private_network(tmp_path, public=True) as network:
        run(network, check, now_s=lambda: now[0], cpu_s=lambda: float(next(ticks)))


def test_event_streams_wait_for_what_they_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: eight requests, each a stream from the first block on, and no more of them."""
    monkeypatch.setattr(desk, "BURST_S", 0.05)  # fifty of a thousand a second
    now, ticks = [1_700_000_000.0], itertools.count()
    paused: list[float] = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(events, "_pause", pause)
    monkeypatch.setattr(events, "NEWEST", 0)

    async def check(url: str, node: Node) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/events?since=0") as response,
        ):
            ids = []
            async for line in response.content:
                if line.startswith(b"id: "):
                    ids.append(int(line[4:]))
                    if len(ids) == network.chain.head.height:
                        return

    with private_network(tmp_path, public=True) as network:
        for _ in range(4):
            network.block()
        run(network, check, now_s=lambda: now[0], cpu_s=lambda: float(next(ticks)))

    # of 200 requests each, the first of whether its block is kept and one before each later event
    assert sum(paused) == pytest.approx(0.2 * network.chain.head.height - 0.05, abs=0.01)


def test_an_answer_is_not_refused_for_what_its_own_read_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits as told gets it: before, the work was done and 429 was told, for ever."""
    monkeypatch.setattr(desk, "BURST_S", 0.001)  # one of a thousand a second
    now, ticks = [1_700_000_000.0], itertools.count()

    async def check(url: str, node: Node) -> None:
        path = f"{url}/v1/tasks/preterm-1/rounds/1/updates/{HOSPITALS[0]}/verdicts"
        for _ in range(3):
            got = await get(path, headers=signed(path, TRAINER, at_s=now[0]))
            assert (got.status, len(got.body["items"])) == (200, 3)
            refused = await get(path, headers=signed(path, TRAINER, at_s=now[0]))
            assert refused.status == 429
            now[0] += float(refused.headers["Retry-After"])

    with private_network(tmp_path) as network:
        learn(network, 1)
        run(network, check, now_s=lambda: now[0], cpu_s=lambda: float(next(ticks)))

"""Watching: a line for each change, metrics that say the same, and an end at a fork."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from node.light.metrics import Metrics, build_app
from node.light.store import CONFLICTS, Store
from node.light.watch import Line, watch
from tests.node.light.liar import Server, following, forked, honest, lagging
from tests.node.network import HOSPITALS, Network, grow, open_network, register_dataset
from tests.node.serving import get, serve_app
from vm.refusal import Refused


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain of some blocks."""
    with open_network(tmp_path / "a") as made:
        made.block(register_dataset(made, HOSPITALS[0]))
        made.block()
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "followed")


async def _dead(_: web.Request) -> web.Response:
    return web.Response(status=500)


def broken() -> web.Application:
    """A node that answers nothing that can be read."""
    app = web.Application()
    app.router.add_get("/{any:.*}", _dead)
    return app


class WatchedError(Exception):
    """As many rounds as a test wants are over."""


def watched(
    network: Network,
    store: Store,
    *servers: Server,
    between: Callable[[int], None] = lambda number: None,
    rounds: int = 2,
    keep_going: bool = False,
) -> tuple[list[Line], Metrics]:
    """What a watch of so many rounds says; `between` is called with the number of each."""
    lines: list[Line] = []
    metrics = Metrics()
    done = 0

    async def pause(_: float) -> None:
        nonlocal done
        done += 1
        if done == rounds:
            raise WatchedError
        between(done)

    async def main() -> None:
        async with following(network, *servers) as follower:
            await watch(
                follower,
                store,
                metrics,
                lines.append,
                every_s=7,
                keep_going=keep_going,
                pause=pause,
            )

    with pytest.raises(WatchedError):
        asyncio.run(main())
    return lines, metrics


def told(lines: list[Line]) -> list[str]:
    """What has changed, by name."""
    return [line.data["change"] for line in lines]


def value(metrics: Metrics, name: str) -> float:
    """A sample, by its name and labels as they are written."""
    for line in metrics.text().decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"expected {name}, found:\n{metrics.text().decode()}")


def test_the_first_round_tells_how_all_is(network: Network, store: Store) -> None:
    """Each node, who rules, and how high the chain is; and it is kept."""
    lines, metrics = watched(network, store, honest(network), rounds=1)

    assert told(lines) == ["node", "epoch", "checkpoint"]
    assert lines[0].data["state"] == "agrees"
    assert lines[1].data["validators"][0] == "hospital-1.validator"
    assert lines[2].data["height"] == 2
    assert lines[2].text.startswith("height 2, ")
    assert value(metrics, "concilium_followed_height") == 2
    assert store.load(network.genesis, None) is not None


def test_nothing_is_told_of_what_stays_as_it_was(network: Network, store: Store) -> None:
    """A quiet chain makes a quiet watch."""
    lines, metrics = watched(network, store, honest(network), rounds=3)

    assert len(lines) == 3
    assert value(metrics, "concilium_watch_rounds_total") == 3


def test_a_change_of_validators_is_told_as_it_comes(network: Network, store: Store) -> None:
    """With the block that it came with."""
    lines, metrics = watched(network, store, honest(network), between=lambda _: grow(network))

    assert told(lines)[3:] == ["epoch", "checkpoint"]
    assert len(lines[3].data["validators"]) == 5
    assert value(metrics, "concilium_followed_epoch") == 1


def test_each_node_has_its_state(network: Network, store: Store) -> None:
    """Compared with the others, and not by its own word."""
    lines, metrics = watched(network, store, honest(network), lagging(network), broken, rounds=1)

    states = [line.data["state"] for line in lines if line.data["change"] == "node"]
    assert states == ["agrees", "agrees", "refused"]
    assert lines[2].data["code"] == "http.answer"
    text = metrics.text().decode()
    assert (
        sum('state="agrees"' in line and line.endswith(" 1.0") for line in text.splitlines()) == 2
    )


def test_a_fork_ends_a_watch_with_evidence(network: Network, store: Store, tmp_path: Path) -> None:
    """Whoever is paged reads where the file is, and what to do."""
    with forked(tmp_path / "b", 3) as other:

        async def main() -> None:
            async with following(network, honest(network), honest(other)) as follower:
                await watch(
                    follower, store, Metrics(), lambda line: None, every_s=7, keep_going=False
                )

        with pytest.raises(Refused) as caught:
            asyncio.run(main())

    assert caught.value.code == "audit.conflict"
    files = sorted(path.name for path in (store.folder / CONFLICTS).iterdir())
    assert len(files) == 4
    assert str(store.folder / CONFLICTS / files[-1]) in caught.value.message
    assert sum("fault" in name for name in files) == 3


def test_the_conflict_is_kept_before_what_is_made_of_it(
    network: Network, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is room for one file more, it is the one that the others can be made of."""
    monkeypatch.setattr("node.light.store.APART_MAX", 1)  # for nothing is held yet
    with forked(tmp_path / "b", 3) as other:
        lines, _ = watched(network, store, honest(network), honest(other), keep_going=True)

    (kept,) = (store.folder / CONFLICTS).iterdir()
    assert "fault" not in kept.name
    assert str(kept) in lines[-1].text


def test_a_watch_that_keeps_going_tells_of_a_fork_once(
    network: Network, store: Store, tmp_path: Path
) -> None:
    """And counts it once."""
    with forked(tmp_path / "b", 3) as other:
        lines, metrics = watched(
            network, store, honest(network), honest(other), rounds=3, keep_going=True
        )

    assert told(lines) == ["node", "node", "conflict"]
    assert value(metrics, "concilium_conflicts_total") == 1
    assert store.load(network.genesis, None) is None


def test_metrics_are_served_as_prometheus_reads_them(network: Network, store: Store) -> None:
    """Over HTTP, and nothing else is there."""
    _, metrics = watched(network, store, honest(network), rounds=1)

    async def main() -> None:
        async with serve_app(build_app(metrics)) as url:
            got = await get(f"{url}/metrics")
            assert got.status == 200
            assert got.headers["Content-Type"].startswith("text/plain; version=")
            assert b"concilium_followed_height 2.0" in got.body
            assert (await get(f"{url}/")).status == 404

    asyncio.run(main())

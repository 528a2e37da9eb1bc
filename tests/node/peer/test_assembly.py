"""A training peer put together from its home: what it cannot use, it says before it starts."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

import fl
from node.home.config import Loop, PeerConfig, load
from node.home.testnet import Layout, write_testnet
from node.peer import assembly as module
from node.peer.assembly import run_peer
from node.peer.attendance import Find
from vm.refusal import Refused

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A network of four hospitals, none of whose nodes runs."""
    return write_testnet(tmp_path_factory.mktemp("a") / "net", now=NOW, tasks=("task-1",))


def peer(net: Layout, folder: Path) -> PeerConfig:
    """A copy of the first hospital's peer home, to be damaged."""
    home = folder / "peer"
    shutil.copytree(net.home(net.hospitals[0], "peer"), home)
    return load(PeerConfig, home, {})


def code_of(config: PeerConfig) -> str:
    """The code with which a peer does not start."""
    with pytest.raises(Refused) as refused:
        asyncio.run(asyncio.wait_for(run_peer(config), 30))
    return refused.value.code


def test_a_peer_without_its_files_says_which(net: Layout, tmp_path: Path) -> None:
    """Each file that it needs, missing by turns."""
    config = peer(net, tmp_path)
    codes = {}
    for name, path in (
        ("genesis", config.chain.genesis),
        ("secret", config.training.secret),
        ("trainer", config.trainer.key),
        ("verifier", config.verifier.key),
        ("certificate", config.verifier.tls_certificate),
    ):
        aside = path.rename(tmp_path / name)
        codes[name] = code_of(config)
        aside.rename(path)

    assert codes["genesis"] == "genesis.unreadable"
    assert {codes[name].split(".")[0] for name in ("secret", "trainer", "verifier")} == {"key"}
    assert codes["certificate"].startswith("tls.")


def test_a_peer_attends_to_the_tasks_of_its_configuration_until_it_is_stopped(
    net: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer and verifier both, while no validator can be reached; stopping is no failure.

    What a crash left of others' updates is gone as soon as they start.
    """
    config = peer(net, tmp_path)
    left = config.store.folder / "blobs" / config.verifier.id / "whole" / "left"
    left.mkdir(parents=True)
    attended: list[tuple[str, ...]] = []

    async def scenario() -> bool:
        both = asyncio.Event()

        async def attend_all(
            works: Sequence[object], listed: Iterable[str], find: Find, board: object
        ) -> None:
            assert len(works) == 4
            attended.append(tuple(listed))
            with pytest.raises(Refused, match=r"client\.unreachable"):
                await find()
            both.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(module, "attend_all", attend_all)
        task = asyncio.create_task(run_peer(config))
        await asyncio.wait_for(both.wait(), 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return task.cancelled()

    assert asyncio.run(scenario())
    assert attended == [("task-1",)]
    assert not left.exists()


def test_a_site_s_own_loop_joins_the_peer_that_lists_its_task(net: Layout, tmp_path: Path) -> None:
    """The socket is there while the peer runs; without such tasks there is none."""
    folder = Path(tempfile.mkdtemp(prefix="loop-"))  # sockets need a short path
    path = folder / "s"
    config = peer(net, tmp_path)
    listed = config.model_copy(update={"loop": Loop(socket=path, tasks=("task-1",))})

    async def scenario(config: PeerConfig, appears: bool) -> str:
        running = asyncio.create_task(run_peer(config))
        try:
            while appears and not path.exists():
                assert not running.done()
                await asyncio.sleep(0)
            return await asyncio.to_thread(joined, path)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def joined(path: Path) -> str:
        with pytest.raises(Refused) as refused:
            fl.join("task-2", str(path))
        return refused.value.code

    assert asyncio.run(asyncio.wait_for(scenario(listed, True), 30)) == "loop.task"
    assert not path.exists()
    assert asyncio.run(asyncio.wait_for(scenario(config, False), 30)) == "loop.unreachable"
    shutil.rmtree(folder)

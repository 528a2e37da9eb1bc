"""Evidence of forks: those by retired keys, which cost nothing, never hide one of who rules."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.api.resource import EPOCHS_PATH
from node.client.client import NEWEST_PATH
from node.light import store as kept
from node.light.follow import Follower
from node.light.store import APART, CONFLICTS, Store
from node.light.watch import follow_once
from tests.node.client.asking import encoded
from tests.node.light.liar import (
    IDS,
    answering,
    certified,
    following,
    held_at,
    honest,
    rotated,
    signed,
    top,
)
from tests.node.network import Network
from vm.inclusion import CertifiedHeader

NEW_KEYS = ("new key of 1", "new key of 2", "new key of 3")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A chain whose first validators have other keys by now; nothing here writes to it."""
    folder: Path = tmp_path_factory.mktemp("network")
    with rotated(folder) as made:
        yield made


class Forger:
    """Shows what `newest` is, and is honest where that is None."""

    def __init__(self, network: Network) -> None:
        self.newest: CertifiedHeader | None = None
        self._top = top(network).header
        self._retired = certified(network, 1).header.validators

    def by_retired(self, number: int) -> None:
        """Show one of many headers of the newest height by the keys of genesis."""
        header = replace(
            self._top,
            state=number.to_bytes(32, "big"),
            validators=self._retired,
            next_validators=self._retired,
        )
        self.newest = CertifiedHeader(header, signed(header, IDS[:3]), None)

    def by_ruling(self) -> None:
        """Show another header of the newest height by the keys that rule."""
        header = replace(self._top, state=b"\xaa" * 32)
        self.newest = CertifiedHeader(header, signed(header, IDS[:3], NEW_KEYS), None)

    def answer(self, path: str, _: Any) -> Any:
        """Its newest checkpoint; the steps to it from genesis are none."""
        if self.newest is None:
            return None
        if path.startswith(NEWEST_PATH):
            return {"items": [{"proof": encoded(self.newest)}], "next": None}
        return {"items": [], "next": None} if path.startswith(EPOCHS_PATH) else None


async def told(follower: Follower, store: Store) -> int:
    """How many forks a round tells of."""
    _, lines = await follow_once(follower, store)
    return len(lines)


def names(store: Store, apart: bool) -> list[str]:
    """Files of evidence, of the histories of forks."""
    found = [path.name for path in (store.folder / CONFLICTS).iterdir() if "fault" not in path.name]
    return [name for name in found if name.startswith(APART) is apart]


def test_retired_keys_do_not_fill_the_room_of_a_true_fork(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: a forged header every other round until there is no room, then the true fork."""
    monkeypatch.setattr(kept, "CONFLICTS_MAX", 8)
    monkeypatch.setattr(kept, "APART_MAX", 2)
    store, forger = Store(tmp_path / "followed"), Forger(network)
    held = held_at(network, network.chain.head.height)

    async def main() -> int:
        servers = (honest(network), answering(network, forger.answer))
        async with following(network, *servers, held=held) as follower:
            for number in range(10):
                forger.by_retired(number)
                assert await told(follower, store) == 1
                forger.newest = None
                assert await told(follower, store) == 0
            forger.by_ruling()
            return await told(follower, store)

    assert asyncio.run(main()) == 1
    assert len(names(store, apart=True)) == 2
    assert len(names(store, apart=False)) == 1


def test_a_node_on_a_retired_fork_is_told_of_again_with_the_true_one(
    network: Network, tmp_path: Path
) -> None:
    """The attack: a fork that nobody minds first, so that the node's next one is no news."""
    store, forger = Store(tmp_path / "followed"), Forger(network)
    held = held_at(network, network.chain.head.height)

    async def main() -> list[int]:
        servers = (honest(network), answering(network, forger.answer))
        async with following(network, *servers, held=held) as follower:
            forger.by_retired(1)
            found = [await told(follower, store), await told(follower, store)]
            forger.by_ruling()
            return [*found, await told(follower, store), await told(follower, store)]

    assert asyncio.run(main()) == [1, 0, 1, 0]
    assert len(names(store, apart=False)) == 1


def test_whoever_holds_nothing_cannot_say_who_rules(network: Network, tmp_path: Path) -> None:
    """Evidence of a first sync has its own room."""
    store, forger = Store(tmp_path / "followed"), Forger(network)
    forger.by_retired(1)

    async def main() -> int:
        servers = (honest(network), answering(network, forger.answer))
        async with following(network, *servers) as follower:
            return await told(follower, store)

    assert asyncio.run(main()) == 1
    assert len(names(store, apart=True)) == 1
    assert names(store, apart=False) == []

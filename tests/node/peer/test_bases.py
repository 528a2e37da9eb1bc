"""The cache of base models: bounded however many rounds a peer sees."""

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from node.peer.bases import Bases
from node.wire.exchange import Exchange
from tests.fl.dialogue import MODEL, address
from tests.node.peer.looks import opened
from vm.record import Model

SIZE = 100


@dataclass
class Shelf:
    """Gives every blob, and remembers what it keeps on disk."""

    kept: set[str] = field(default_factory=set)

    async def fetch(self, address: str, size: int) -> bytes:
        """Any blob."""
        self.kept.add(address)
        return bytes(size)

    async def forget(self, address: str) -> None:
        """Delete it."""
        self.kept.remove(address)


def test_the_bases_used_last_stay_and_the_others_go(tmp_path: Path) -> None:
    """Ten versions of a model in a cache of three; one that is used again is not the oldest."""
    first = opened(tmp_path).chain.get(Model, MODEL, 0)
    models = [replace(first, weights=address(f"{n}"), weights_bytes=SIZE) for n in range(10)]
    shelf = Shelf()
    bases = Bases(cast(Exchange, shelf), 3 * SIZE)

    async def scenario() -> None:
        for model in models:
            await bases.fetch(model)
            await bases.fetch(models[0])

    asyncio.run(scenario())

    assert shelf.kept == {models[n].weights for n in (0, 8, 9)}


def test_a_base_larger_than_the_cache_is_kept_alone(tmp_path: Path) -> None:
    """It is needed; whatever was there before is not."""
    first = opened(tmp_path).chain.get(Model, MODEL, 0)
    small = replace(first, weights=address("small"), weights_bytes=SIZE)
    large = replace(first, weights=address("large"), weights_bytes=SIZE * 5)
    shelf = Shelf()
    bases = Bases(cast(Exchange, shelf), 3 * SIZE)

    async def scenario() -> None:
        await bases.fetch(small)
        await bases.fetch(large)

    asyncio.run(scenario())

    assert shelf.kept == {large.weights}

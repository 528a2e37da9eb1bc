"""State sync of a node that has a chain: whoever holds old keys leads it onto no other one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from node.validator import sync as module
from node.validator.prune import Pruner
from node.validator.serve import Source
from node.validator.snapshot import Steps
from node.validator.sync import run
from tests.node.network import Network, open_network, say, shrink
from tests.node.network import grow as change_seats
from tests.node.validator.test_prune import grow
from tests.node.validator.test_sync import (
    SNAPSHOT,
    WINDOW,
    Bend,
    assert_synced,
    do,
    honest,
    peers_of,
)
from tests.vm.council import admission, approve, propose, seating
from vm.refusal import Refused
from vm.shape import pack


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.01)


def extend(network: Network) -> None:
    """Blocks up to 30, of which the last 4 are kept, and a snapshot at 24."""
    grow(network, 30 - network.chain.head.height)
    pruner = Pruner(network.chain.store, SNAPSHOT, WINDOW)
    list(pruner.steps(pruner.target(4)))


def sync(mine: Network, served: Network, bend: Bend = honest) -> None:
    """Sync from three peers that serve that chain."""

    async def work() -> None:
        async with peers_of(served, bend, bend, bend) as peers:
            await run(mine.chain.store, mine.genesis, peers, WINDOW)

    do(work)


# A quorum of stolen keys


def schedule(network: Network) -> None:
    """A fifth seat is decided; its epoch has not begun."""
    say(network, [propose(1, "admit", admission(5)), propose(1, "seat", seating(5))])
    say(network, [approve(number, id) for number in (2, 3) for id in ("admit", "seat")])


def grow_otherwise(network: Network) -> None:
    """Another first block, and then the same ones."""
    network.block()
    grow(network, 16)


def grow_with_another_end(network: Network) -> None:
    """The head alone is another one."""
    grow(network, 21)
    network.block()


def stay(_: Network) -> None:
    """No epoch but the first."""


def change_seats_later(network: Network) -> None:
    """The epoch begins three heights above that of the true chain."""
    grow(network, 3)
    change_seats(network)


@pytest.mark.parametrize(
    ("before", "since", "code"),
    [
        (change_seats, stay, "audit.validators"),
        (change_seats, change_seats_later, "audit.validators"),
        (schedule, stay, "succession.short"),
        (schedule, change_seats_later, "succession.known"),
        (grow_otherwise, stay, "snapshot.past"),
        (grow_with_another_end, stay, "snapshot.past"),
    ],
)
def test_a_node_that_returns_is_led_to_no_other_chain(
    tmp_path: Path,
    before: Callable[[Network], None],
    since: Callable[[Network], None],
    code: str,
) -> None:
    """The attack: all keys of the first set, retired and stolen, sign another chain from genesis.

    The node knows the epoch that followed, begun or not, or headers of its own that are not in it.
    """
    with open_network(tmp_path / "returning") as mine, open_network(tmp_path / "false") as false:
        before(mine)
        since(false)
        extend(false)
        head = mine.chain.head

        with pytest.raises(Refused, match=r"sync\.peers") as refused:
            sync(mine, false)

        assert f"hospital-1.validator: {code}" in refused.value.message
        assert mine.chain.store.head() == head


@pytest.mark.parametrize("height", [17, 22])
def test_a_node_that_returns_goes_on_from_its_own_history(tmp_path: Path, height: int) -> None:
    """Its head is before the window of headers, or within it."""
    with open_network(tmp_path / "returning") as mine, open_network(tmp_path / "true") as served:
        grow(mine, height)
        extend(served)

        sync(mine, served)

        assert_synced(mine.chain.store, served)


@pytest.mark.parametrize("before", [change_seats, schedule])
def test_a_node_that_returns_follows_on_from_the_epochs_that_it_knows(
    tmp_path: Path, before: Callable[[Network], None]
) -> None:
    """It asks for the steps that it lacks alone, and can give all of them afterwards."""
    with open_network(tmp_path / "returning") as mine, open_network(tmp_path / "true") as served:
        before(mine)
        change_seats(served)
        shrink(served)
        extend(served)
        begun, asked = len(Source(mine.chain.store).steps(0).steps), list[str]()

        def noted(request: web.Request, body: bytes) -> bytes:
            asked.append(request.path)
            return body

        sync(mine, served, noted)

        given = Source(mine.chain.store, SNAPSHOT, WINDOW).steps(0)
        assert given == Source(served.chain.store, SNAPSHOT, WINDOW).steps(0)
        assert begun == (before is change_seats)
        assert f"/sync/epochs/{begun}" in asked
        assert ("/sync/epochs/0" in asked) == (begun == 0)


def test_a_peer_that_hides_a_step_that_we_wait_for_is_dropped(tmp_path: Path) -> None:
    """The epoch is known, so that its header verifies; but others could not be led there by us."""
    with open_network(tmp_path / "returning") as mine, open_network(tmp_path / "true") as served:
        schedule(mine)
        change_seats(served)
        extend(served)

        def hide(request: web.Request, body: bytes) -> bytes:
            return pack(Steps(())) if "/epochs/" in request.path else body

        with pytest.raises(Refused, match=r"sync\.peers.*succession\.short"):
            sync(mine, served, hide)

"""A node that shows less than is held or pinned: it puts nobody else in the wrong."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from node.audit.prove import prove_consistency
from node.commands.source import require_agreement
from node.light.follow import Round, State
from node.light.history import History, pin_of
from node.validator.store import Store
from tests.node.client.asking import encoded
from tests.node.light.liar import (
    Server,
    answering,
    certified,
    following,
    forked,
    held_at,
    honest,
    showing,
    top,
    under,
)
from tests.node.network import Network, open_network, register_dataset
from vm.refusal import Refused
from vm.trust import Pin

BASE = 10  # the height at which honest nodes have joined by state sync, in one test


def rounds(
    network: Network, *servers: Server, pin: Pin | None = None, held: History | None = None
) -> Round:
    """What one round over these nodes comes to."""

    async def main() -> Round:
        async with following(network, *servers, pin=pin, held=held) as follower:
            return await follower.round()

    return asyncio.run(main())


def states(found: Round) -> list[State]:
    """How each node stood."""
    return [seen.state for seen in found.seen]


def late(network: Network) -> Pin:
    """A pin under the newest set."""
    return pin_of(certified(network, network.chain.epochs[2].first).header)


def old(network: Network) -> Server:
    """A node that shows height 1 in the history of the newest checkpoint."""
    return showing(network, under(network, 1, network.chain.head.height))


def test_a_node_below_the_pin_does_not_stop_the_first_sync(network: Network) -> None:
    """The attack: no honest node can show a header of before the pin by what counts after it."""
    found = rounds(network, *[honest(network)] * 3, old(network), pin=late(network))

    assert states(found) == [*[State.AGREES] * 3, State.BEHIND]
    assert require_agreement(found).newest == top(network)


def test_nothing_below_the_pin_is_held(network: Network) -> None:
    """The attack: alone, or where others do not answer."""
    found = rounds(network, old(network), pin=late(network))

    assert states(found) == [State.BEHIND]
    assert found.held is None
    with pytest.raises(Refused, match="the pinned height or later, found 1") as caught:
        require_agreement(found)
    assert caught.value.code == "client.stale"


@pytest.mark.parametrize("pinned", [False, True])
def test_a_node_below_what_is_held_does_not_stop_the_others(network: Network, pinned: bool) -> None:
    """The attack: an old header, which no node has a certificate for that counts."""
    pin = late(network) if pinned else None
    held = rounds(network, honest(network), pin=pin).held

    found = rounds(network, *[honest(network)] * 3, old(network), pin=pin, held=held)

    assert states(found)[:3] == [State.AGREES] * 3
    assert states(found)[3] is (State.BEHIND if pinned else State.AGREES)
    assert require_agreement(found).newest == top(network)


@pytest.mark.parametrize("height", [0, 1])
def test_nodes_that_have_pruned_what_a_liar_shows_are_not_in_the_wrong(
    network: Network, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: what was before a state sync, as the newest."""
    monkeypatch.setattr(Store, "base", lambda _: BASE)
    held = held_at(network, network.chain.head.height - 1)
    shown = showing(network, under(network, height, network.chain.head.height))

    found = rounds(network, *[honest(network)] * 2, shown, held=held)

    assert states(found) == [State.AGREES, State.AGREES, State.BEHIND]
    assert require_agreement(found).newest == top(network)


def test_a_node_that_lies_about_one_behind_is_found_out(network: Network) -> None:
    """What it cannot show it need not; a proof that does not hold is false."""
    above = network.chain.head.height
    other = {"proof": encoded(prove_consistency(network.chain, 2, above))}

    def lie(path: str, _: Any) -> Any:
        return other if path.startswith("/v1/consistency?from=1&") else None

    held = held_at(network, above)
    found = rounds(network, answering(network, lie), honest(network), old(network), held=held)

    assert states(found) == [State.FALSE, State.AGREES, State.AGREES]
    assert found.seen[0].code == "audit.key"


def test_what_is_followed_from_a_pin_has_the_pin_in_its_history(tmp_path: Path) -> None:
    """The attack: the pinned header as it is, and the same validators' other history above it."""
    with open_network(tmp_path / "a") as one, forked(tmp_path / "b", 6) as two:
        one.block(register_dataset(one, "hospital-1"))
        one.block()
        pinned = certified(one, 2)
        shown = {"proof": encoded(pinned)}

        def lie(path: str, _: Any) -> Any:
            return shown if path == "/v1/checkpoints/2" else None

        found = rounds(one, answering(two, lie), pin=pin_of(pinned.header))

    assert states(found) == [State.FALSE]
    assert found.seen[0].code == "pin.header"
    assert found.held is None

"""Following at several nodes: what agrees is held, what does not is named, and forks are kept."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.light.follow import Round, State
from node.light.history import History, pin_of
from tests.node.light.liar import (
    Server,
    certified,
    following,
    forging,
    forked,
    honest,
    lagging,
    liar,
    rotated,
)
from tests.node.network import HOSPITALS, Network, grow, open_network, register_dataset, shrink
from vm.inclusion import CertifiedHeader
from vm.trust import Pin


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain that has grown to five seats and shrunk to four others."""
    with open_network(tmp_path) as made:
        grow(made)
        shrink(made)
        yield made


def rounds(
    network: Network,
    *servers: Server,
    pin: Pin | None = None,
    held: History | None = None,
) -> Round:
    """What one round over these nodes comes to."""

    async def main() -> Round:
        async with following(network, *servers, pin=pin, held=held) as follower:
            return await follower.round()

    return asyncio.run(main())


def states(found: Round) -> list[State]:
    """How each node stood."""
    return [seen.state for seen in found.seen]


def height(found: Round) -> int:
    """How high what is held is."""
    assert found.held is not None
    assert found.held.newest is not None
    return found.held.newest.header.height


def test_a_history_is_followed_from_genesis(network: Network) -> None:
    """Over every change of validators, to the newest checkpoint."""
    found = rounds(network, honest(network))

    assert states(found) == [State.AGREES]
    assert found.held is not None
    assert found.held.trust.epochs == network.chain.epochs
    assert height(found) == network.chain.head.height
    assert found.conflicts == ()


def test_a_history_is_followed_from_a_pin(network: Network) -> None:
    """The epochs before the pin are not needed."""
    header = network.chain.store.header(network.chain.epochs[1].first + 1)
    assert header is not None

    found = rounds(network, honest(network), pin=pin_of(header))

    assert states(found) == [State.AGREES]
    assert found.held is not None
    assert found.held.trust.epochs == network.chain.epochs[1:]
    assert height(found) == network.chain.head.height


def test_a_pin_at_the_newest_height_is_followed_at_once(network: Network) -> None:
    """There is nothing to go on from yet."""
    header = certified(network, network.chain.head.height).header

    found = rounds(network, honest(network), pin=pin_of(header))

    assert states(found) == [State.AGREES]
    assert height(found) == header.height


def test_a_pin_of_another_history_is_refused(network: Network) -> None:
    """Either the pin is wrong or the node shows another chain: nothing is held."""
    found = rounds(network, honest(network), pin=Pin(3, bytes(32)))

    assert states(found) == [State.FALSE]
    assert found.seen[0].code == "pin.header"
    assert found.held is None


def test_what_was_followed_is_gone_on_from(network: Network) -> None:
    """The node shows that the newest checkpoint has the held one in its history."""
    held = rounds(network, honest(network)).held
    network.block()
    network.block()

    found = rounds(network, honest(network), held=held)

    assert states(found) == [State.AGREES]
    assert height(found) == network.chain.head.height


def test_a_node_that_lags_is_in_the_history_of_the_others(network: Network, tmp_path: Path) -> None:
    """It agrees, at its own height."""
    found = rounds(network, honest(network), lagging(network))

    assert states(found) == [State.AGREES, State.AGREES]
    assert found.seen[1].certified == certified(network, network.chain.head.height - 1)


def test_nodes_that_show_less_than_was_followed_hide_something(network: Network) -> None:
    """Nobody is there who could show how the old checkpoint stands to what is held."""
    held = rounds(network, honest(network)).held

    found = rounds(network, lagging(network), held=held)

    assert states(found) == [State.BEHIND]
    assert found.held == held


def test_a_fork_of_two_nodes_is_kept_as_evidence_and_neither_is_held(tmp_path: Path) -> None:
    """Both histories are certified: whoever has neither yet must not choose."""
    with open_network(tmp_path / "a") as one, forked(tmp_path / "b", 5) as two:
        one.block(register_dataset(one, HOSPITALS[0]))
        one.block()

        found = rounds(one, honest(one), honest(two))

    assert states(found) == [State.CONFLICT, State.CONFLICT]
    assert found.held is None
    (conflict,) = found.conflicts
    assert conflict.height == 2
    assert conflict.signers() == tuple(f"{name}.validator" for name in HOSPITALS[:3])
    assert len(conflict.faults()) == 3


def test_a_leader_that_cannot_show_its_history_is_left(network: Network) -> None:
    """It is as high as it can prove; the next one leads."""
    silent = liar(network, "/v1/consistency", lambda body: {})
    before = certified(network, network.chain.head.height - 1)

    found = rounds(network, silent, lagging(network))

    assert states(found) == [State.REFUSED, State.AGREES]
    assert found.held is not None
    assert found.held.newest == before


def test_a_third_node_does_not_decide_between_two_histories(tmp_path: Path) -> None:
    """A majority of nodes is nobody's word: two of the three may be the forger's."""
    with open_network(tmp_path / "a") as one, forked(tmp_path / "b", 5) as two:
        one.block(register_dataset(one, HOSPITALS[0]))
        one.block()

        found = rounds(one, honest(one), honest(two), honest(one))

    assert states(found) == [State.CONFLICT] * 3
    assert found.held is None


def test_a_rewritten_history_is_a_fork_of_what_is_held(tmp_path: Path) -> None:
    """The attack: the only node that answers shows another history than it did before."""
    with open_network(tmp_path / "a") as one, forked(tmp_path / "b", 5) as two:
        one.block(register_dataset(one, HOSPITALS[0]))
        held = rounds(one, honest(one)).held

        found = rounds(one, honest(two), held=held)

    assert states(found) == [State.CONFLICT]
    assert found.held == held
    (conflict,) = found.conflicts
    assert conflict.height == 1


def test_keys_of_a_retired_set_forge_a_history_from_genesis_alone(tmp_path: Path) -> None:
    """What a pin is for: from genesis the forged history verifies, from a pin it does not."""
    with rotated(tmp_path / "a") as one, forked(tmp_path / "b", one.chain.head.height + 3) as two:
        pin = pin_of(certified(one, one.chain.head.height).header)

        fooled = rounds(one, honest(two))
        pinned = rounds(one, honest(two), pin=pin)
        beside = rounds(one, honest(two), honest(one), pin=pin)
        both = rounds(one, honest(two), honest(one))

    assert states(fooled) == [State.AGREES]  # nothing tells it from the chain's own
    assert states(pinned) == [State.FALSE]
    assert pinned.seen[0].code == "pin.header"
    assert states(beside) == [State.FALSE, State.AGREES]
    assert beside.held is not None
    assert states(both) == [State.CONFLICT, State.CONFLICT]


def test_a_forger_who_shows_the_pinned_header_still_lacks_its_validators(tmp_path: Path) -> None:
    """Everything public is at his hand; what goes on from the pin needs the keys of its epoch."""
    with rotated(tmp_path / "a") as one, forked(tmp_path / "b", one.chain.head.height + 3) as two:
        pin = pin_of(certified(one, one.chain.head.height).header)
        forged = certified(two, two.chain.head.height)

        def newest(body: Any) -> Any:
            return forging(CertifiedHeader, lambda _: forged)(body) if "items" in body else body

        found = rounds(one, liar(one, "/v1/checkpoints", newest), pin=pin)

    assert states(found) == [State.FALSE]
    assert found.seen[0].code == "audit.validators"


def test_what_was_followed_withstands_a_retired_set_too(tmp_path: Path) -> None:
    """A store is a pin: the forged history is told of with evidence, and nothing is lost."""
    with rotated(tmp_path / "a") as one, forked(tmp_path / "b", one.chain.head.height + 3) as two:
        held = rounds(one, honest(one)).held
        one.block()

        found = rounds(one, honest(two), honest(one), held=held)

    assert states(found) == [State.CONFLICT, State.AGREES]
    assert height(found) == one.chain.head.height
    assert len(found.conflicts) == 1

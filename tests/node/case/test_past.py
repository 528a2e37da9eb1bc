"""Case files of a height gone by, made by whoever has followed the chain since."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from node.case.archive import make_case, verify_case
from node.case.collect import collect
from node.case.contents import Auditor
from node.case.proofs import Checkpoint, Proofs
from node.case.story import tell
from node.client.client import Client
from node.client.proven import Proven
from node.light.history import History
from tests.harness import key_of
from tests.node.case.made import AUDITOR, parts_of, refusal, run_case
from tests.node.light.liar import certified, held_at, resigned
from tests.node.network import HOSPITALS, MODEL, Network, grow, open_network
from tests.node.serving import serve
from vm.trust import Trust

SEATS = tuple(f"{name}.validator" for name in HOSPITALS[:3])


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A chain on which others rule since the height of the case; nothing here writes to it."""
    folder: Path = tmp_path_factory.mktemp("grown")
    with open_network(folder) as made:
        run_case(made)
        made.block()
        grow(made)
        made.block()
        yield made


def followed(network: Network) -> History:
    """All of it."""
    return held_at(network, network.chain.head.height)


def told(network: Network) -> int:
    """A height at which the first validators ruled, after all that the case tells."""
    return network.chain.epochs[1].first - 4


def made(network: Network, checkpoint: Checkpoint | None = None) -> tuple[Trust, Proofs]:
    """The proofs of `told`, fetched by an auditor who has followed to the newest height."""
    history = followed(network)
    assert history.newest is not None
    proven = Proven(history.trust, history.steps, history.newest.header)

    async def main() -> Proofs:
        async with (
            serve(network) as (url, _),
            Client(network.genesis, [url], proven=proven) as client,
        ):
            return await collect(
                client, MODEL, auditor=AUDITOR, version=2, at=told(network), checkpoint=checkpoint
            )

    return proven.trust, asyncio.run(main())


def test_a_case_of_a_height_gone_by_stands_under_the_newest_checkpoint(grown: Network) -> None:
    """Those who ruled then have other keys by now, and so may have somebody else theirs."""
    trust, proofs = made(grown)

    found = proofs.checkpoint.certified
    assert found.header == certified(grown, told(grown)).header
    assert found.certificate.height == grown.chain.head.height

    key = key_of(AUDITOR)
    case, _ = tell(trust, proofs, Auditor(AUDITOR, key.public))
    file = make_case(followed(grown).reached, case, proofs, key)
    assert verify_case(followed(grown).reached, file).height == told(grown)
    assert "proofs/records-0001.json" in parts_of(file)


@pytest.mark.parametrize("change", [{"state": bytes(32)}, {"time_ms": 1}])
def test_a_checkpoint_that_old_validators_signed_since_is_not_taken(
    grown: Network, change: dict[str, object]
) -> None:
    """The attack: with their keys, another header of that height in a file for the auditor."""
    forged = resigned(certified(grown, told(grown)), *SEATS, **change)

    def fetch() -> object:
        return made(grown, Checkpoint(forged, (), None))

    assert refusal(fetch) == "case.checkpoint"


def test_a_true_checkpoint_that_old_validators_signed_is_compared_with_the_history(
    grown: Network,
) -> None:
    """Its certificate goes into the file: it verifies by genesis, not by what was followed."""
    true = certified(grown, told(grown))
    trust, proofs = made(grown, Checkpoint(true, (), None))
    key = key_of(AUDITOR)
    case, _ = tell(trust, proofs, Auditor(AUDITOR, key.public))

    file = make_case(replace(trust, epochs=trust.epochs[:1]), case, proofs, key)

    assert verify_case(replace(trust, epochs=trust.epochs[:1]), file).height == told(grown)
    check: Callable[[], object] = lambda: verify_case(followed(grown).reached, file)  # noqa: E731
    assert refusal(check) == "audit.before_pin"

"""What is permanent is proven under one recent root, however much a node has pruned."""

from collections.abc import Callable, Iterator

import pytest

from node.audit.check import audit_lineage
from node.audit.prove import (
    newest,
    prove_block,
    prove_consistency,
    prove_key,
    prove_lineage,
    prove_steps,
    prove_together,
    view_at,
)
from node.validator.prune import Pruner
from tests.node.network import (
    HOSPITALS,
    MODEL,
    TASK,
    Network,
    agree,
    grow,
    learn,
    open_network,
    say,
    shrink,
)
from tests.vm.council import propose, rotation
from vm.inclusion import read_record, verify_block, verify_consistency, verify_records
from vm.learning import Round, Update, Verdict
from vm.record import Dataset, Ending, MemberKeys, Standing
from vm.refusal import Refused
from vm.registry import SetStanding
from vm.shape import unpack
from vm.sparse import VALUE_BYTES_MAX
from vm.state import Record, state_key
from vm.trust import Pin, Trust, advance, from_genesis, from_pin

SITE = HOSPITALS[1]
WINDOW, SNAPSHOT, RETAIN = 4, 10, 6


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A model is trained; a key is rotated, a trainer revoked, seats change; then all is pruned."""
    with open_network(tmp_path_factory.mktemp("permanence")) as made:
        learn(made, 2)
        say(made, [propose(2, "rotate", rotation(2))])
        agree(made, ("rotate",), (1, 3))
        revoked = SetStanding(f"{SITE}.trainer", Standing.REVOKED)
        say(made, [(f"{SITE}.admin", "member.standing", revoked)])
        grow(made)
        shrink(made)
        for _ in range(3 * SNAPSHOT):
            made.block()
        pruner = Pruner(made.chain.store, SNAPSHOT, WINDOW)
        for _ in pruner.steps(pruner.target(RETAIN)):
            pass
        yield made


def followed(network: Network) -> Trust:
    """Trust from genesis, over every step that the pruned node still has."""
    trust = from_genesis(network.genesis)
    for step in prove_steps(network.chain, 0, 9):
        trust = advance(trust, step)
    return trust


def pinned(network: Network) -> Trust:
    """Trust from a pin of the newest header alone: no epoch before it is known."""
    view = newest(network.chain)
    certified = prove_key(network.chain, view, b"any").certified
    pin = Pin(view.height, certified.header.digest)
    return from_pin(network.chain.id, pin, certified, network.chain.epoch_at(view.height))


def test_the_past_is_pruned_here(pruned: Network) -> None:
    """Neither blocks nor states of the training are left, so the tests below prove something."""
    chain = pruned.chain
    for height in range(1, chain.store.kept().below):
        assert chain.store.block(height) is None
        if height not in chain.store.kept().snapshots:
            with pytest.raises(Refused, match=r"height\.pruned"):
                view_at(chain, height)
    assert chain.store.kept().below > 30


@pytest.mark.parametrize("trust_of", [followed, pinned])
def test_a_whole_lineage_is_proven_after_pruning(
    pruned: Network, trust_of: Callable[[Network], Trust]
) -> None:
    """Rounds, updates, verdicts, datasets, keys and epochs, from genesis and from a recent pin.

    The model was made under a set of validators that a late pin does not know: its epochs are
    records, too.
    """
    trust, chain = trust_of(pruned), pruned.chain
    proof = prove_lineage(chain, newest(chain), MODEL, 2)

    found = audit_lineage(trust.chain, trust.epochs, proof, MODEL, 2)

    assert proof.certified.header.height == chain.head.height
    assert len(found.lineage.rounds) == 2
    assert sum(len(part.verdicts) for item in found.lineage.rounds for part in item.sites) == 24
    assert found.lineage.epochs[0].number == 0


def test_records_and_keys_stand_under_the_same_root(pruned: Network) -> None:
    """A dataset with its conditions, and when each key was valid, in one multiproof."""
    chain, trust = pruned.chain, pinned(pruned)
    asked: list[tuple[type[Record], tuple[str | int, ...]]] = [
        (Dataset, (f"{SITE}.opt",)),
        (MemberKeys, (f"{SITE}.trainer",)),
        (MemberKeys, (f"{SITE}.validator",)),
        (Round, (TASK, 1)),
        (Update, (TASK, 1, SITE)),
        (Verdict, (TASK, 1, SITE, HOSPITALS[0])),
    ]
    keys = [state_key(cls.KIND, key) for cls, key in asked]
    proof = prove_together(chain, newest(chain), keys)

    values = verify_records(proof, keys, trust.chain, trust.epochs)

    dataset, trainer, validator, *rest = (
        unpack(cls, values[key] or b"", VALUE_BYTES_MAX)
        for (cls, _), key in zip(asked, keys, strict=True)
    )
    assert len(rest) == 3
    assert isinstance(dataset, Dataset)
    assert dataset.conditions == ("DUO:0000006",)
    assert isinstance(trainer, MemberKeys)
    assert isinstance(validator, MemberKeys)
    assert [item.end is None or item.end.ending for item in trainer.intervals] == [Ending.REVOKED]
    assert [item.end is None or item.end.ending for item in validator.intervals] == [
        Ending.ROTATED,
        True,
    ]
    single = prove_key(chain, newest(chain), keys[2])
    read = read_record(single, MemberKeys, (f"{SITE}.validator",), trust.chain, trust.epochs)
    assert read == validator
    assert single.certified.header.state == proof.certified.header.state


def test_every_pruned_block_still_stands_under_a_checkpoint(pruned: Network) -> None:
    """Headers and their history are kept: any of them, and all before it, under the newest."""
    chain, trust = pruned.chain, followed(pruned)
    top = chain.head.height
    for height in range(top):
        block = prove_block(chain, height, top)
        verify_block(block, height, top, trust.chain, trust.epochs)
        proof = prove_consistency(chain, height, top)
        verify_consistency(proof, trust.chain, trust.epochs)

"""A long lineage in one store: as many rounds and hospitals as are asked for, blobs left out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fl.body import (
    Aggregate,
    Judged,
    OpenTask,
    ProofOfLearning,
    RegisterModel,
    RevealVerdicts,
    SealVerdicts,
)
from fl.challenge import seal
from fl.spec import logistic_regression
from node.validator.store import Store
from tests.harness import Item, genesis_of, organisation
from tests.node.network import (
    BLOB_BYTES,
    COLUMNS,
    MODEL,
    TASK,
    Network,
    address,
    commit,
    opening,
    say,
    secret,
    terms,
)
from vm.learning import Decision, Round, Update
from vm.record import Band, ColumnSchema
from vm.registry import RegisterDataset
from vm.shape import pack
from vm.terms import Evidence, Site

BASE_SCORE_BP = 6_900
STEP_BP = 100  # as coarse as scores are published
ROUNDS_A_STEP = 8  # in which the score falls by one step
REJECTED_EVERY = 7  # rounds in which the last hospital's update is failed by all


@contextmanager
def long_story(folder: Path, hospitals: int, rounds: int) -> Iterator[Network]:
    """A node's chain on which a task of so many rounds ran."""
    names = tuple(organisation(number + 1) for number in range(hospitals))
    store = Store(folder / "store")
    try:
        network = Network(store, genesis_of(hospitals))
        _open(network, names, rounds)
        for number in range(1, rounds + 1):
            _run(network, names, number)
        yield network
    finally:
        store.close()


def _open(network: Network, names: Sequence[str], rounds: int) -> None:
    say(network, [_dataset(name, rounds * len(names)) for name in names])
    model = RegisterModel(MODEL, logistic_regression(2), 20, address("a"), BLOB_BYTES)
    say(network, [(f"{names[0]}.steward", "model.register", model)])
    sites = tuple(
        Site(name, f"{name}.trainer", f"{name}.verifier", f"{name}.opt", 100) for name in names
    )
    network.block(*opening(network, names[0], OpenTask(TASK, replace(terms(rounds), sites=sites))))


def _dataset(name: str, scores: int) -> Item:
    body = RegisterDataset(
        id=f"{name}.opt",
        title=f"Births at {name}",
        root=bytes(32),
        schema=tuple(ColumnSchema(column, "1") for column in COLUMNS),
        outcome="preterm",
        rows=Band(100, 199),
        positives=Band(10, 19),
        conditions=("DUO:0000006", "DUO:0000018"),
        region="US",
        opening=False,
        scores_max=scores,
    )
    return f"{name}.steward", "dataset.register", body


def _run(network: Network, names: Sequence[str], number: int) -> None:
    """Submissions, verdicts and aggregates of one round, a block for each."""
    state = network.chain.state()
    base = state.require(Round, TASK, number).base_version
    network.block(
        *(network.sign(*_proof(name, number, base)) for name in names),
        *(commit(network, name, number) for name in names),
    )
    judged = {name: _judgements(network, names, name, number) for name in names}
    say(
        network,
        [
            *(_seal(name, number, items) for name, items in judged.items()),
            *(_reveal(name, number, items) for name, items in judged.items()),
        ],
    )
    accepted = network.chain.state().require(Round, TASK, number).accepted
    assert accepted is not None, "the round's updates are settled"
    body = Aggregate(TASK, number, accepted, _weights(number), BLOB_BYTES, None)
    say(network, [(f"{name}.validator", "learning.aggregate", body) for name in names])


def _weights(number: int) -> str:
    """An address of its own for each version."""
    return "b" + "".join("abcdefghij"[int(digit)] for digit in f"{number:058}")


def _proof(name: str, number: int, base: int) -> Item:
    body = ProofOfLearning(
        task=TASK,
        round=number,
        dataset=f"{name}.opt",
        base_version=base,
        blob=address("h"),
        blob_bytes=BLOB_BYTES,
        norm=1_000,
        trace=bytes(32),
        segments=3,
        data=bytes(32),
        evidence=Evidence.COMMITTED,
        loop=None,
    )
    return f"{name}.trainer", "learning.proof", body


def _judgements(
    network: Network, names: Sequence[str], verifier: str, number: int
) -> tuple[Judged, ...]:
    state = network.chain.state()
    return tuple(
        _judged(state.require(Update, TASK, number, name), _fails(names, name, number))
        for name in names
        if name != verifier
    )


def _fails(names: Sequence[str], name: str, number: int) -> bool:
    return name == names[-1] and number % REJECTED_EVERY == 0


def _judged(update: Update, fails: bool) -> Judged:
    score_bp = BASE_SCORE_BP - update.round // ROUNDS_A_STEP * STEP_BP
    return Judged(
        organisation=update.organisation,
        update=update.transaction,
        decision=Decision.FAIL if fails else Decision.PASS,
        code="update.norm" if fails else "update.sound",
        reason="norm above three times the median" if fails else "",
        segment=None,
        score_bp=None if fails else score_bp,
        contribution_bp=None,
        near=None,
        blind=bytes(32),
    )


def _seal(name: str, number: int, items: tuple[Judged, ...]) -> Item:
    verifier = f"{name}.verifier"
    packed = [pack(item) for item in items]
    made = seal(TASK, number, verifier, secret(name, number), packed)
    return verifier, "learning.seal", SealVerdicts(TASK, number, made, len(items))


def _reveal(name: str, number: int, items: tuple[Judged, ...]) -> Item:
    body = RevealVerdicts(TASK, number, secret(name, number), items)
    return f"{name}.verifier", "learning.verdict", body

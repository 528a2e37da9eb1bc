"""A validator's chain on real LevelDB, with certificates by the keys of all four validators."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from consensus.message import CommitCertificate
from fl.approval import terms_digest
from fl.body import (
    Aggregate,
    ApproveTask,
    CommitSecret,
    Judged,
    OpenTask,
    ProofOfLearning,
    RegisterModel,
    RevealVerdicts,
    SealVerdicts,
)
from fl.challenge import commitment, seal
from fl.spec import logistic_regression
from node.program import program
from node.validator.chain import Chain
from node.validator.store import Store
from tests.fl.terms import ONE_SEGMENT, by, sgd
from tests.harness import START_MS, Item, genesis_of, key_of, signer_of
from tests.vm.council import admission, approve, propose, seating, unseating
from vm.block import Header, Payload
from vm.certificate import CheckpointCertificate, Vote, checkpoint_digest
from vm.genesis import Genesis
from vm.learning import Decision, Round, Stored, Update
from vm.record import Band, ColumnSchema
from vm.registry import RegisterDataset
from vm.shape import pack
from vm.terms import (
    MICRO,
    Column,
    Evidence,
    Policy,
    Preprocessing,
    Rule,
    Site,
    Terms,
    Valuation,
)
from vm.transaction import Transaction, sign
from vm.usage import Action, Purpose, UseBatch, hours

HOSPITALS = tuple(f"hospital-{number}" for number in range(1, 5))
MODEL = "preterm"
TASK = "preterm-1"
POISONER = HOSPITALS[3]
BLOB_BYTES = 128
COLUMNS = ("age", "bmi")
HOUR_MS = 3_600_000
NO_COMMITS = CommitCertificate(0, 0, bytes(32), ())  # the chain stores it unread


def address(letter: str) -> str:
    """A well-formed content address; `letter` is from a-z2-7."""
    return "b" + letter * 58


def certificate(genesis: Genesis, header: Header, names: Sequence[str]) -> CheckpointCertificate:
    """A certificate of `header` by the validators of these organisations, in the given order."""
    message = checkpoint_digest(genesis.chain, header.height, header.digest)
    ids = [f"{name}.validator" for name in names]
    votes = tuple(Vote(id, key_of(id).sign(message)) for id in ids)
    return CheckpointCertificate(header.height, header.digest, votes)


class Network:
    """One node's chain; `block` executes and certifies as a quorum of validators would."""

    def __init__(self, store: Store, genesis: Genesis) -> None:
        self.genesis = genesis
        self.chain = Chain(store, genesis, program(), {})
        self.late_ms = 0  # added to each block's time; tests let deadlines pass
        self._nonce = 0

    def sign(
        self, sender: str, kind: str, body: object, *, valid_until_height: int | None = None
    ) -> Transaction:
        """A transaction by the sender's own key, with a nonce never used before."""
        self._nonce += 1
        if valid_until_height is None:
            valid_until_height = self.chain.head.height + 100
        return sign(
            key_of(sender),
            chain=self.genesis.chain,
            kind=kind,
            sender=sender,
            body=body,
            valid_until_height=valid_until_height,
            nonce=self._nonce.to_bytes(16, "big"),
        )

    def block(self, *transactions: Transaction, certified: bool = True) -> Header:
        """Execute the next block, a second after the last."""
        return self.carry(map(pack, transactions), certified=certified)

    def carry(self, packed: Iterable[bytes], *, certified: bool = True) -> Header:
        """`block` of packed transactions."""
        height = self.chain.head.height + 1
        payload = Payload(START_MS + height * 1_000 + self.late_ms, tuple(packed))
        header = self.chain.execute(height, pack(payload), NO_COMMITS)
        if certified:
            self.certify(header)
        return header

    def certify(self, header: Header) -> CheckpointCertificate:
        """Store a certificate by a quorum of the validators that rule its height."""
        members = self.chain.epoch_at(header.height).validators
        message = checkpoint_digest(self.genesis.chain, header.height, header.digest)
        votes = [
            Vote(seat.id, signer_of(seat.key).sign(message))
            for seat in members.voters[: members.quorum]
        ]
        made = CheckpointCertificate(header.height, header.digest, tuple(votes))
        self.chain.store.write_certificate(made)
        return made


def say(network: Network, items: Iterable[Item]) -> Header:
    """Execute a block of what members say."""
    return network.block(*(network.sign(sender, kind, body) for sender, kind, body in items))


def grow(network: Network) -> None:
    """A fifth organisation gets a seat, and its epoch begins."""
    say(network, [propose(1, "admit", admission(5)), propose(1, "seat", seating(5))])
    agree(network, ("admit", "seat"), (2, 3))


def shrink(network: Network) -> None:
    """Of five organisations the first loses its seat, and the epoch without it begins."""
    say(network, [propose(2, "out", unseating(1))])
    agree(network, ("out",), (3, 4, 5))


def agree(network: Network, proposals: tuple[str, ...], voices: tuple[int, ...]) -> None:
    """Organisations approve, and the epoch that comes of it begins."""
    say(network, [approve(number, id) for number in voices for id in proposals])
    epoch = network.chain.epochs[-1]
    while network.chain.head.height < epoch.first:
        network.block()


@contextmanager
def open_network(folder: Path, *, public: bool = True) -> Iterator[Network]:
    """A network at its genesis."""
    store = Store(folder / "store")
    try:
        yield Network(store, replace(genesis_of(len(HOSPITALS)), public=public))
    finally:
        store.close()


def register_dataset(network: Network, hospital: str) -> Transaction:
    """The hospital's dataset."""
    body = RegisterDataset(
        id=f"{hospital}.opt",
        title="Births",
        root=bytes(32),
        schema=tuple(ColumnSchema(name, "1") for name in COLUMNS),
        outcome="preterm",
        rows=Band(100, 199),
        positives=Band(10, 19),
        conditions=("DUO:0000006",),
        region="US",
        opening=False,
        scores_max=100,
    )
    return network.sign(f"{hospital}.steward", "dataset.register", body)


def learn(network: Network, rounds: int) -> None:
    """A whole task: in each round the last hospital's update is failed by all, the rest accepted.

    Three blocks until the first round is open, then three for each round.
    """
    open_task(network, rounds)
    for number in range(1, rounds + 1):
        run_round(network, number)


def open_task(network: Network, rounds: int) -> None:
    """Register datasets and the model, and open the approved task: a block for each."""
    network.block(*(register_dataset(network, hospital) for hospital in HOSPITALS))
    model = RegisterModel(MODEL, logistic_regression(2), 20, address("a"), BLOB_BYTES)
    network.block(network.sign(f"{HOSPITALS[0]}.steward", "model.register", model))
    task = OpenTask(TASK, terms(rounds))
    network.block(*opening(network, HOSPITALS[0], task))


def opening(network: Network, hospital: str, task: OpenTask) -> list[Transaction]:
    """The hospital's steward opens the task, and all its sites approve."""
    body = ApproveTask(task.id, terms_digest(task.terms))
    return [
        network.sign(f"{hospital}.steward", "task.open", task),
        *(network.sign(site.trainer, "task.approve", body) for site in task.terms.sites),
    ]


def fail_round(network: Network, number: int) -> None:
    """One update where two are needed, then the deadline."""
    network.block(_proof(network, HOSPITALS[0], number))
    network.late_ms += HOUR_MS
    network.block()


def run_round(network: Network, number: int, aggregators: Sequence[str] = HOSPITALS) -> None:
    """Submissions, verdicts and aggregates of one round, a block for each."""
    network.block(
        *(_proof(network, hospital, number) for hospital in HOSPITALS),
        *(commit(network, hospital, number) for hospital in HOSPITALS),
    )
    judge(network, number)
    network.block(*(aggregate(network, hospital, number) for hospital in aggregators))


def aggregate(
    network: Network, hospital: str, number: int, state: Stored | None = None
) -> Transaction:
    """What the hospital's validator aggregates of a round."""
    accepted = network.chain.state().require(Round, TASK, number).accepted
    assert accepted is not None, "the round's updates are settled"
    body = Aggregate(TASK, number, accepted, address("bcdefg"[number - 1]), BLOB_BYTES, state)
    return network.sign(f"{hospital}.validator", "learning.aggregate", body)


def uses(network: Network, hospital: str, version: int) -> Transaction:
    """The hospital records that it used the model on 12 rows in the hour that is."""
    first_ms, last_ms = hours((network.chain.head.time_ms,))
    body = UseBatch(
        MODEL, version, Purpose.CARE, Action.INFERENCE, 12, 3, bytes(32), first_ms, last_ms
    )
    return network.sign(f"{hospital}.trainer", "model.use", body)


def terms(rounds: int) -> Terms:
    """The terms of the test's task."""
    return Terms(
        title="Preterm birth",
        model=MODEL,
        preprocessing=Preprocessing(
            columns=tuple(_column(name) for name in COLUMNS), outcome=_column("preterm")
        ),
        training=sgd(MICRO // 10, 0, 0, steps=30, batch_rows=16, snapshot_steps=10),
        aggregation=by(Rule.WEIGHTED_MEAN, 0, 2),
        policy=Policy(3 * MICRO, -MICRO // 5, MICRO // 50),
        replay=ONE_SEGMENT,
        evidence=Evidence.COMMITTED,
        own_loops=False,
        contribution=Valuation.NONE,
        pool=0,
        sites=tuple(
            Site(name, f"{name}.trainer", f"{name}.verifier", f"{name}.opt", 100)
            for name in HOSPITALS
        ),
        rounds=rounds,
        submit_ms=HOUR_MS,
        verdict_ms=HOUR_MS,
        reveal_ms=HOUR_MS,
        aggregate_ms=HOUR_MS,
        retention_ms=0,
        trace_retention_ms=0,
        purpose="research",
    )


def _column(name: str) -> Column:
    return Column(name, "1", (), 0, MICRO, 0, 0, MICRO)


def _proof(network: Network, hospital: str, number: int) -> Transaction:
    body = ProofOfLearning(
        task=TASK,
        round=number,
        dataset=f"{hospital}.opt",
        base_version=network.chain.state().require(Round, TASK, number).base_version,
        blob=address("h"),
        blob_bytes=BLOB_BYTES,
        norm=1_000,
        trace=bytes(32),
        segments=3,
        data=bytes(32),
        evidence=Evidence.COMMITTED,
        loop=None,
    )
    return network.sign(f"{hospital}.trainer", "learning.proof", body)


def judge(network: Network, number: int) -> None:
    """Every verifier seals and reveals: in one block, for this network orders as it is told."""
    found = {hospital: _judgements(network, hospital, number) for hospital in HOSPITALS}
    network.block(
        *(_seal(network, hospital, number, items) for hospital, items in found.items()),
        *(_reveal(network, hospital, number, items) for hospital, items in found.items()),
    )


def secret(hospital: str, number: int) -> bytes:
    """The secret of the hospital's verifier in a round."""
    return hashlib.sha256(f"{hospital} {number}".encode()).digest()


def commit(network: Network, hospital: str, number: int, task: str = TASK) -> Transaction:
    """The hospital's verifier commits to its secret of a round."""
    verifier = f"{hospital}.verifier"
    found = commitment(task, number, verifier, secret(hospital, number))
    return network.sign(verifier, "learning.commit", CommitSecret(task, number, found))


def _seal(network: Network, hospital: str, number: int, found: tuple[Judged, ...]) -> Transaction:
    verifier, packed = f"{hospital}.verifier", [pack(item) for item in found]
    made = seal(TASK, number, verifier, secret(hospital, number), packed)
    return network.sign(verifier, "learning.seal", SealVerdicts(TASK, number, made, len(found)))


def _reveal(network: Network, hospital: str, number: int, found: tuple[Judged, ...]) -> Transaction:
    body = RevealVerdicts(TASK, number, secret(hospital, number), found)
    return network.sign(f"{hospital}.verifier", "learning.verdict", body)


def _judgements(network: Network, hospital: str, number: int) -> tuple[Judged, ...]:
    return tuple(
        replace(_judged(network, other, number), blind=secret(f"{hospital} of {other}", number))
        for other in HOSPITALS
        if other != hospital
    )


def _judged(network: Network, hospital: str, number: int) -> Judged:
    update = network.chain.state().require(Update, TASK, number, hospital)
    good = hospital != POISONER
    return Judged(
        organisation=hospital,
        update=update.transaction,
        decision=Decision.PASS if good else Decision.FAIL,
        code="update.sound" if good else "update.norm",
        reason="" if good else "norm above three times the median",
        segment=None,
        score_bp=6_900 if good else None,
        contribution_bp=None,
        near=None,
        blind=bytes(32),
    )

"""A chain with an open task, and custody of the blobs that its transactions name."""

from dataclasses import replace

from fl.body import OpenTask, ProofOfLearning, RegisterModel
from fl.spec import logistic_regression
from fl.trace import Origin, origin_digest
from fl.weights import update_size
from node.validator.custody import Custody
from tests.node.network import (
    BLOB_BYTES,
    COLUMNS,
    HOSPITALS,
    HOUR_MS,
    MODEL,
    TASK,
    Network,
    address,
    commit,
    opening,
    register_dataset,
    terms,
)
from vm.learning import Commitment, Round, RoundPhase
from vm.record import Member, Role
from vm.shape import Digest
from vm.terms import AVERAGE, MICRO, Evidence, Server, ServerOptimizer
from vm.transaction import Transaction

A, B, C, D = HOSPITALS

BASE = address("a")  # the model's first weights
BLOB = address("x")  # the update of hospital A
SPEC = logistic_regression(len(COLUMNS))
UPDATE_BYTES = update_size(SPEC, 20, 3)
RETENTION_MS = HOUR_MS
EVERYBODY = {f"{h}.{role}" for h in HOSPITALS for role in Role if role is not Role.AUDITOR}
JUDGES = {f"{hospital}.{role}" for hospital in HOSPITALS for role in ("verifier", "validator")}
MOMENTUM = Server(ServerOptimizer.MOMENTUM, MICRO, momentum=900_000, beta2=0, tau=0)


class Registry:
    """A chain with an open task, and custody that follows it."""

    def __init__(
        self, network: Network, server: Server = AVERAGE, evidence: Evidence = Evidence.COMMITTED
    ) -> None:
        self.network = network
        network.block(*(register_dataset(network, hospital) for hospital in HOSPITALS))
        model = RegisterModel(MODEL, SPEC, 20, BASE, BLOB_BYTES)
        network.block(network.sign(f"{A}.steward", "model.register", model))
        asked = terms(2)
        rule = replace(asked.aggregation, server=server)
        asked = replace(asked, retention_ms=RETENTION_MS, aggregation=rule, evidence=evidence)
        network.block(*opening(network, A, OpenTask(TASK, asked)))
        self.origins: dict[str, Digest] = {}  # what the headers of blobs held here say
        self.custody = Custody(network.chain, self.origins.get)

    def bring(self, hospital: str, blob: str) -> None:
        """A validator holds the file of hospital's update, which says whose it is."""
        self.origins[blob] = origin_digest(
            Origin(TASK, 1, f"{hospital}.trainer", f"{hospital}.opt")
        )

    def block(self, *transactions: Transaction) -> None:
        """Execute a block in which everything is applied, and learn from it."""
        header = self.network.block(*transactions)
        row = self.network.chain.store.row(header.height)
        assert row is not None
        assert {receipt.code for receipt in row.receipts} <= {"applied"}, row.messages
        self.follow(header.height)

    def follow(self, height: int) -> None:
        """Have the custody take in the block at this height."""
        row = self.network.chain.store.row(height)
        assert row is not None
        self.custody.follow(row)

    def submit(self, **blobs: str) -> None:
        """Trainers of these hospitals (`A=address`) bring and name their updates, in one block.

        The base model is no update, whoever says so.
        """
        names = dict(zip("ABCD", HOSPITALS, strict=True))
        for letter, blob in blobs.items():
            if blob != BASE:
                self.bring(names[letter], blob)
        first = self.network.chain.state().get(Commitment, TASK, 1, HOSPITALS[0]) is None
        self.block(
            *(self.proof(names[letter], blob) for letter, blob in blobs.items()),
            *(commit(self.network, hospital, 1) for hospital in HOSPITALS if first),
        )

    def proof(self, hospital: str, blob: str, task: str = TASK) -> Transaction:
        """A trainer's update in round 1."""
        body = ProofOfLearning(
            task=task,
            round=1,
            dataset=f"{hospital}.opt",
            base_version=0,
            blob=blob,
            blob_bytes=BLOB_BYTES,
            norm=1_000,
            trace=bytes(32),
            segments=3,
            data=bytes(32),
            evidence=Evidence.COMMITTED,
            loop=None,
        )
        return self.network.sign(f"{hospital}.trainer", "learning.proof", body)

    def expect(self, phase: RoundPhase, number: int = 1) -> None:
        """The round must be in this phase, or the test shows nothing."""
        assert self.network.chain.state().require(Round, TASK, number).phase is phase

    def pass_time(self, ms: int = HOUR_MS) -> None:
        """An empty block, so much later."""
        self.network.late_ms += ms
        self.block()

    def member(self, id: str) -> Member:
        """A member as it stands."""
        return self.network.chain.state().require(Member, id)

    def readers(self, blob: str) -> set[str]:
        """Who may read the blob now, of all who were enrolled by genesis."""
        ids = [member.id for member in self.network.genesis.members]
        return {id for id in ids if self.custody.may_read(self.member(id), blob)}

    def due(self) -> list[str]:
        """What must be deleted at the chain's time."""
        return self.custody.due(self.network.chain.head.time_ms)


def registering(registry: Registry, weights: str, id: str = "bait") -> Transaction:
    """A steward of hospital B registers a model that is said to have these weights."""
    body = RegisterModel(id, SPEC, 20, weights, BLOB_BYTES)
    return registry.network.sign(f"{B}.steward", "model.register", body)


def run_out(registry: Registry) -> None:
    """Nobody judges and the task's retention passes."""
    registry.pass_time()  # verdicts end undecided: the round fails
    registry.expect(RoundPhase.FAILED)
    registry.pass_time(RETENTION_MS)

"""What the members of a test network say in a federated task, and a chain on which they say it."""

import base64
import hashlib
from dataclasses import replace
from typing import Any

from fl.body import Aggregate, OpenTask, ProofOfLearning, RegisterModel, SubmitVerdict
from fl.spec import logistic_regression
from node.program import program
from tests.fl.terms import ONE_SEGMENT, by, sgd
from tests.harness import Chain, Item, organisation
from vm.learning import Decision, Round, Update
from vm.record import Band, ColumnSchema
from vm.registry import RegisterDataset
from vm.terms import (
    MICRO,
    Column,
    Evidence,
    Level,
    Policy,
    Preprocessing,
    Rule,
    Site,
    Terms,
    Valuation,
)

SUBMIT_MS = 60_000
VERDICT_MS = 40_000
REVEAL_MS = 30_000
AGGREGATE_MS = 20_000
TASK = "preterm"
MODEL = "risk"
ROWS_LOW = (200, 150, 100, 50)  # of the first four organisations' datasets; others have 50


def address(text: str) -> str:
    """Some content address; equal texts have equal ones."""
    raw = hashlib.sha512(text.encode()).digest()
    return "b" + base64.b32encode(raw).decode().lower()[:58]


AGE = Column("Age", "a", (), 0, 120 * MICRO, 25 * MICRO, 25 * MICRO, 10 * MICRO)
SMOKER = Column("Smoker", "1", (Level("No", 0), Level("Yes", MICRO)), 0, MICRO, 0, 0, MICRO)
OUTCOME = Column("Preterm", "1", (Level("no", 0), Level("yes", MICRO)), 0, MICRO, 0, 0, MICRO)


def dataset(number: int, **changes: Any) -> Item:
    """The steward of organisation `number` registers its dataset."""
    low = ROWS_LOW[number - 1] if number <= len(ROWS_LOW) else 50
    body = RegisterDataset(
        id=f"opt-{number}",
        title="Baseline of a trial",
        root=hashlib.sha256(b"rows %d" % number).digest(),
        schema=(ColumnSchema("Age", "a"), ColumnSchema("Smoker", "1")),
        outcome="Preterm",
        rows=Band(low, low + 49),
        positives=Band(10, 29),
        conditions=("DUO:0000042",),
        region="US",
        opening=True,
    )
    return f"{organisation(number)}.steward", "dataset.register", replace(body, **changes)


def model(**changes: Any) -> Item:
    """The first steward registers a logistic regression of two inputs."""
    body = RegisterModel(MODEL, logistic_regression(2), 24, address("initial"), 1_000)
    return "hospital-1.steward", "model.register", replace(body, **changes)


def site(number: int) -> Site:
    """Organisation `number`'s part in the task."""
    name = organisation(number)
    weight = ROWS_LOW[number - 1] if number <= len(ROWS_LOW) else 50
    return Site(name, f"{name}.trainer", f"{name}.verifier", f"opt-{number}", weight)


TERMS = Terms(
    title="Preterm birth",
    model=MODEL,
    preprocessing=Preprocessing((AGE, SMOKER), OUTCOME),
    training=sgd(MICRO // 10, 0, 0, steps=20, batch_rows=16, snapshot_steps=5),
    aggregation=by(Rule.WEIGHTED_MEAN, 0, 3),
    policy=Policy(3 * MICRO, MICRO // 50),
    replay=ONE_SEGMENT,
    evidence=Evidence.COMMITTED,
    contribution=Valuation.NONE,
    pool=0,
    sites=tuple(site(number) for number in (1, 2, 3, 4)),
    rounds=2,
    submit_ms=SUBMIT_MS,
    verdict_ms=VERDICT_MS,
    reveal_ms=REVEAL_MS,
    aggregate_ms=AGGREGATE_MS,
    retention_ms=0,
    trace_retention_ms=0,
    purpose="research",
)


def opening(task: str = TASK, **changes: Any) -> Item:
    """The first steward opens `task`, with `changes` to its terms."""
    return "hospital-1.steward", "task.open", OpenTask(task, replace(TERMS, **changes))


def registered(organisations: int = 4) -> Chain:
    """A chain on which every dataset and the model are registered."""
    chain = Chain(program(), organisations)
    chain.applied([*(dataset(n + 1) for n in range(organisations)), model()])
    return chain


def opened(**changes: Any) -> Chain:
    """A chain on which the task is open, in phase SUBMIT of round 1."""
    chain = registered()
    chain.applied([opening(**changes)])
    return chain


def proof(number: int, round_number: int = 1, **changes: Any) -> Item:
    """Organisation `number`'s trainer submits its update."""
    name = organisation(number)
    body = ProofOfLearning(
        task=TASK,
        round=round_number,
        dataset=f"opt-{number}",
        base_version=0,
        blob=address(f"update of {name} in {round_number}"),
        blob_bytes=2_000,
        norm=1_000,
        trace=hashlib.sha256(name.encode()).digest(),
        segments=4,
        data=hashlib.sha256(b"training part of " + name.encode()).digest(),
        evidence=Evidence.COMMITTED,
    )
    return f"{name}.trainer", "learning.proof", replace(body, **changes)


def verdict(chain: Chain, judge: int, number: int, round_number: int = 1, **changes: Any) -> Item:
    """Organisation `judge`'s verifier passes the update of organisation `number`."""
    name = organisation(number)
    body = SubmitVerdict(
        task=TASK,
        round=round_number,
        organisation=name,
        update=chain.get(Update, TASK, round_number, name).transaction,
        decision=Decision.PASS,
        code="verdict.passed",
        reason="within the margin",
        segment=None,
        score_bp=5_000,
    )
    return f"{organisation(judge)}.verifier", "learning.verdict", replace(body, **changes)


def failing(code: str = "score.worse", reason: str = "log-loss rises") -> dict[str, Any]:
    """The changes that make a verdict a failing one."""
    return {"decision": Decision.FAIL, "code": code, "reason": reason, "score_bp": None}


ABSTAINING = {
    "decision": Decision.ABSTAIN,
    "code": "rows.few",
    "reason": "too few rows",
    "score_bp": None,
}


def verdicts(chain: Chain, number: int, round_number: int = 1, **changes: Any) -> list[Item]:
    """All of the other three verifiers say the same of the update of organisation `number`."""
    judges = [judge for judge in (1, 2, 3, 4) if judge != number]
    return [verdict(chain, judge, number, round_number, **changes) for judge in judges]


def aggregate(chain: Chain, number: int, round_number: int = 1, **changes: Any) -> Item:
    """Organisation `number`'s validator attests the aggregate of the accepted updates."""
    accepted = chain.get(Round, TASK, round_number).accepted
    assert accepted is not None, "verdicts are settled"
    body = Aggregate(TASK, round_number, accepted, address(f"model {round_number}"), 1_000, None)
    return f"{organisation(number)}.validator", "learning.aggregate", replace(body, **changes)


def submitted(chain: Chain, round_number: int = 1, **changes: Any) -> Chain:
    """All four sites submit; the round is in phase VERDICT."""
    chain.applied([proof(n, round_number, **changes) for n in (1, 2, 3, 4)])
    return chain


def settled(chain: Chain, round_number: int = 1) -> Chain:
    """All verifiers pass all updates; the round is in phase AGGREGATE."""
    chain.applied([item for n in (1, 2, 3, 4) for item in verdicts(chain, n, round_number)])
    return chain

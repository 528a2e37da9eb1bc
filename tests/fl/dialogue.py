"""What the members of a test network say in a federated task, and a chain on which they say it."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from fl.approval import terms_digest
from fl.body import (
    AdmitAuditor,
    Aggregate,
    ApproveTask,
    AttestAudit,
    CloseTask,
    CommitSecret,
    DeclineRound,
    Judged,
    OpenTask,
    ProofOfLearning,
    RegisterModel,
    RerunVerdict,
    RevealVerdicts,
    SealVerdicts,
    WithdrawApproval,
)
from fl.challenge import commitment, seal
from fl.spec import logistic_regression
from node.program import program
from tests.fl.terms import ONE_SEGMENT, by, sgd
from tests.harness import Chain, Item, key_of, organisation
from vm.conduct import AuditOutcome
from vm.learning import Decision, Round, RoundPhase, Update, Verdict
from vm.record import Band, ColumnSchema, Role
from vm.registry import EnrolMember, RegisterDataset
from vm.shape import pack
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
NUMBERS = (1, 2, 3, 4)  # of the organisations whose sites the task has
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
        scores_max=1_000,
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
    policy=Policy(3 * MICRO, -MICRO // 5, MICRO // 50),
    replay=ONE_SEGMENT,
    evidence=Evidence.COMMITTED,
    own_loops=True,
    contribution=Valuation.NONE,
    pool=1_000,
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
    """A chain on which the task is open and all sites approved it, in phase SUBMIT of round 1."""
    chain = registered()
    chain.applied([opening(**changes), *approvals(**changes)])
    return chain


def approval(number: int, task: str = TASK, **changes: Any) -> Item:
    """Organisation `number`'s trainer approves `task`, with `changes` to its terms."""
    body = ApproveTask(task, terms_digest(replace(TERMS, **changes)))
    return f"{organisation(number)}.trainer", "task.approve", body


def approvals(task: str = TASK, **changes: Any) -> list[Item]:
    """All sites of `task`, with `changes` to its terms, approve."""
    sites = replace(TERMS, **changes).sites
    return [
        approval(number, task, **changes)
        for number in NUMBERS
        if organisation(number) in {site.organisation for site in sites}
    ]


def withdrawal(number: int) -> Item:
    """Organisation `number`'s trainer takes its approval back."""
    return f"{organisation(number)}.trainer", "task.withdraw", WithdrawApproval(TASK)


def closing(number: int = 1, task: str = TASK) -> Item:
    """Organisation `number`'s steward closes the task."""
    return f"{organisation(number)}.steward", "task.close", CloseTask(task, "the trial has ended")


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
        loop=None,
    )
    return f"{name}.trainer", "learning.proof", replace(body, **changes)


def decline(number: int, round_number: int = 1, **changes: Any) -> Item:
    """Organisation `number`'s trainer says that it sends no update."""
    body = DeclineRound(TASK, round_number, "site.maintenance", "the scanner is being moved")
    return f"{organisation(number)}.trainer", "learning.decline", replace(body, **changes)


def secret(judge: int, round_number: int = 1) -> bytes:
    """The secret of organisation `judge`'s verifier in a round."""
    return hashlib.sha256(b"secret %d of %d" % (round_number, judge)).digest()


def blind(judge: int, round_number: int, number: int) -> bytes:
    """What hides the verifier's judgement of the update of organisation `number`."""
    return hashlib.sha256(b"blind %d of %d in %d" % (number, judge, round_number)).digest()


def commit(judge: int, round_number: int = 1, task: str = TASK, **changes: Any) -> Item:
    """Organisation `judge`'s verifier commits to its secret."""
    verifier = f"{organisation(judge)}.verifier"
    found = commitment(task, round_number, verifier, secret(judge, round_number))
    return verifier, "learning.commit", replace(CommitSecret(task, round_number, found), **changes)


def commits(round_number: int = 1, task: str = TASK) -> list[Item]:
    """All four verifiers commit."""
    return [commit(judge, round_number, task) for judge in NUMBERS]


def judgement(
    chain: Chain, number: int, round_number: int = 1, task: str = TASK, **changes: Any
) -> Judged:
    """A pass of the update of organisation `number`."""
    name = organisation(number)
    update = chain.get(Update, task, round_number, name).transaction
    passed = Judged(
        organisation=name,
        update=update,
        decision=Decision.PASS,
        code="verdict.passed",
        reason="within the margin",
        segment=None,
        score_bp=5_000,
        contribution_bp=None,
        near=None,
        blind=bytes(32),
    )
    return replace(passed, **changes)


Said = Mapping[tuple[int, int], Mapping[str, Any]]  # judge and judged -> changes to a pass
NOTHING_SPECIAL: Said = MappingProxyType({})


def judgements(
    chain: Chain,
    judge: int,
    round_number: int = 1,
    said: Said = NOTHING_SPECIAL,
    task: str = TASK,
) -> tuple[Judged, ...]:
    """What organisation `judge`'s verifier says of the others' updates: passes, but for `said`."""
    return tuple(
        judgement(
            chain,
            number,
            round_number,
            task,
            **{"blind": blind(judge, round_number, number), **said.get((judge, number), {})},
        )
        for number in NUMBERS
        if number != judge
        and chain.state.get(Update, task, round_number, organisation(number)) is not None
    )


def sealing(
    judge: int, found: Sequence[Judged], round_number: int = 1, task: str = TASK, **changes: Any
) -> Item:
    """Organisation `judge`'s verifier seals what it found."""
    verifier = f"{organisation(judge)}.verifier"
    packed = [pack(item) for item in found]
    made = seal(task, round_number, verifier, secret(judge, round_number), packed)
    numbers = 2 if any(item.contribution_bp is not None for item in found) else 1
    body = SealVerdicts(task, round_number, made, numbers * len(found))
    return verifier, "learning.seal", replace(body, **changes)


def revealing(
    judge: int, found: Sequence[Judged], round_number: int = 1, task: str = TASK, **changes: Any
) -> Item:
    """Organisation `judge`'s verifier reveals what it found."""
    body = RevealVerdicts(task, round_number, secret(judge, round_number), tuple(found))
    return f"{organisation(judge)}.verifier", "learning.verdict", replace(body, **changes)


def rerun(chain: Chain, judge: int, number: int, round_number: int = 1, **changes: Any) -> Item:
    """Organisation `judge`'s verifier says again what it said of the update of `number`."""
    names = organisation(number), organisation(judge)
    said = chain.get(Verdict, TASK, round_number, *names)
    update = chain.get(Update, TASK, round_number, names[0]).transaction
    body = RerunVerdict(
        TASK, round_number, names[0], update, said.decision, said.code, said.reason, None
    )
    return f"{names[1]}.verifier", "learning.rerun", replace(body, **changes)


def speak(
    chain: Chain,
    said: Said = NOTHING_SPECIAL,
    judges: Sequence[int] = NUMBERS,
    round_number: int = 1,
    task: str = TASK,
) -> Chain:
    """In one block `judges` seal, in the next they reveal; who is missing is silent to the end."""
    found = {judge: judgements(chain, judge, round_number, said, task) for judge in judges}
    chain.applied([sealing(judge, items, round_number, task) for judge, items in found.items()])
    rnd = chain.get(Round, task, round_number)
    if rnd.phase is RoundPhase.VERDICT:
        chain.applied(time_ms=rnd.deadline_ms)
    chain.applied([revealing(judge, items, round_number, task) for judge, items in found.items()])
    return chain


def failing(code: str = "score.worse", reason: str = "log-loss rises") -> dict[str, Any]:
    """The changes that make a judgement a failing one."""
    return {"decision": Decision.FAIL, "code": code, "reason": reason, "score_bp": None}


ABSTAINING = {
    "decision": Decision.ABSTAIN,
    "code": "rows.few",
    "reason": "too few rows",
    "score_bp": None,
}


def aggregate(chain: Chain, number: int, round_number: int = 1, **changes: Any) -> Item:
    """Organisation `number`'s validator attests the aggregate of the accepted updates."""
    accepted = chain.get(Round, TASK, round_number).accepted
    assert accepted is not None, "verdicts are settled"
    body = Aggregate(TASK, round_number, accepted, address(f"model {round_number}"), 1_000, None)
    return f"{organisation(number)}.validator", "learning.aggregate", replace(body, **changes)


def submitted(chain: Chain, round_number: int = 1, **changes: Any) -> Chain:
    """All four sites submit, all verifiers commit; the round is in phase VERDICT."""
    proofs = [proof(number, round_number, **changes) for number in NUMBERS]
    chain.applied([*proofs, *commits(round_number)])
    return chain


def settled(chain: Chain, round_number: int = 1) -> Chain:
    """All verifiers pass all updates; the round is in phase AGGREGATE."""
    return speak(chain, round_number=round_number)


def visit(by: int, number: int, round_number: int = 1, **changes: Any) -> Item:
    """Organisation `number`'s trainer lets the auditor of organisation `by` in."""
    body = AdmitAuditor(TASK, round_number, f"{organisation(by)}.auditor")
    return f"{organisation(number)}.trainer", "learning.visit", replace(body, **changes)


def attestation(
    auditor: int, number: int, outcome: AuditOutcome, round_number: int = 1, **changes: Any
) -> Item:
    """Organisation `auditor`'s auditor attests the trace of organisation `number`."""
    segments = 0 if outcome is AuditOutcome.UNAVAILABLE else 4
    body = AttestAudit(
        TASK, round_number, organisation(number), outcome, "audit.on_site", "", segments
    )
    return f"{organisation(auditor)}.auditor", "learning.audit", replace(body, **changes)


def with_auditors(chain: Chain) -> Chain:
    """Organisations 1 and 2 enrol an auditor each, as `attestation` names them."""
    chain.applied(
        [
            (
                f"{name}.admin",
                "member.enrol",
                EnrolMember(id, Role.AUDITOR, key_of(id).public, None),
            )
            for name in (organisation(1), organisation(2))
            for id in (f"{name}.auditor",)
        ]
    )
    return chain

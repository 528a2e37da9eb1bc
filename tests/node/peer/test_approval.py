"""A site's approval: of these terms and no others, before the first row is read."""

import errno
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from fl.approval import terms_digest
from fl.body import ApproveTask, ProofOfLearning
from node.peer.approval import WITHDRAWN, Approvals, Mode
from node.peer.words import duration, sentences
from tests.fl.dialogue import MODEL, TASK, TERMS, opening
from tests.node.hospital import Town
from tests.node.peer.looks import code_of, opened, run, sealed, submitted
from vm.learning import Decision, Task, TaskPhase
from vm.record import Model
from vm.refusal import Refused
from vm.terms import Evidence, Valuation


def task(town: Town) -> Task:
    """The open task."""
    return town.chain.get(Task, TASK)


def with_other_terms(found: Task) -> Task:
    """The task under the same name, with a thousand times the learning rate."""
    training = replace(found.terms.training, rate=found.terms.training.rate * 1_000)
    return replace(found, terms=replace(found.terms, training=training))


def refuses(approvals: Approvals, found: Task) -> str:
    """The sentence with which a task is not taken part in."""
    with pytest.raises(Refused) as refused:
        approvals.require(found)
    assert refused.value.code == "peer.not_approved"
    return refused.value.message


def test_a_listed_task_is_approved_under_the_terms_of_the_first_look(tmp_path: Path) -> None:
    """Also after a restart, other terms under that name are refused, with what to do."""
    town = opened(tmp_path)
    town.approvals(1).require(task(town))

    again = town.approvals(1)
    again.require(task(town))

    assert f"concilium peer approve HOME {TASK}" in refuses(again, with_other_terms(task(town)))


def test_a_task_that_is_not_listed_is_refused_by_a_list(tmp_path: Path) -> None:
    """Also if it was approved before: the site took it out of its list."""
    town = opened(tmp_path)
    town.approvals(1).require(task(town))

    assert "not listed" in refuses(town.approvals(1, listed={}), task(town))


def test_a_listed_digest_says_which_terms_are_meant(tmp_path: Path) -> None:
    """It counts more than what was found first."""
    town = opened(tmp_path)
    other = with_other_terms(task(town))
    town.approvals(1).require(task(town))

    approvals = town.approvals(1, listed={TASK: terms_digest(other.terms)})

    refuses(approvals, task(town))
    approvals.require(other)


def test_a_site_that_is_asked_approves_by_command_alone(tmp_path: Path) -> None:
    """A list approves nothing there; an approval can be taken back while the peer runs."""
    town = opened(tmp_path)
    running, command = town.approvals(1, "ask"), town.approvals(1, "ask")
    assert f"concilium peer approve HOME {TASK}" in refuses(running, task(town))

    command.approve(task(town))
    running.require(task(town))
    refuses(running, with_other_terms(task(town)))

    assert command.withdraw(TASK)
    assert not command.withdraw(TASK)
    refuses(running, task(town))


def test_what_was_withdrawn_is_not_approved_by_standing_on_a_list(tmp_path: Path) -> None:
    """Neither without a digest nor with it: somebody reads the terms and approves them again."""
    town = opened(tmp_path)
    town.approvals(1).withdraw(TASK)
    digest = terms_digest(task(town).terms)

    for listed in (None, digest):
        assert "withdrawn here" in refuses(town.approvals(1, listed={TASK: listed}), task(town))

    town.approvals(1).approve(task(town))
    town.approvals(1).require(task(town))


def test_a_listed_task_is_approved_on_a_volume_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For good too, and never over what somebody has said there."""

    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    town = opened(tmp_path)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    town.approvals(1).require(task(town))

    refuses(town.approvals(1), with_other_terms(task(town)))


@pytest.mark.parametrize("mode", ["list", "ask"])
def test_a_withdrawal_at_the_very_moment_of_a_look_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """The command runs beside the peer: one look sees what was there before it, or after."""
    town = opened(tmp_path)
    approvals = town.approvals(1, mode)
    approvals.approve(task(town))
    kept = Approvals._kept

    def read(approvals: Approvals, id: str) -> bytes | None:
        found = kept(approvals, id)
        next(tmp_path.glob("*/approved/*")).write_bytes(WITHDRAWN)
        return found

    monkeypatch.setattr(Approvals, "_kept", read)
    approvals.require(task(town))

    assert "withdrawn here" in refuses(approvals, task(town))


def test_a_withdrawal_while_a_list_approves_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first look found nothing; what a person says before it is written down counts more."""
    town = opened(tmp_path)
    approvals, command = town.approvals(1), town.approvals(1)
    kept = approvals._kept

    def read(id: str) -> bytes | None:
        found = kept(id)
        command.withdraw(id)
        return found

    monkeypatch.setattr(approvals, "_kept", read)

    assert "withdrawn here" in refuses(approvals, task(town))
    assert command.is_withdrawn(TASK)
    assert [path.name for path in tmp_path.glob("*/approved/*")] == [TASK]


@pytest.mark.parametrize("content", [b"", b"no digest\n", b"ab" * 31 + b"\n", b"ab" * 33, b"\xff"])
def test_a_damaged_approval_approves_nothing(tmp_path: Path, content: bytes) -> None:
    """It is said to be damaged, also where the list alone would approve."""
    town = opened(tmp_path)
    town.approvals(1).approve(task(town))
    next(tmp_path.glob("*/approved/*")).write_bytes(content)

    for mode in ("list", "ask"):
        with pytest.raises(Refused, match=r"peer\.approval_file: .*delete the file"):
            town.approvals(1, mode).require(task(town))


def test_nothing_is_read_trained_or_judged_without_approval(tmp_path: Path) -> None:
    """A trainer and a verifier of terms that the site did not see touch no row.

    A verifier that was bound before its site withdrew abstains, so that nobody waits for it.
    """
    town = Town(tmp_path)
    town.chain.applied([opening()])
    trainer = town.trainer(1)
    trainer._approvals = town.approvals(1, "ask")
    assert code_of(trainer.work(TASK)) == "peer.not_approved"
    assert (town.loads, town.submitted) == (0, [])

    town.approvals(1, "ask").approve(task(town))
    run(trainer.work(TASK))
    assert [type(body) for body in town.submitted] == [ApproveTask, ProofOfLearning]

    later = submitted(tmp_path / "later")
    verifier = later.verifier(1)
    verifier._approvals = later.approvals(1, "ask", {})
    later.approvals(1, "ask").withdraw(TASK)
    later.loads = 0
    run(verifier.work(TASK))
    assert later.loads == 0
    decisions = {(item.decision, item.code) for item in sealed(later, 1).values()}
    assert decisions == {(Decision.ABSTAIN, "verdict.withdrawn")}


def test_terms_are_told_in_words(tmp_path: Path) -> None:
    """What leaves, what for, how often, and the site's own part."""
    town = opened(tmp_path)

    text = "\n".join(sentences(task(town), town.chain.get(Model, MODEL, 0), "hospital-2"))

    assert f"{TASK}: {TERMS.title}. Opened by hospital-1.steward of hospital-1." in text
    assert "Purpose: research." in text
    assert "risk from version 0, 3 parameters, layers: linear." in text
    assert "It reads 2 columns: Age (a), Smoker (1)." in text
    assert "Each of 2 rounds trains 20 steps of 16 rows" in text
    assert (
        "Evidence: committed or more. Your update leaves; your rows and snapshots do not." in text
    )
    assert "Your part: dataset opt-2 of weight 150" in text
    assert "hospital-3: dataset opt-3" in text


def test_every_term_is_told() -> None:
    """A change of any of them changes the sentences, or they would hide it."""
    item = Task("t", "s", "o", TERMS, 0, TaskPhase.OPEN, 1, 0, 0, None, None, 0, 0)
    policy, replay = TERMS.policy, TERMS.replay
    changes: dict[str, Any] = {
        "title": "Other",
        "model": "other",
        "preprocessing": replace(TERMS.preprocessing, columns=TERMS.preprocessing.columns[:1]),
        "training": replace(TERMS.training, steps=40),
        "aggregation": replace(TERMS.aggregation, updates_min=4),
        "policy": replace(policy, margin=policy.margin + 1),
        "replay": replace(replay, segments=replay.segments + 1),
        "evidence": Evidence.REPLAYED,
        "own_loops": not TERMS.own_loops,
        "contribution": Valuation.SHAPLEY,
        "pool": TERMS.pool + 1,
        "sites": TERMS.sites[:3],
        "rounds": TERMS.rounds + 1,
        "submit_ms": TERMS.submit_ms + 60_000,
        "verdict_ms": TERMS.verdict_ms + 60_000,
        "reveal_ms": TERMS.reveal_ms + 60_000,
        "aggregate_ms": TERMS.aggregate_ms + 60_000,
        "retention_ms": TERMS.retention_ms + 60_000,
        "trace_retention_ms": TERMS.trace_retention_ms + 60_000,
        "purpose": "other",
    }
    assert set(changes) == {field.name for field in fields(TERMS)}

    for name, value in changes.items():
        other = replace(item, terms=replace(TERMS, **{name: value}))
        assert sentences(other, None, "x") != sentences(item, None, "x"), name


@pytest.mark.parametrize("name", ["norm_factor", "direction_min", "margin"])
def test_everything_that_fails_an_update_is_told(name: str) -> None:
    """A site agrees to norm, direction and losses before it trains."""
    found = set()
    for step in (0, 100_000):
        policy = replace(TERMS.policy, **{name: getattr(TERMS.policy, name) + step})
        terms = replace(TERMS, policy=policy)
        item = Task("t", "s", "o", terms, 0, TaskPhase.OPEN, 1, 0, 0, None, None, 0, 0)
        found.add(tuple(sentences(item, None, "x")))

    assert len(found) == 2


def test_durations_are_told_in_the_unit_that_fits() -> None:
    """From seconds to days."""
    found = [duration(ms) for ms in (1_500, 60_000, 90 * 60_000, 36 * 3_600_000, 86_400_000)]

    assert found == ["1.5 s", "1 min", "1.5 h", "1.5 d", "1 d"]

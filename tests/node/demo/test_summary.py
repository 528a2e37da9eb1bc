"""What the demo says in the end, of rounds and figures that were made up."""

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from node.demo.splits import Figures
from node.demo.summary import check, document, round_line, tables
from vm.learning import (
    Outcome,
    Round,
    RoundPhase,
    UpdateStatus,
)
from vm.refusal import Refused
from vm.terms import Evidence

NAMES = ("alone", "federated", "pooled", "own_alone", "own_federated", "own_pooled")
ROUND = Round(
    task="task",
    number=5,
    phase=RoundPhase.CLOSED,
    base_version=4,
    beacon=bytes(32),
    opened_height=1,
    opened_ms=1,
    deadline_ms=1,
    seed=bytes(32),
    updates=3,
    parts=(),
    declined=0,
    committed=3,
    sealed=3,
    revealed=3,
    verdicts=6,
    reruns=0,
    accepted=bytes(32),
    outcomes=tuple(
        Outcome(name, f"{name}.trainer", status, code, reason, None, 0, None)
        for name, status, code, reason in (
            ("h-1", UpdateStatus.ACCEPTED, "update.accepted", ""),
            ("h-2", UpdateStatus.REJECTED, "update.norm_bound", "too long"),
            ("h-3", UpdateStatus.ABSENT, "update.absent", "never came"),
        )
    ),
    attestations=(),
    score_bp=6_900,
    model_version=5,
    code="closed",
    reason="",
)


def figures(**means: float) -> Figures:
    """Figures with these means and small errors."""
    return Figures(
        splits=11,
        means={name: means.get(name, 0.6) for name in NAMES},
        errors=dict.fromkeys(NAMES, 0.01),
        chain=dict.fromkeys(NAMES, 0.6),
        gains={
            "everywhere": (means.get("federated", 0.6) - means.get("alone", 0.6), 0.01),
            "own": (means.get("own_federated", 0.6) - means.get("own_alone", 0.6), 0.01),
        },
        reproduced=True,
    )


def result(found: Figures) -> dict[str, Any]:
    """The document of one round."""
    return document(
        wall_s=12.34,
        validators=[{"name": "h-1.validator", "height": 7, "state_root": "ab" * 32}],
        rounds=(ROUND,),
        figures=found,
        audit={"steps": ["one", "two"]},
        verified=True,
        transactions=9,
    )


def text(found: Figures) -> str:
    """The tables as a person reads them, without line ends."""
    console = Console(file=StringIO(), width=300)
    console.print(tables(result(found)))
    output = console.file
    assert isinstance(output, StringIO)
    return " ".join(output.getvalue().split())


def test_the_document_has_the_promised_keys() -> None:
    """Programs read it: every key of the main job is there, with rejected updates and reasons."""
    data = result(figures(federated=0.62, alone=0.53))

    assert data["wall_s"] == 12.3
    assert data["validators"][0].keys() == {"name", "height", "state_root"}
    (found,) = data["rounds"]
    assert (found["round"], found["accepted"], found["score_bp"]) == (5, ["h-1.trainer"], 6_900)
    (rejected,) = found["rejected"]
    assert rejected["member"] == "h-2.trainer"
    assert (rejected["code"], rejected["reason"]) == ("update.norm_bound", "too long")
    assert [other["member"] for other in found["others"]] == ["h-3.trainer"]
    assert data["auc"] == {"alone": 0.53, "federated": 0.62, "pooled": 0.6}
    assert data["auc_own"].keys() == data["auc"].keys()
    assert data["audit"] == {"verified": True, "checked_steps": ["one", "two"]}
    assert data["transactions"] == 9


def test_a_round_in_one_line_says_who_is_out_and_why() -> None:
    """With the held-out loss in nat."""
    assert round_line(ROUND, Evidence.COMMITTED).splitlines() == [
        "round 5: accepted 1 of 3 (committed: bound on chain, not replayed), "
        "held-out log-loss 0.69 nat",
        "  h-2.trainer rejected: update.norm_bound (too long)",
        "  h-3.trainer absent: update.absent (never came)",
    ]


def test_a_failed_round_says_why() -> None:
    """It made no version."""
    failed = replace(ROUND, model_version=None, score_bp=None, reason="too few")

    assert round_line(failed, Evidence.COMMITTED).endswith("\n  failed: too few")


def test_the_finding_follows_the_figures_also_when_they_do_not_flatter() -> None:
    """Four outcomes, four sentences."""
    flattering = text(figures(federated=0.62, alone=0.53, own_federated=0.7))
    equal = text(figures(federated=0.62, alone=0.53))
    worse = text(figures(federated=0.5, alone=0.53, own_federated=0.5))

    assert "better than one trained alone (AUC +0.090 ± 0.010)" in flattering
    assert "on its own patients too the shared model does better (+0.100 ± 0.010)" in flattering
    assert "about as well as the shared one (+0.000 ± 0.010)" in equal
    assert "worse than one trained alone (AUC -0.030 ± 0.010)" in worse
    assert "own model does better than the shared one (-0.100 ± 0.010)" in worse


def test_a_run_that_was_not_reproduced_cannot_be_overlooked() -> None:
    """The sentence is another one."""
    assert "gave the chain's model digest" in text(figures())
    assert "DID NOT GIVE" in text(replace(figures(), reproduced=False))


def test_a_demo_that_shows_too_little_is_refused() -> None:
    """The poisoned update not rejected, the audit of another model, or other weights: each says."""
    shown = result(figures())
    check(shown, 5, "h-2.trainer")

    with pytest.raises(Refused, match=r"demo\.poisoned"):
        check(shown, 5, "h-1.trainer")
    with pytest.raises(Refused, match=r"demo\.poisoned"):
        check(shown, 4, "h-2.trainer")
    with pytest.raises(Refused, match=r"demo\.audit"):
        check(shown | {"audit": {"verified": False}}, 5, "h-2.trainer")
    with pytest.raises(Refused, match=r"demo\.reproduced"):
        check(shown | {"chain_reproduced": False}, 5, "h-2.trainer")

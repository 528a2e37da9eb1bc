"""What a verifier makes of updates: poisoned, repeated, malformed, and what they contribute."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fl.fixed import norm
from fl.spec import logistic_regression
from fl.trace import origin
from fl.train import train
from fl.weights import unpack_update
from tests.fl.dialogue import (
    NUMBERS,
    TASK,
    TERMS,
    aggregate,
)
from tests.harness import organisation
from tests.node.hospital import BASE, BASE_ADDRESS
from tests.node.peer.looks import committed, opened, run, sealed, submitted
from vm.learning import Decision, Round, Update, Verdict
from vm.terms import Valuation


def test_a_poisoned_update_is_failed_by_its_norm(tmp_path: Path) -> None:
    """A sign flip, scaled up, is named for what it is by every verifier."""
    town = opened(tmp_path)

    def poison(*arguments: Any, **options: Any) -> Any:
        result = train(*arguments, **options)
        delta = result.delta * -10
        return replace(result, delta=delta, norm=norm(delta))

    committed(town)
    for number in (1, 2, 3):
        run(town.trainer(number).work(TASK))
    run(town.trainer(4, train=poison).work(TASK))
    for number in (1, 2, 3):
        run(town.verifier(number).work(TASK))

    for number in (1, 2, 3):
        verdict = sealed(town, number)["hospital-4"]
        assert verdict.decision is Decision.FAIL
        assert verdict.code == "update.norm_bound"


def test_an_update_that_repeats_another_is_said_to(tmp_path: Path) -> None:
    """A site that sends its neighbour's update, a little shorter, is named with it by everybody."""
    town = committed(opened(tmp_path))
    run(town.trainer(1).work(TASK))
    first = town.chain.get(Update, TASK, 1, "hospital-1")
    spec, blob = logistic_regression(2), town.blobs[first.blob]
    delta, _ = unpack_update(spec, 24, origin(first), first.segments, blob)

    def copy(*arguments: Any, **options: Any) -> Any:
        shorter = delta // 2
        return replace(train(*arguments, **options), delta=shorter, norm=norm(shorter))

    run(town.trainer(2, train=copy).work(TASK))
    for number in (3, 4):
        run(town.trainer(number).work(TASK))
    run(town.verifier(3).work(TASK))

    found = {name: item.near for name, item in sealed(town, 3).items()}
    assert found == {"hospital-1": "hospital-2", "hospital-2": "hospital-1", "hospital-4": None}


def test_a_blob_that_is_no_update_is_failed(tmp_path: Path) -> None:
    """What was brought under a good address but has no form is the trainer's fault."""
    town = submitted(tmp_path)
    blob = town.chain.get(Update, TASK, 1, "hospital-3").blob
    town.blobs[blob] = bytes(len(town.blobs[blob]))

    run(town.verifier(1).work(TASK))

    assert sealed(town, 1)["hospital-3"].decision is Decision.FAIL
    assert sealed(town, 1)["hospital-2"].decision is Decision.PASS


def test_contributions_are_published_settled_and_paid(tmp_path: Path) -> None:
    """Coarse, for others' passed updates alone, and their lower median is what a round pays by."""
    town = committed(opened(tmp_path, contribution=Valuation.LEAVE_ONE_OUT, rounds=1))
    for number in NUMBERS:
        run(town.trainer(number).work(TASK))

    for _ in ("seal", "reveal"):
        for number in NUMBERS:
            run(town.verifier(number).work(TASK))
    result: dict[str, Any] = {"result": BASE_ADDRESS, "result_bytes": len(BASE)}
    town.chain.applied([aggregate(town.chain, number, **result) for number in (1, 2, 3)])

    outcomes = town.chain.get(Round, TASK, 1).outcomes
    assert sum(outcome.credits for outcome in outcomes) == TERMS.pool
    for outcome in outcomes:
        said = [
            town.chain.get(Verdict, TASK, 1, outcome.organisation, judge).contribution_bp
            for judge in map(organisation, NUMBERS)
            if judge != outcome.organisation
        ]
        assert all(bp is not None and bp % 100 == 0 for bp in said)
        assert outcome.contribution_bp == sorted(bp for bp in said if bp is not None)[1]


def test_an_update_that_is_not_passed_has_no_contribution(tmp_path: Path) -> None:
    """Nor does the verifier's own stop it if that has no form."""
    town = committed(opened(tmp_path, contribution=Valuation.LEAVE_ONE_OUT))
    for number in NUMBERS:
        run(town.trainer(number).work(TASK))
    for number in (1, 3):
        blob = town.chain.get(Update, TASK, 1, organisation(number)).blob
        town.blobs[blob] = bytes(len(town.blobs[blob]))

    run(town.verifier(1).work(TASK))

    found = sealed(town, 1)
    assert found["hospital-3"].contribution_bp is None
    assert found["hospital-2"].contribution_bp is not None

"""What a verifier fails, passes and abstains from, with the reason that a person reads."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from fl.attack import sign_flip
from fl.body import Judged
from fl.experiment import POISON_SCALE
from fl.fixed import INT32_MAX, Ints, norm
from fl.model import Rows
from fl.spec import check_spec, parameter_count
from fl.trace import Origin, Segment, root
from fl.train import Result, train
from fl.trial import terms
from fl.verify import SCORING_ROWS_MIN, Case, Judgement, judge, norm_bound, update_delta
from fl.weights import digest_ints, pack_update
from tests.fl.learning import SPECS, TRAINING, base_of, job_of, rows_of
from vm.digest import WEIGHTS
from vm.learning import Decision, Update, UpdateStatus
from vm.record import Linear, ModelSpec, Output
from vm.shape import NOTE_BYTES_MAX, pack
from vm.terms import MICRO, Evidence, Policy, Terms

SPEC = SPECS["logistic"]
BASE = base_of(SPEC)
SCORING = rows_of(SPEC, 80, seed=9)
POLICY = Policy(norm_factor=3 * MICRO, direction_min=-200_000, margin=50_000)
TERMS = replace(terms("risk", ()), training=TRAINING, policy=POLICY)
ANY_WAY = replace(TERMS, policy=replace(POLICY, direction_min=-MICRO))  # fails no direction
HONEST = train(job_of(SPEC), BASE, rows_of(SPEC))
ORIGIN = Origin("preterm", 1, "hospital-1.trainer", "made-up")
OTHERS = [HONEST.norm * 9 // 10, HONEST.norm * 11 // 10]


def packed(result: Result) -> bytes:
    """The update's file."""
    return pack_update(SPEC, 24, ORIGIN, result.delta, result.segments)


def record_of(result: Result, blob: bytes) -> Update:
    """The chain's record of an update, as its trainer describes it."""
    return Update(
        task="preterm",
        round=1,
        organisation="hospital-1",
        trainer="hospital-1.trainer",
        dataset="made-up",
        base_version=0,
        blob="",
        blob_bytes=len(blob),
        norm=result.norm,
        trace=root(ORIGIN, result.segments),
        segments=len(result.segments),
        data=bytes(32),
        evidence=Evidence.COMMITTED,
        loop=None,
        transaction=b"",
        height=1,
        status=UpdateStatus.SUBMITTED,
        audits_passed=0,
        audits_failed=0,
        audits_unavailable=0,
    )


def judged(
    result: Result, rows: Rows = SCORING, terms: Terms = TERMS, **changes: object
) -> Judgement:
    """The verdict on a result among two honest others; `changes` are to the chain's record."""
    blob = packed(result)
    case = Case(SPEC, 24, terms, BASE, [result.norm, *OTHERS], HONEST.delta, rows)
    judgement = judge(case, replace(record_of(result, blob), **changes), blob)  # type: ignore[arg-type]
    assert len(judgement.reason.encode()) <= NOTE_BYTES_MAX
    return judgement


def moved(delta: Ints) -> Result:
    """A result with another delta whose trace is bent to fit."""
    return sign_flip(BASE, replace(HONEST, delta=-delta), 1)


def test_an_honest_update_passes_with_a_rounded_score() -> None:
    """The score is the log-loss of base + update, to a hundredth of a nat and no finer."""
    judgement = judged(HONEST)

    assert (judgement.decision, judgement.code) == (Decision.PASS, "verdict.pass")
    assert judgement.score_bp is not None
    assert judgement.score_bp % 100 == 0
    assert 0 < judgement.score_bp < 10_000


def test_a_scaled_sign_flip_fails_by_its_norm() -> None:
    """Its trace is in order, so the norm bound must catch it; the reason says by how much."""
    judgement = judged(sign_flip(BASE, HONEST, POISON_SCALE))

    assert (judgement.decision, judgement.code) == (Decision.FAIL, "update.norm_bound")
    assert "at most 3.0 x the round's median" in judgement.reason
    assert "found 4.5 x" in judgement.reason  # 5 over the median, which is the larger other's 1.1
    assert judgement.score_bp is None


def test_a_claimed_norm_must_be_the_update_s() -> None:
    """A small claim does not hide a large update from those who read records only."""
    judgement = judged(HONEST, norm=HONEST.norm - 1)

    assert judgement.code == "update.norm_claimed"


def test_the_bound_is_a_multiple_of_the_lower_median() -> None:
    """Of an even number the lower middle counts, so that half of the updates cannot raise it."""
    assert norm_bound(POLICY, [10, 20, 1_000, 1_000]) == 60


def test_an_update_within_bounds_that_harms_fails_by_losses() -> None:
    """A sign flip by 2 keeps under the norm bound of 3, yet not off the verifier's rows."""
    judgement = judged(sign_flip(BASE, HONEST, 2), terms=ANY_WAY)

    assert (judgement.decision, judgement.code) == (Decision.FAIL, "update.loss")
    assert judgement.score_bp is None


def among(deltas: Sequence[Ints], result: Result, terms: Terms = TERMS) -> Judgement:
    """The verdict on a result in a round of these deltas, its own among them."""
    case = Case.of(SPEC, 24, terms, BASE, deltas, SCORING)
    blob = packed(result)
    return judge(case, record_of(result, blob), blob)


def test_the_honest_mean_turned_around_fails_by_its_direction() -> None:
    """Inner-product manipulation: two of ten know the honest mean and keep within every norm.

    A margin that sites of different rows need, 1 nat, lets it through; its direction does not.
    """
    honest = [train(job_of(SPEC), BASE, rows_of(SPEC, seed=seed)).delta for seed in range(20, 28)]
    turned = moved(-np.mean(honest, axis=0).astype(np.int64) // 2)
    deltas = [*honest, turned.delta, turned.delta]
    wide = replace(TERMS, policy=replace(POLICY, margin=MICRO))
    any_way = replace(wide, policy=replace(wide.policy, direction_min=-MICRO))

    judgement = among(deltas, turned, wide)

    assert (judgement.decision, judgement.code) == (Decision.FAIL, "update.direction")
    assert "at least -0.20 with the round's median update, found -1.00" in judgement.reason
    assert among(deltas, turned, any_way).decision is Decision.PASS
    assert {among(deltas, moved(delta), wide).code for delta in honest} == {"verdict.pass"}


def test_two_of_five_do_not_choose_the_direction() -> None:
    """The median by coordinate stays among the honest values, however far two others are."""
    far = np.full_like(BASE, -1_000_000)
    honest = [np.full_like(BASE, value) for value in (10, 20, 30)]

    case = Case.of(SPEC, 24, TERMS, BASE, [far, honest[2], honest[0], far, honest[1]], SCORING)

    assert case.median.tolist() == [10] * len(BASE)
    assert Case.of(SPEC, 24, TERMS, BASE, honest[:2], SCORING).median.tolist() == [15] * len(BASE)


def test_a_direction_is_judged_before_the_trace() -> None:
    """It needs the delta alone, so that a made-up trace is not what the round gets to read."""
    turned = moved(-HONEST.delta)

    assert judged(turned, trace=bytes(32)).code == "update.direction"
    assert judged(turned, trace=bytes(32), terms=ANY_WAY).code == "trace.root"


@pytest.mark.parametrize(
    ("direction_min", "code"),
    [(-600_000, "verdict.pass"), (-599_999, "update.direction"), (-MICRO, "verdict.pass")],
)
def test_the_least_cosine_itself_passes(direction_min: int, code: str) -> None:
    """(-3, 4) and (1, 0) have a cosine of -0.6 exactly: a millionth more fails."""
    delta = np.zeros_like(BASE)
    delta[:2] = -3 * 1_000, 4 * 1_000
    middle = np.zeros_like(BASE)
    middle[0] = 7
    terms = replace(TERMS, policy=replace(POLICY, direction_min=direction_min))
    result = moved(delta)
    case = Case(SPEC, 24, terms, BASE, [HONEST.norm], middle, SCORING)
    blob = packed(result)

    assert judge(case, record_of(result, blob), blob).code == code


def test_a_round_whose_median_is_zero_fails_no_direction() -> None:
    """Nobody points away from nothing, whatever the task asks."""
    strict = replace(TERMS, policy=replace(POLICY, direction_min=MICRO))
    flipped = moved(-HONEST.delta)

    assert among([HONEST.delta, flipped.delta], HONEST, strict).decision is Decision.PASS
    assert among([np.zeros_like(BASE)] * 3, HONEST, strict).code == "update.norm_bound"


def test_a_fail_by_losses_tells_nothing_finer_than_that() -> None:
    """Two harmful updates and two sets of rows give one reason: else fails answer questions."""
    reasons = {
        judged(sign_flip(BASE, HONEST, 2), rows, ANY_WAY).reason
        for rows in (SCORING, rows_of(SPEC, 80, seed=10))
    }

    assert reasons == {
        "expected log-loss to rise by at most 0.05 nat and 2 standard errors, found a larger rise"
    }


def test_a_harm_within_margin_and_error_passes() -> None:
    """What chance on these rows may explain blames nobody."""
    slight = HONEST.delta // 50

    judgement = judged(moved(-slight), terms=ANY_WAY)

    assert judgement.decision is Decision.PASS


def test_few_scoring_rows_abstain() -> None:
    """A verifier without enough rows of its own says so, and guesses nothing."""
    few = judged(HONEST, SCORING.take(range(SCORING_ROWS_MIN - 1)))
    enough = judged(HONEST, SCORING.take(range(SCORING_ROWS_MIN)))

    assert (few.decision, few.code) == (Decision.ABSTAIN, "verdict.no_scoring_rows")
    assert enough.decision is Decision.PASS


def test_few_scoring_rows_still_fail_what_needs_none() -> None:
    """The norm bound is judged before any row is looked at."""
    flipped = sign_flip(BASE, HONEST, POISON_SCALE)

    assert judged(flipped, SCORING.take([])).code == "update.norm_bound"


def test_a_file_of_another_form_fails() -> None:
    """A truncated blob, and one with another header, are the trainer's fault."""
    blob = packed(HONEST)
    case = Case.of(SPEC, 24, TERMS, BASE, [HONEST.delta], SCORING)
    update = record_of(HONEST, blob)

    assert judge(case, update, blob[:-1]).code == "update.size"
    assert judge(case, update, blob.replace(b"I32", b"F32")).code == "update.header"


def test_weights_pushed_off_the_grid_fail() -> None:
    """Base + update must fit int32 before any norm is compared."""
    far = HONEST.delta.copy()
    far[0] = INT32_MAX - BASE[0] + 1 if BASE[0] > 0 else -INT32_MAX - 1 - BASE[0] - 1
    result = replace(HONEST, delta=far, norm=norm(far))

    assert judged(result).code == "update.range"


def test_an_update_without_its_training_fails() -> None:
    """A free rider who sends the trace of one training with the delta of another is found."""
    judgement = judged(replace(HONEST, delta=HONEST.delta + 1, norm=norm(HONEST.delta + 1)))

    assert (judgement.code, judgement.segment) == ("trace.final", 3)


def deep(weight: int, depth: int) -> tuple[Case, Result]:
    """A model that check_spec takes, whose logits grow with every layer, and an update of it."""
    layers = (Linear(2, 64), *(Linear(64, 64) for _ in range(depth)), Linear(64, 1))
    spec = ModelSpec((2,), layers, Output.BINARY)
    check_spec(spec)
    base = np.full(parameter_count(spec), weight, np.int64)
    delta = np.zeros_like(base)
    delta[:128] = 2**18
    final = digest_ints(WEIGHTS, base + delta)
    segments = (Segment(final, bytes(32), bytes(32), norm(delta)),)
    training = replace(TRAINING, steps=1, snapshot_steps=1)
    rows = Rows(
        torch.ones(20, 2, dtype=torch.float64), torch.tensor([0, 1] * 10), (bytes(32),) * 20
    )
    case = Case.of(spec, 20, replace(TERMS, training=training), base, [delta] * 3, rows)
    return case, Result(delta, norm(delta), segments, HONEST.losses)


def judged_in(case: Case, result: Result) -> Judgement:
    """The verdict on an update of another model than this file's."""
    blob = pack_update(case.spec, case.grid_bits, ORIGIN, result.delta, result.segments)
    judgement = judge(case, record_of(result, blob), blob)
    judged = Judged(
        "hospital-1",
        bytes(32),
        judgement.decision,
        judgement.code,
        judgement.reason,
        judgement.segment,
        judgement.score_bp,
        None,
        None,
        bytes(32),
    )
    pack(judged)  # raises where the verdict fits no transaction's body
    return judgement


def test_a_base_whose_losses_are_not_numbers_is_abstained_from() -> None:
    """A steward's model that overflows must not end the verifier; nobody's update is to blame."""
    judgement = judged_in(*deep(2**31 - 2**20, depth=61))

    assert (judgement.decision, judgement.code) == (Decision.ABSTAIN, "verdict.base_loss")
    assert judgement.score_bp is None


def test_an_update_whose_losses_are_not_numbers_fails() -> None:
    """A trainer cannot stop the others' verifiers by weights that overflow."""
    case, _ = deep(0, depth=61)
    final = np.full_like(case.base, 2**31 - 2**20)
    segments = (Segment(digest_ints(WEIGHTS, final), bytes(32), bytes(32), norm(final)),)
    case = replace(case, norms=[norm(final)] * 3, median=final)

    judgement = judged_in(case, Result(final, norm(final), segments, HONEST.losses))

    assert (judgement.decision, judgement.code) == (Decision.FAIL, "update.loss")


def test_losses_of_hundreds_of_digits_make_a_verdict_that_fits() -> None:
    """Finite losses whose squares overflow are held to a bound; the reason stays a note."""
    judgement = judged_in(*deep(2**31 - 2**20, depth=48))

    assert judgement.decision in (Decision.PASS, Decision.FAIL)
    assert len(judgement.reason.encode()) <= NOTE_BYTES_MAX


def test_a_rise_whose_error_overflows_still_fails() -> None:
    """Without a bound on each loss the standard error is infinite and excuses any rise."""
    case, _ = deep(0, depth=48)
    final = np.full_like(case.base, 2**31 - 2**20)
    segments = (Segment(digest_ints(WEIGHTS, final), bytes(32), bytes(32), norm(final)),)
    case = replace(case, norms=[norm(final)] * 3, median=final)
    case = replace(case, rows=replace(case.rows, labels=torch.tensor([0] * 20)))

    judgement = judged_in(case, Result(final, norm(final), segments, HONEST.losses))

    assert (judgement.decision, judgement.code) == (Decision.FAIL, "update.loss")


def test_a_zero_update_fails() -> None:
    """Who sends nothing new did not train."""
    judgement = judged(moved(np.zeros_like(BASE)))

    assert (judgement.code, judgement.segment) == ("trace.zero", 3)


def test_a_segment_that_moves_further_than_any_update_may_fails() -> None:
    """A made-up trace that jumps far away and back is held to the round's norm bound."""
    far = replace(HONEST.segments[1], move=10 * HONEST.norm)
    result = replace(HONEST, segments=(HONEST.segments[0], far, *HONEST.segments[2:]))

    judgement = judged(result)

    assert (judgement.code, judgement.segment) == ("trace.bound", 1)


def test_a_copied_trace_fails() -> None:
    """Another trainer's update under one's own record is not what one's record commits to."""
    assert judged(HONEST, trainer="hospital-2.trainer").code == "update.origin"
    foreign = replace(ORIGIN, trainer="hospital-2.trainer")
    assert judged(HONEST, trace=root(foreign, HONEST.segments)).code == "trace.root"


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_a_malformed_update_has_no_delta(cut: int) -> None:
    """So it cannot move the medians that honest updates are held to."""
    blob = packed(HONEST)
    update = record_of(HONEST, blob)

    found = update_delta(SPEC, 24, update, blob)

    assert found is not None
    assert found.tolist() == HONEST.delta.tolist()
    assert update_delta(SPEC, 24, update, blob[:cut]) is None


def test_a_claim_cannot_shift_a_median() -> None:
    """Norms in a case come from blobs: of claims the case has none."""
    fields = set(Case.__dataclass_fields__)

    assert fields == {"spec", "grid_bits", "terms", "base", "norms", "median", "rows"}

"""A verifier's judgement of one update: form, norm, direction, trace, then losses on its own rows.

The order matters (design, section 5; field notes, C): losses of few rows miss a scaled sign flip
more often than not, so the norm bound comes first. A norm bound says nothing of direction, so the
cosine with the round's median follows: the honest mean turned around (inner-product manipulation,
Xie et al. 2020) keeps within norms, losses and distances. What cannot be judged is abstained from,
never guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch

from fl.fixed import Int32s, Ints, norm
from fl.metric import Numbers
from fl.model import Rows, build, load, losses
from fl.rules.coordinate import median
from fl.rules.distance import Matrix, cosine_below, gram
from fl.rules.rows import Deltas
from fl.settle import SCORE_STEP_BP, lower_median
from fl.trace import Broken, check_trace, origin, segments_due
from fl.weights import digest_ints, unpack_delta, unpack_update
from vm.digest import WEIGHTS
from vm.learning import Decision, Update
from vm.record import ModelSpec
from vm.refusal import Refused
from vm.shape import NOTE_BYTES_MAX
from vm.terms import MICRO, Policy, Terms

SCORING_ROWS_MIN = 10  # below, a standard error means nothing, and the score tells of single rows
SCORE_MAX_BP = 1_000_000
LOSS_MAX = 100.0  # nat of one row, as SCORE_MAX_BP: beyond, squares of losses could overflow
STANDARD_ERRORS = 2  # of the mean paired rise in loss
BP = 10_000  # basis points of a nat


@dataclass(frozen=True, slots=True)
class Judgement:
    """What goes into a verdict; `reason` has at most NOTE_BYTES_MAX bytes."""

    decision: Decision
    code: str
    reason: str
    segment: int | None = None
    score_bp: int | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """What all updates of a round are judged by.

    `base` are the model's weights [parameters]; `norms` those of the round's well-formed updates
    and `median` [parameters] their median by coordinate, each recomputed from its blob
    (`update_delta`), this one's included; `rows` are the verifier's scoring rows, which are never
    trained or reported on.
    """

    spec: ModelSpec
    grid_bits: int
    terms: Terms
    base: Ints
    norms: Sequence[int]
    median: Ints
    rows: Rows

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        grid_bits: int,
        terms: Terms,
        base: Ints,
        deltas: Sequence[Deltas],
        rows: Rows,
    ) -> "Case":
        """The case of a round whose well-formed updates are `deltas`, each [parameters]."""
        middle = median(deltas) if deltas else np.zeros_like(base)  # of none, none is judged by it
        return cls(spec, grid_bits, terms, base, [norm(one) for one in deltas], middle, rows)


def update_delta(spec: ModelSpec, grid_bits: int, update: Update, blob: bytes) -> Int32s | None:
    """The delta [parameters] of a well-formed update, read in place; None of one that is not."""
    try:
        return unpack_delta(spec, grid_bits, origin(update), update.segments, blob)
    except Refused:
        return None


def judge(case: Case, update: Update, blob: bytes) -> Judgement:
    """Judge an update's blob by its record on the chain; numbered as in docs/protocol.md."""
    try:
        delta = check_form(case, update, blob)
    except Broken as broken:
        return Judgement(Decision.FAIL, broken.code, _note(broken.message), broken.segment)
    except Refused as refused:
        return Judgement(Decision.FAIL, refused.code, _note(refused.message))
    return score(case, delta)


def score(case: Case, delta: Ints) -> Judgement:
    """Judge an update of good form, [parameters], by what it does to the verifier's own rows."""
    # 7. on the verifier's own rows the model gets no worse than chance explains
    if len(case.rows) < SCORING_ROWS_MIN:
        return Judgement(
            Decision.ABSTAIN,
            "verdict.no_scoring_rows",
            f"expected at least {SCORING_ROWS_MIN} scoring rows, found {len(case.rows)}",
        )
    before = row_losses(case, case.base)
    if not np.isfinite(before).all():
        return Judgement(
            Decision.ABSTAIN,
            "verdict.base_loss",
            "expected finite log-losses of the round's base, found others: nothing to compare with",
        )
    return _judge_losses(case.terms.policy, before, row_losses(case, case.base + delta))


def check_form(case: Case, update: Update, blob: bytes) -> Ints:
    """The delta, [parameters]; raises `Refused` for what needs no rows to show.

    It comes out the same for every verifier of a round.
    """
    # 1. the file has the form that the model's spec gives
    delta, segments = unpack_update(
        case.spec, case.grid_bits, origin(update), update.segments, blob
    )
    found = norm(delta)
    # 2. the norm is the claimed one
    if found != update.norm:
        raise Refused("update.norm_claimed", f"expected norm {update.norm}, found {found}")
    # 3. base + update stays on the grid
    final = digest_ints(WEIGHTS, case.base + delta)
    # 4. the norm is within a multiple of the round's lower median
    bound = norm_bound(case.terms.policy, case.norms)
    if found > bound:
        raise Refused("update.norm_bound", _norm_reason(case, found))
    # 5. it does not point away from the round's median
    products = gram([delta, case.median])
    if cosine_below(products, case.terms.policy.direction_min, MICRO):
        raise Refused("update.direction", _direction_reason(case.terms.policy, products))
    # 6. the trace is the committed one and can have led here
    check_trace(
        origin(update),
        segments,
        count=segments_due(case.terms.training, update.evidence),
        claimed=update.trace,
        base=digest_ints(WEIGHTS, case.base),
        final=final,
        norm=found,
        move_max=bound,
    )
    return delta


def norm_bound(policy: Policy, norms: Sequence[int]) -> int:
    """The largest norm in grid units that the policy allows in a round of these norms."""
    middle = lower_median(norms)
    assert middle is not None, "the judged update's own norm is among the round's"
    return policy.norm_factor * middle // MICRO


def _norm_reason(case: Case, found: int) -> str:
    middle = lower_median(case.norms) or 1  # a median of 0 allows nothing that moves
    return (
        f"expected norm at most {case.terms.policy.norm_factor / MICRO:.1f} x the round's median "
        f"of {middle / 2**case.grid_bits:.4f}, found {found / middle:.1f} x"
    )


def _direction_reason(policy: Policy, products: Matrix) -> str:
    """The cosine in words, rounded; it was compared exactly."""
    cosine = products[0][1] / sqrt(products[0][0]) / sqrt(products[1][1])
    return (
        f"expected a cosine of at least {policy.direction_min / MICRO:.2f} with the round's median "
        f"update, found {cosine:.2f}: it points away from the others"
    )


def row_losses(case: Case, weights: Ints) -> Numbers:
    """Log-loss in nat of a model with these weights on each scoring row: [rows]."""
    module = build(case.spec)
    load(module, weights, case.grid_bits)
    with torch.no_grad():
        found: Numbers = losses(
            case.spec.output, module(case.rows.inputs), case.rows.labels
        ).numpy()
    return found


def _judge_losses(policy: Policy, before: Numbers, after: Numbers) -> Judgement:
    """Judge by the paired rise of log-loss; `before` and `after` in nat: [rows].

    Fails only beyond margin + 2 standard errors, so that few rows excuse rather than accuse.
    A fail tells no number of the verifier's rows, and a score, in hundredths of a nat, comes only
    with a pass: more would let a trainer ask about single rows. Each loss counts up to LOSS_MAX.
    """
    if not np.isfinite(after).all():
        return Judgement(
            Decision.FAIL, "update.loss", "expected finite log-losses, found one that is not"
        )
    before, after = np.minimum(before, LOSS_MAX), np.minimum(after, LOSS_MAX)
    rise = after - before
    mean = float(rise.mean())
    error = float(rise.std(ddof=1)) / sqrt(len(rise))
    margin = policy.margin / MICRO
    if mean > margin + STANDARD_ERRORS * error:
        return Judgement(
            Decision.FAIL,
            "update.loss",
            f"expected log-loss to rise by at most {margin:.2f} nat and {STANDARD_ERRORS} standard "
            "errors, found a larger rise",
        )
    steps = round(float(np.mean(after)) * BP / SCORE_STEP_BP)
    score_bp = min(steps * SCORE_STEP_BP, SCORE_MAX_BP)
    return Judgement(
        Decision.PASS, "verdict.pass", f"log-loss {score_bp / BP:.2f} nat", score_bp=score_bp
    )


def _note(message: str) -> str:
    """As much of a message as fits a verdict."""
    return message.encode()[:NOTE_BYTES_MAX].decode(errors="ignore")

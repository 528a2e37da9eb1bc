"""What a verifier makes of a round's updates once all is at hand: from records, blobs and rows.

Plain functions, some of them for a thread: they wait for nothing and keep nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import structlog

from fl.body import Judged, RerunVerdict
from fl.fixed import Int32s
from fl.model import Rows
from fl.replay import Replayed, suspicious
from fl.rules.rows import Deltas
from fl.settle import aggregation_weight
from fl.trace import origin
from fl.verify import BP, Case, Judgement, judge, update_delta
from fl.weights import unpack_delta, unpack_update, unpack_weights
from fl.worth import contributions_bp
from node.peer.stage import Stage
from vm.digest import DIGEST_BYTES
from vm.learning import (
    Decision,
    Update,
    Verdict,
)
from vm.refusal import Refused
from vm.terms import MICRO, Site, Valuation

Profiles = dict[str, tuple[tuple[int, ...], int | None]]  # by organisation: moves, and score

NO_BLIND = bytes(DIGEST_BYTES)  # of a judgement that is not sealed yet

log = structlog.get_logger()


def profiles_of(
    stage: Stage, updates: list[Update], found: list[Judgement], blobs: dict[str, bytes]
) -> Profiles:
    """The moves of each segment and the score of every update that would pass."""
    spec, bits = stage.base.spec, stage.base.grid_bits
    profiles: Profiles = {}
    for update, judgement in zip(updates, found, strict=True):
        if judgement.decision is Decision.PASS:
            blob = blobs[update.organisation]
            _, segments = unpack_update(spec, bits, origin(update), update.segments, blob)
            moves = tuple(segment.move for segment in segments)
            profiles[update.organisation] = moves, judgement.score_bp
    return profiles


def suspicion(
    stage: Stage, organisation: str, profiles: Profiles, replayed: Sequence[Replayed]
) -> str | None:
    """Why an update whose drawn segments passed is replayed whole; None if it looks usual."""
    moves, score_bp = profiles[organisation]
    others = [found for name, found in profiles.items() if name != organisation]
    margin_bp = stage.task.terms.policy.margin * BP // MICRO
    scores = [score for _, score in others if score is not None]
    return suspicious(replayed, moves, [found for found, _ in others], score_bp, scores, margin_bp)


def deltas_of(stage: Stage, updates: list[Update], blobs: dict[str, bytes]) -> dict[str, Int32s]:
    """The deltas of well-formed updates by organisation, in order of sites."""
    spec, bits = stage.base.spec, stage.base.grid_bits
    found = {
        update.organisation: update_delta(spec, bits, update, blobs[update.organisation])
        for update in updates
        if update.organisation in blobs
    }
    return {name: delta for name, delta in found.items() if delta is not None}


def case_of(stage: Stage, base: bytes, rows: Rows, deltas: Mapping[str, Int32s]) -> Case:
    """What all updates of the round are judged by, from the model's file and rows to score on."""
    spec, bits = stage.base.spec, stage.base.grid_bits
    weights = unpack_weights(spec, bits, base)
    return Case.of(spec, bits, stage.task.terms, weights, list(deltas.values()), rows)


def judge_all(case: Case, mine: list[Update], blobs: dict[str, bytes]) -> list[Judgement]:
    """What form, direction and losses say of each of `mine`, in their order."""
    return [_judgement(case, update, blobs.get(update.organisation)) for update in mine]


def _judgement(case: Case, update: Update, blob: bytes | None) -> Judgement:
    if blob is None:
        return Judgement(
            Decision.ABSTAIN,
            "verdict.no_blob",
            "expected the update's blob from a validator, found none in time",
        )
    return judge(case, update, blob)


def passing(updates: list[Update], found: Sequence[Judgement]) -> frozenset[str]:
    """The organisations whose updates pass."""
    pairs = zip(updates, found, strict=True)
    return frozenset(
        update.organisation for update, made in pairs if made.decision is Decision.PASS
    )


def contributions(
    case: Case,
    stage: Stage,
    site: Site,
    updates: list[Update],
    passed: frozenset[str],
    blobs: dict[str, bytes],
) -> dict[str, int]:
    """What each update that passes contributes on our rows, in basis points, if the task asks.

    Our own hospital's takes part, so that what the others add is what they add to it.
    """
    terms = stage.task.terms
    if terms.contribution is Valuation.NONE or not passed:
        return {}
    spec, bits = stage.base.spec, stage.base.grid_bits
    deltas: dict[str, Deltas] = {}
    for update in updates:
        name, blob = update.organisation, blobs.get(update.organisation)
        if blob is not None and (name in passed or name == site.organisation):
            try:
                deltas[name] = unpack_delta(spec, bits, origin(update), update.segments, blob)
            except Refused:
                assert name == site.organisation, "what passes has the form"
    weights = {other.organisation: aggregation_weight(terms, other) for other in terms.sites}
    assert stage.round.seed is not None, "submissions have ended"
    return contributions_bp(case, deltas, weights, site.organisation, stage.round.seed)


def judged(
    update: Update, found: Judgement, contribution_bp: int | None, near: str | None
) -> Judged:
    """A judgement as it is sealed but for its blind, told in the log."""
    log.info(
        "update.judged",
        task=update.task,
        round=update.round,
        organisation=update.organisation,
        decision=found.decision.value,
        code=found.code,
        reason=found.reason,
        near=near,
    )
    return Judged(
        organisation=update.organisation,
        update=update.transaction,
        decision=found.decision,
        code=found.code,
        reason=found.reason,
        segment=found.segment,
        score_bp=found.score_bp,
        contribution_bp=contribution_bp,
        near=near,
        blind=NO_BLIND,
    )


def rerun_body(
    mine: Verdict, update: Update, found: Judgement | None, named: Sequence[int]
) -> RerunVerdict:
    """A fail if we found that of a named segment; else our word again, and what we found as reason.

    The chain takes no fail of another segment, and who insists holds up the round.
    """
    said = RerunVerdict(
        task=update.task,
        round=update.round,
        organisation=update.organisation,
        update=update.transaction,
        decision=mine.decision,
        code=mine.code,
        reason=mine.reason,
        segment=None,
    )
    match found:
        case None:
            return said
        case Judgement(decision=Decision.FAIL, segment=int(segment)) if segment in named:
            decision = Decision.FAIL
            return replace(
                said, decision=decision, code=found.code, reason=found.reason, segment=segment
            )
        case _:
            return replace(said, code=found.code, reason=found.reason)

"""What verifiers send into a round, each lie and each haste of theirs refused by its code."""

from dataclasses import replace
from typing import Any

import pytest

from fl.body import Judged, RevealVerdicts
from fl.challenge import round_seed
from node.program import program
from tests.fl.dialogue import (
    ABSTAINING,
    NUMBERS,
    TASK,
    approvals,
    commit,
    commits,
    dataset,
    failing,
    judgements,
    model,
    opened,
    opening,
    proof,
    rerun,
    revealing,
    sealing,
    secret,
    settled,
    speak,
    submitted,
)
from tests.harness import Chain, Item
from vm.learning import (
    CONTRIBUTION_BP_MAX,
    Attestation,
    Commitment,
    Decision,
    Holdout,
    Outcome,
    Round,
    RoundPhase,
    Stored,
    UpdateStatus,
    Verdict,
)
from vm.record import PARTICIPANTS_MAX
from vm.shape import CODE_BYTES_MAX, HEIGHT_MAX, NAME_BYTES_MAX, NOTE_BYTES_MAX, pack
from vm.sparse import VALUE_BYTES_MAX
from vm.terms import Evidence, Valuation
from vm.transaction import BODY_BYTES_MAX

REPLAYED: dict[str, Any] = {"evidence": Evidence.REPLAYED}


def round_of(chain: Chain) -> Round:
    """The first round."""
    return chain.get(Round, TASK, 1)


def sealed(chain: Chain, *judges: int) -> Chain:
    """All verifiers have sealed passes of everything; the round is in phase REVEAL."""
    chain.applied([sealing(judge, judgements(chain, judge)) for judge in judges or NUMBERS])
    if round_of(chain).phase is RoundPhase.VERDICT:
        chain.applied(time_ms=round_of(chain).deadline_ms)
    return chain


def five_with_four_sites() -> Chain:
    """A network of five hospitals of which the first four train."""
    chain = Chain(program(), 5)
    chain.applied([*(dataset(n) for n in (1, 2, 3, 4)), model(), opening()])
    return chain


# Commitments


def test_the_seed_is_known_only_after_every_secret_is_bound() -> None:
    """It comes from the header before the block that ends submissions, not from an earlier one."""
    chain = opened()
    chain.applied([proof(n) for n in NUMBERS])
    chain.applied([commit(n) for n in (1, 2, 3)])
    assert (round_of(chain).phase, round_of(chain).seed) == (RoundPhase.SUBMIT, None)
    parent = chain.parent

    chain.applied([commit(4)])

    assert round_of(chain).phase is RoundPhase.VERDICT
    assert round_of(chain).seed == round_seed(parent, TASK, 1)


def test_a_late_commitment_is_refused_and_its_verifier_has_no_part() -> None:
    """Who could commit once the seed is known would choose its segments, so it may not judge."""
    chain = opened()
    chain.applied([*(proof(n) for n in NUMBERS), *(commit(n) for n in (1, 2, 3))])
    chain.applied(time_ms=round_of(chain).deadline_ms)

    assert chain.refused(commit(4)) == "round.phase"
    assert chain.refused(sealing(4, judgements(chain, 4))) == "commitment.missing"
    sealed(chain, 1, 2, 3)

    assert round_of(chain).phase is RoundPhase.REVEAL  # nobody waits for the fourth
    assert chain.refused(revealing(4, judgements(chain, 4))) == "commitment.missing"


def test_a_second_commitment_is_refused() -> None:
    """The first stands: nobody keeps two secrets and opens the better one."""
    chain = opened()
    chain.applied([commit(1)])

    assert chain.refused(commit(1, commitment=bytes(32))) == "commitment.duplicate"
    assert chain.get(Commitment, TASK, 1, "hospital-1").commitment != bytes(32)


def test_a_verifier_without_a_site_binds_nothing() -> None:
    """A verifier of a hospital outside the task has no say in it."""
    chain = five_with_four_sites()

    assert chain.refused(commit(5)) == "verdict.verifier"


def test_a_copied_commitment_cannot_be_opened() -> None:
    """It names its verifier, so that neither the copy nor the secret of another serves."""
    chain = opened()
    _, _, others = commit(2)
    chain.applied([*(proof(n) for n in NUMBERS), *(commit(n) for n in (2, 3, 4))])
    chain.applied([("hospital-1.verifier", "learning.commit", others)])
    found = judgements(chain, 1)
    chain.applied([sealing(1, found)])
    sealed(chain, 2, 3, 4)
    chain.applied([revealing(2, judgements(chain, 2))])

    stolen = revealing(1, found, secret=secret(2))

    assert chain.refused(stolen) == "verdict.secret"


# Seals


def test_a_second_seal_is_refused() -> None:
    """Nobody changes its mind between sealing and revealing."""
    chain = submitted(opened())
    chain.applied([sealing(1, judgements(chain, 1))])

    assert chain.refused(sealing(1, (), seal=bytes(32))) == "seal.duplicate"


def test_a_seal_before_the_updates_are_there_is_refused() -> None:
    """Neither seal nor reveal comes before its phase, nor again after it."""
    chain = opened()
    chain.applied(commits())
    early = [sealing(1, ()), revealing(1, ())]
    assert [chain.refused(item) for item in early] == ["round.phase"] * 2
    chain.applied([proof(n) for n in NUMBERS])

    assert chain.refused(revealing(1, judgements(chain, 1))) == "round.phase"
    sealed(chain)
    assert chain.refused(sealing(1, ())) == "round.phase"
    chain.applied([revealing(n, judgements(chain, n)) for n in NUMBERS])
    assert chain.refused(revealing(1, judgements(chain, 1))) == "round.phase"


def test_a_seal_copied_from_another_cannot_be_revealed() -> None:
    """A free rider that repeats another's seal, and later its judgements, is left with nothing."""
    chain = submitted(opened())
    _, _, honest = sealing(2, judgements(chain, 2))
    rider: Item = ("hospital-1.verifier", "learning.seal", honest)
    chain.applied([rider, *(sealing(n, judgements(chain, n)) for n in (2, 3, 4))])
    chain.applied([revealing(2, judgements(chain, 2))])

    own = chain.refused(revealing(1, judgements(chain, 1)))
    copied = chain.refused(revealing(1, judgements(chain, 2)))

    assert (own, copied) == ("verdict.seal", "verdict.seal")


# Reveals


def test_what_is_revealed_is_what_was_sealed() -> None:
    """After the others' verdicts are known, not one word of one's own can be changed."""
    chain = sealed(submitted(opened()))
    chain.applied([revealing(n, judgements(chain, n)) for n in (2, 3)])
    found = judgements(chain, 1)

    for change in ({"score_bp": 4_900}, {"reason": "otherwise"}, failing()):
        changed = (replace(found[0], **change), *found[1:])
        assert chain.refused(revealing(1, changed)) == "verdict.seal"
    assert chain.refused(revealing(1, found[1:])) == "verdict.seal"
    chain.applied([revealing(1, found)])

    assert chain.get(Commitment, TASK, 1, "hospital-1").secret == secret(1)


def test_another_secret_than_the_committed_one_is_refused() -> None:
    """The secret cannot be chosen once the seed, and so the draw, is known."""
    chain = sealed(submitted(opened()))

    changed = revealing(1, judgements(chain, 1), secret=bytes(32))

    assert chain.refused(changed) == "verdict.secret"
    assert chain.get(Commitment, TASK, 1, "hospital-1").secret is None


def test_a_reveal_without_a_seal_is_refused() -> None:
    """Who has sealed nothing in time has seen the others' verdicts by now."""
    chain = sealed(submitted(opened()), 1, 2, 3)

    assert chain.refused(revealing(4, judgements(chain, 4))) == "verdict.seal"


def test_a_second_reveal_is_refused() -> None:
    """Verdicts count once."""
    chain = sealed(submitted(opened()))
    chain.applied([revealing(1, judgements(chain, 1))])

    assert chain.refused(revealing(1, judgements(chain, 1))) == "verdict.duplicate"
    assert (round_of(chain).revealed, round_of(chain).verdicts) == (1, 3)


@pytest.mark.parametrize(
    "wrong",
    ["own", "missing", "twice", "order", "update"],
)
def test_judgements_are_one_on_each_update_of_the_others(wrong: str) -> None:
    """None on one's own, none left out, none twice, in one order, of the very updates."""
    chain = submitted(opened())
    first, second, third = judgements(chain, 1)
    (own,) = (item for item in judgements(chain, 2) if item.organisation == "hospital-1")
    found = {
        "own": (own, first, second, third),
        "missing": (first, second),
        "twice": (first, first, second),
        "order": (second, first, third),
        "update": (replace(first, update=bytes(32)), second, third),
    }[wrong]
    honest = [sealing(n, judgements(chain, n)) for n in (2, 3, 4)]
    chain.applied([sealing(1, found, scores=3), *honest])

    assert chain.refused(revealing(1, found)) == "verdict.updates"
    assert chain.state.get(Verdict, TASK, 1, "hospital-2", "hospital-1") is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"segment": 0}, "verdict.segment"),  # in a pass
        (failing() | {"segment": 4}, "verdict.segment"),  # of segments 0 to 3
        ({"score_bp": 5_050}, "verdict.score"),
        (failing() | {"score_bp": 5_000}, "verdict.score"),
        (ABSTAINING | {"score_bp": 5_000}, "verdict.score"),
        ({"contribution_bp": 100}, "verdict.contribution"),  # which the task does not ask for
    ],
)
def test_a_judgement_that_says_more_than_it_may_is_refused(
    changes: dict[str, Any], code: str
) -> None:
    """Segments in fails, coarse scores in passes, contributions where they are asked for."""
    chain = submitted(opened())
    found = judgements(chain, 1, said={(1, 2): changes})
    honest = [sealing(n, judgements(chain, n)) for n in (2, 3, 4)]
    chain.applied([sealing(1, found, scores=3), *honest])

    assert chain.refused(revealing(1, found)) == code
    assert chain.state.get(Verdict, TASK, 1, "hospital-3", "hospital-1") is None
    assert round_of(chain).verdicts == 0


@pytest.mark.parametrize("near", ["hospital-2", "hospital-9"])
def test_an_update_is_near_another_one_of_its_round_or_none(near: str) -> None:
    """Not itself, and nobody who sent nothing."""
    chain = submitted(opened())
    said = {(1, 2): {"near": near}}
    found = {judge: judgements(chain, judge, said=said) for judge in NUMBERS}
    chain.applied([sealing(judge, items) for judge, items in found.items()])

    assert chain.refused(revealing(1, found[1])) == "verdict.near"


def test_most_verifiers_say_whose_update_another_repeats() -> None:
    """It is shown in the outcome and fails nobody; a single voice shows nothing."""
    chain = submitted(opened())

    speak(chain, {(1, 2): {"near": "hospital-3"}, (4, 2): {"near": "hospital-3"}})

    outcomes = round_of(chain).outcomes
    assert [item.near for item in outcomes] == [None, "hospital-3", None, None]
    assert outcomes[1].status is UpdateStatus.ACCEPTED
    alone = speak(submitted(opened()), {(1, 2): {"near": "hospital-3"}})
    assert round_of(alone).outcomes[1].near is None


def test_sealed_scores_are_counted_against_the_datasets_budget() -> None:
    """One for each update of others, two with contributions, whatever is found of them."""
    chain = submitted(opened(contribution=Valuation.LEAVE_ONE_OUT))
    found = {judge: judgements(chain, judge, said={(2, 1): failing()}) for judge in NUMBERS}

    chain.applied([sealing(n, found[n], scores=6 if n == 1 else 3) for n in NUMBERS])

    counts = [chain.get(Holdout, f"opt-{number}").scores for number in NUMBERS]
    assert counts == [6, 3, 3, 3]
    bound = chain.get(Commitment, TASK, 1, "hospital-2")
    assert bound.scores == 3  # who failed one reserves as many as who passed all


@pytest.mark.parametrize("scores", [1, 2, 4, 6])
def test_a_seal_tells_nothing_of_what_it_binds(scores: int) -> None:
    """A number between none and all would say how many pass, before everybody has sealed."""
    chain = submitted(opened())

    assert chain.refused(sealing(1, judgements(chain, 1), scores=scores)) == "seal.scores"


def test_who_has_no_budget_left_seals_again_without_scores() -> None:
    """Refused before it is bound, it is not silent; a judgement without a number is as good."""
    chain = Chain(program())
    few = [dataset(1, scores_max=2), *(dataset(n) for n in (2, 3, 4))]
    chain.applied([*few, model(), opening(), *approvals()])
    submitted(chain)
    loud = judgements(chain, 1)
    mute = judgements(chain, 1, said={(1, n): {"score_bp": None} for n in (2, 3, 4)})

    assert chain.refused(sealing(1, loud)) == "seal.budget"
    assert chain.state.get(Holdout, "opt-1") is None
    others = [sealing(n, judgements(chain, n)) for n in (2, 3, 4)]
    chain.applied([sealing(1, mute, scores=0), *others])
    chain.applied([revealing(1, mute), *(revealing(n, judgements(chain, n)) for n in (2, 3, 4))])

    assert round_of(chain).phase is RoundPhase.AGGREGATE


def test_scores_that_were_not_reserved_are_not_revealed() -> None:
    """A seal that says less than it binds would publish beyond the budget."""
    chain = submitted(opened())
    found = {judge: judgements(chain, judge) for judge in NUMBERS}
    seals = [sealing(n, found[n], scores=0 if n == 1 else 3) for n in NUMBERS]
    chain.applied(seals)

    assert chain.refused(revealing(1, found[1])) == "verdict.scores"


def test_what_is_withheld_counts_as_silence_and_shows() -> None:
    """A verifier that dislikes what it sealed can only take its voice out, not change it."""
    chain = sealed(submitted(opened()))
    chain.applied([revealing(n, judgements(chain, n)) for n in (1, 2, 3)])
    chain.applied(time_ms=round_of(chain).deadline_ms)

    found = chain.get(Commitment, TASK, 1, "hospital-4")

    assert round_of(chain).phase is RoundPhase.AGGREGATE
    assert found.seal is not None
    assert found.secret is None


# The end


def test_settled_rounds_take_nothing_more() -> None:
    """After the verdicts are settled every voice is late."""
    chain = settled(submitted(opened()))
    found = judgements(chain, 1)

    late = [commit(1), sealing(1, found), revealing(1, found), rerun(chain, 1, 2)]

    assert [chain.refused(item) for item in late] == ["round.phase"] * 4


# Bounds


def test_the_largest_reveal_fits_a_transaction_and_its_round_a_record() -> None:
    """A task of as many sites as there may be, each of whose words is as long as it may be."""
    name, address = "n" * NAME_BYTES_MAX, "b" + "a" * 60
    judged = Judged(
        organisation=name,
        update=bytes(32),
        decision=Decision.ABSTAIN,
        code="c" * CODE_BYTES_MAX,
        reason="r" * NOTE_BYTES_MAX,
        segment=HEIGHT_MAX,
        score_bp=1_000_000,
        contribution_bp=-CONTRIBUTION_BP_MAX,
        near=name,
        blind=bytes(32),
    )
    outcome = Outcome(
        organisation=name,
        trainer=name,
        status=UpdateStatus.UNDECIDED,
        code=judged.code,
        reason=judged.reason,
        contribution_bp=-CONTRIBUTION_BP_MAX,
        credits=HEIGHT_MAX,
        near=name,
    )
    attestation = Attestation(name, bytes(32), address, 2**32, Stored(address, 2**32))
    rnd = round_of(settled(submitted(opened())))

    body = RevealVerdicts(name, HEIGHT_MAX, bytes(32), (judged,) * PARTICIPANTS_MAX)
    full = replace(
        rnd,
        outcomes=(outcome,) * PARTICIPANTS_MAX,
        attestations=(attestation,) * PARTICIPANTS_MAX,
    )

    assert len(pack(body)) <= BODY_BYTES_MAX
    assert len(pack(full)) <= VALUE_BYTES_MAX
    with pytest.raises(AssertionError):
        pack(replace(body, judgements=(judged,) * (PARTICIPANTS_MAX + 1)))

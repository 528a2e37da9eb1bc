"""The rules of a lineage: each one broken by itself is found."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from node.audit.lineage import trace
from node.audit.prove import newest
from node.audit.rules import check_lineage
from node.audit.signers import acts, keys_of
from tests.node.network import (
    HOSPITALS,
    MODEL,
    POISONER,
    TASK,
    Network,
    address,
    aggregate,
    agree,
    fail_round,
    grow,
    learn,
    open_network,
    open_task,
    run_round,
    say,
)
from tests.vm.council import admission, propose, seating, unseating
from vm.learning import (
    Commitment,
    Decision,
    Outcome,
    Round,
    RoundPhase,
    SiteApproval,
    Task,
    Update,
    UpdateStatus,
    Verdict,
)
from vm.record import Dataset, Ending, KeyEnd, Member, MemberKeys, Model, Role
from vm.refusal import Refused
from vm.state import Record

R = TypeVar("R", bound=Record)


class Altered:
    """A state in which some records are other than they are; None stands for none."""

    def __init__(self, network: Network) -> None:
        self._view = newest(network.chain)
        self.changes: dict[tuple[str, tuple[str | int, ...]], Record | None] = {}

    def get(self, cls: type[R], *key: str | int) -> R | None:
        """The record, altered or not."""
        name = (cls.KIND, key)
        if name in self.changes:
            return self.changes[name]  # type: ignore[return-value]
        return self._view.get(cls, *key)

    def alter(self, cls: type[Record], *key: str | int, **changes: object) -> None:
        """Replace fields of a record."""
        record = self.get(cls, *key)
        assert record is not None
        self.changes[(cls.KIND, key)] = replace(record, **changes)  # type: ignore[type-var]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A chain on which a task of two rounds ran; nothing here writes to it."""
    folder: Path = tmp_path_factory.mktemp("lineage")
    with open_network(folder) as made:
        learn(made, 2)
        yield made


def outcomes(network: Network) -> list[Outcome]:
    """The outcomes of round 1."""
    rnd = newest(network.chain).get(Round, TASK, 1)
    assert rnd is not None
    return list(rnd.outcomes)


def broken(network: Network, state: Altered) -> str:
    """The rule that version 2's lineage breaks."""
    with pytest.raises(Refused) as caught:
        check_lineage(trace(state, MODEL, 2))
    return caught.value.code


def test_a_real_lineage_keeps_every_rule(network: Network) -> None:
    """Two rounds of four hospitals give nine sentences of what was checked."""
    lineage = trace(newest(network.chain), MODEL, 2)
    assert [model.version for model in lineage.versions] == [2, 1, 0]
    assert len(lineage.rounds) == 2
    assert [len(site.verdicts) for site in lineage.rounds[0].sites] == [3] * 4
    steps = check_lineage(lineage)
    assert len(steps) == 9
    assert "8 updates settled by 24 verdicts" in steps[4]
    assert "of 16 members, each with a key valid then" in steps[8]


def test_rounds_that_failed_on_the_way_are_part_of_the_lineage(tmp_path: Path) -> None:
    """A round that failed for want of updates stands between those that made versions."""
    with open_network(tmp_path) as network:
        open_task(network, 2)
        run_round(network, 1)
        fail_round(network, 2)
        run_round(network, 3)

        lineage = trace(newest(network.chain), MODEL, 2)

        phases = [found.round.phase.value for found in lineage.rounds]
        assert phases == ["closed", "failed", "closed"]
        assert "3 rounds, 1 of them failed" in check_lineage(lineage)[3]
        state = Altered(network)
        state.alter(Round, TASK, 2, model_version=2)
        assert broken(network, state) == "lineage.round"


def test_a_registered_model_has_a_lineage_of_its_own(network: Network) -> None:
    """Version 0 came from no task."""
    lineage = trace(newest(network.chain), MODEL, 0)
    assert lineage.tasks == ()
    check_lineage(lineage)


def test_a_version_that_is_not_there_has_no_lineage(network: Network) -> None:
    """What is missing is named."""
    with pytest.raises(Refused, match=r"lineage\.missing.*model preterm 7"):
        trace(newest(network.chain), MODEL, 7)


@pytest.mark.parametrize(
    ("cls", "key", "changes", "code"),
    [
        (Model, (MODEL, 0), {"task": TASK, "round": 1}, "lineage.version"),
        (Model, (MODEL, 1), {"task": None, "round": None}, "lineage.version"),
        (Model, (MODEL, 1), {"grid_bits": 24}, "lineage.version"),
        (Model, (MODEL, 1), {"round": 2}, "lineage.round"),
        (Model, (MODEL, 2), {"weights": address("z")}, "lineage.aggregate"),
        (Model, (MODEL, 2), {"contributions": ()}, "lineage.contribution"),
        (Task, (TASK,), {"base_version": 1}, "lineage.round"),
        (Task, (TASK,), {"opened_height": 0}, "lineage.dataset"),
        (Dataset, ("hospital-2.opt",), {"registered_height": 9}, "lineage.dataset"),
        (Dataset, ("hospital-2.opt",), {"organisation": "hospital-1"}, "lineage.dataset"),
        (Member, ("hospital-2.trainer",), {"role": Role.STEWARD}, "lineage.member"),
        (Member, ("hospital-2.verifier",), {"organisation": "hospital-1"}, "lineage.member"),
        (Member, ("hospital-2.verifier",), {"enrolled_height": 9}, "lineage.member"),
        (Member, ("hospital-1.steward",), {"role": Role.AUDITOR}, "lineage.member"),
        (SiteApproval, (TASK, "hospital-2"), {"terms": bytes(32)}, "lineage.approval"),
        (SiteApproval, (TASK, "hospital-2"), {"approved_height": 9}, "lineage.approval"),
        (SiteApproval, (TASK, "hospital-2"), {"trainer": "hospital-1.trainer"}, "lineage.approval"),
        (Round, (TASK, 1), {"phase": RoundPhase.AGGREGATE}, "lineage.round"),
        (Round, (TASK, 1), {"phase": RoundPhase.FAILED}, "lineage.round"),
        (Round, (TASK, 2), {"base_version": 0}, "lineage.round"),
        (Round, (TASK, 2), {"model_version": 1}, "lineage.round"),
        (Round, (TASK, 1), {"outcomes": ()}, "lineage.outcome"),
        (Round, (TASK, 1), {"score_bp": 100}, "lineage.outcome"),
        (Round, (TASK, 1), {"accepted": bytes(32)}, "lineage.accepted"),
        (Round, (TASK, 1), {"attestations": ()}, "lineage.aggregate"),
        (Update, (TASK, 1, POISONER), {"status": UpdateStatus.ACCEPTED}, "lineage.outcome"),
        (Update, (TASK, 1, "hospital-1"), {"blob": address("z")}, "lineage.accepted"),
        (Update, (TASK, 1, "hospital-1"), {"trainer": "hospital-2.trainer"}, "lineage.update"),
        (Update, (TASK, 1, "hospital-1"), {"dataset": "hospital-2.opt"}, "lineage.update"),
        (Update, (TASK, 1, "hospital-1"), {"base_version": 7}, "lineage.update"),
        (
            Verdict,
            (TASK, 1, "hospital-1", "hospital-2"),
            {"verifier": "hospital-3.verifier"},
            "lineage.verdict",
        ),
        (
            Verdict,
            (TASK, 1, "hospital-1", "hospital-2"),
            {"reason": "otherwise"},
            "lineage.commitment",
        ),
        (Commitment, (TASK, 1, "hospital-2"), {"secret": bytes(32)}, "lineage.commitment"),
        (Commitment, (TASK, 1, "hospital-2"), {"secret": None}, "lineage.commitment"),
        (Commitment, (TASK, 1, "hospital-2"), {"seal": bytes(32)}, "lineage.commitment"),
        (Commitment, (TASK, 1, "hospital-2"), {"commitment": bytes(32)}, "lineage.commitment"),
    ],
)
def test_each_broken_rule_is_named(
    network: Network,
    cls: type[Record],
    key: tuple[str | int, ...],
    changes: dict[str, object],
    code: str,
) -> None:
    """One record altered breaks the rule that guards it."""
    state = Altered(network)
    state.alter(cls, *key, **changes)
    assert broken(network, state) == code


@pytest.mark.parametrize(
    ("member", "what"),
    [
        ("hospital-1.steward", "task preterm-1"),
        ("hospital-2.steward", "dataset hospital-2.opt"),
        ("hospital-2.trainer", "approval of task preterm-1"),
        ("hospital-3.verifier", "verdict in round 1 of preterm-1"),
        ("hospital-4.validator", "aggregate in round 1 of preterm-1"),
    ],
)
def test_a_signature_by_a_key_that_was_not_valid_then_is_found(
    network: Network, member: str, what: str
) -> None:
    """A key that was retired before, or one that came later, signed nothing of this."""
    keys = newest(network.chain).get(MemberKeys, member)
    assert keys is not None
    (held,) = keys.intervals
    retired = replace(held, end=KeyEnd(0, Ending.REVOKED))
    for interval in (retired, replace(held, first=2**53)):
        if what.startswith("aggregate") and interval is not retired:
            continue  # an aggregate may come late
        state = Altered(network)
        state.alter(MemberKeys, member, intervals=(interval,))
        with pytest.raises(Refused, match=what) as caught:
            check_lineage(trace(state, MODEL, 2))
        assert caught.value.code == "lineage.key"


def test_keys_of_every_signer_are_told(network: Network) -> None:
    """A rotated key is shown beside the one that was valid at the time."""
    lineage = trace(newest(network.chain), MODEL, 2)
    act = next(act for act in acts(lineage) if act.what.startswith("update"))
    old = lineage.signers[act.member].keys.intervals[0]
    new = replace(old, public_key=bytes(32), first=act.last + 1)
    state = Altered(network)
    rotated = replace(old, end=KeyEnd(act.last + 1, Ending.ROTATED))
    state.alter(MemberKeys, act.member, intervals=(rotated, new))

    found = trace(state, MODEL, 2)

    assert keys_of(lineage, act) == (old,)
    assert keys_of(found, act) == (rotated,)
    check_lineage(found)


def test_a_version_of_no_round_of_its_task_is_found(network: Network) -> None:
    """Rounds that all fit are not enough while a version names another round."""
    state = Altered(network)
    state.alter(Task, TASK, base_version=1)
    state.alter(Model, MODEL, 1, round=7)
    state.alter(Model, MODEL, 2, round=1)
    state.alter(Round, TASK, 1, base_version=1, model_version=2)
    assert broken(network, state) == "lineage.round"


def test_a_poisoned_update_cannot_be_written_into_the_accepted(network: Network) -> None:
    """Outcome and status altered together still contradict the verdicts."""
    state = Altered(network)
    state.alter(Update, TASK, 1, POISONER, status=UpdateStatus.ACCEPTED)
    settled = outcomes(network)
    settled[3] = replace(settled[3], status=UpdateStatus.ACCEPTED, code="update.accepted")
    state.alter(Round, TASK, 1, outcomes=tuple(settled))
    assert broken(network, state) == "lineage.outcome"


def test_verdicts_left_out_are_missed(network: Network) -> None:
    """Without its passing verdicts an accepted update is undecided."""
    state = Altered(network)
    for judge in HOSPITALS[1:3]:
        state.changes[(Verdict.KIND, (TASK, 1, HOSPITALS[0], judge))] = None
    assert broken(network, state) == "lineage.outcome"


def test_a_turned_verdict_is_found(network: Network) -> None:
    """A pass that becomes a fail changes what the verdicts settle."""
    state = Altered(network)
    for judge in HOSPITALS[1:]:
        state.alter(Verdict, TASK, 1, HOSPITALS[0], judge, decision=Decision.FAIL)
    assert broken(network, state) == "lineage.outcome"


def test_equal_aggregates_of_fewer_than_a_quorum_do_not_close(network: Network) -> None:
    """Two of four validators, or one of them twice, are no quorum; strangers are no members."""
    rnd = newest(network.chain).get(Round, TASK, 2)
    assert rnd is not None
    two = rnd.attestations[:2]
    stranger = replace(two[0], validator="hospital-9.validator")
    for attestations, code in (
        (two, "lineage.aggregate"),
        ((*two, two[1]), "lineage.aggregate"),
        ((*two, stranger), "lineage.missing"),
    ):
        state = Altered(network)
        state.alter(Round, TASK, 2, attestations=attestations)
        assert broken(network, state) == code


def test_who_closed_a_round_stays_in_it_when_seats_change(tmp_path: Path) -> None:
    """An aggregate that comes late, under another set, must not undo the proof of the version."""
    with open_network(tmp_path) as changing:
        open_task(changing, 1)
        run_round(changing, 1, HOSPITALS[:3])
        grow(changing)
        say(changing, [propose(2, "admit-6", admission(6)), propose(2, "seat-6", seating(6))])
        agree(changing, ("admit-6", "seat-6"), (3, 4, 5))
        say(changing, [propose(3, "out-1", unseating(1)), propose(3, "out-2", unseating(2))])
        agree(changing, ("out-1", "out-2"), (4, 5, 6, 2))

        changing.block(aggregate(changing, HOSPITALS[3], 1))

        rnd = changing.chain.state().require(Round, TASK, 1)
        assert [item.validator for item in rnd.attestations] == [
            f"{name}.validator" for name in HOSPITALS
        ]
        lineage = trace(newest(changing.chain), MODEL, 1)
        check_lineage(lineage)

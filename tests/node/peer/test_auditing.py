"""An audit at the hospital passes honest training, and says what failed or what is not there."""

import asyncio
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from fl.fixed import norm
from fl.train import Job, Keep, Result, Snapshot, train
from node.peer.auditing import Finding, audit, find_audited
from node.peer.bases import Bases
from node.peer.site import load_data
from node.peer.traces import Trace
from node.peer.training import Assignment, Train, Trained, head_of
from tests.fl.dialogue import TASK, TERMS
from tests.node.hospital import SECRET, Town
from tests.node.peer.looks import opened, run
from vm.conduct import AuditOutcome
from vm.digest import BATCHES, digest
from vm.encoding import encode
from vm.learning import OwnLoop, Update
from vm.refusal import Refused
from vm.terms import Evidence, Replay

ALL = range(4)
PASSED = Finding(AuditOutcome.PASSED, "audit.passed", "4 of 4 segments replayed", 4)


def trained(folder: Path, how: Train = train, **changes: Any) -> Town:
    """A task in which hospital 1 has trained and submitted in a way of its own."""
    town = opened(folder, **changes)
    run(town.trainer(1, train=how).work(TASK))
    return town


def audited(town: Town, segments: Sequence[int] = ALL) -> Finding:
    """What an audit of hospital 1's first round finds."""
    submitter, exchange = town._parts("hospital-1.trainer")

    async def work() -> Finding:
        return await audit(
            await find_audited(submitter.client, TASK, 1, "hospital-1"),
            Bases(exchange),
            town.traces(1),
            lambda preprocessing: load_data(town.path(1), preprocessing, SECRET),
            segments,
        )

    return asyncio.run(work())


def test_honest_training_passes(tmp_path: Path) -> None:
    """Every segment replays from the kept snapshots, and nothing is sent."""
    town = trained(tmp_path)
    sent = len(town.submitted), len(town.brought)

    assert audited(town) == PASSED
    assert (len(town.submitted), len(town.brought)) == sent


def test_snapshots_that_made_room_are_made_again(tmp_path: Path) -> None:
    """With none left on the disk the whole trace follows from the base."""
    town = trained(tmp_path)
    trace = town.traces(1).find(TASK, 1)
    assert trace is not None
    trace.drop_snapshots()

    assert audited(town) == PASSED


def test_snapshots_that_make_room_while_an_audit_reads_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer runs beside it, and begins a round in the very moment that they were listed."""
    town, listed = trained(tmp_path), Trace._numbers

    def listed_before(trace: Trace) -> Iterator[int]:
        found = list(listed(trace))
        trace.drop_snapshots()
        return iter(found)

    monkeypatch.setattr(Trace, "_numbers", listed_before)

    assert audited(town, [3]).outcome is AuditOutcome.PASSED


@pytest.mark.parametrize("reading", [1, 2, 3, 4])
def test_a_trace_whose_retention_ends_while_an_audit_reads_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reading: int
) -> None:
    """Whatever was read last; nobody is accused."""
    town, entries, left = trained(tmp_path), Trace._entries, reading

    def dropped_before(trace: Trace) -> list[bytes]:
        nonlocal left
        left -= 1
        if not left:
            town.traces(1).drop(TASK, 1)
        return entries(trace)

    monkeypatch.setattr(Trace, "_entries", dropped_before)
    found = audited(town)

    assert (found.outcome, found.code) == (AuditOutcome.UNAVAILABLE, "audit.no_trace")
    assert "found that it went" in found.reason


def test_nothing_is_said_of_a_trace_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be found now may be found by the next audit; an attestation stays."""
    town = trained(tmp_path)

    def away(trace: Trace) -> list[bytes]:
        raise FileNotFoundError

    monkeypatch.setattr(Trace, "_entries", away)

    with pytest.raises(FileNotFoundError):
        audited(town)


def test_a_sample_counts_what_was_replayed(tmp_path: Path) -> None:
    """Two segments of four are not the whole trace, and the attestation says so."""
    found = audited(trained(tmp_path), [0, 3])

    assert (found.outcome, found.segments) == (AuditOutcome.PASSED, 2)
    assert found.reason == "2 of 4 segments replayed"


def other_recipe(job: Job, *arguments: Any, **named: Any) -> Result:
    """The attack: a rate of one's own."""
    wild = replace(job.training, rate=2 * job.training.rate)
    return train(replace(job, training=wild), *arguments, **named)


def other_order(job: Job, *arguments: Any, **named: Any) -> Result:
    """The attack: batches of one's own choice."""
    return train(replace(job, beacon=bytes(32)), *arguments, **named)


def other_update(*arguments: Any, **named: Any) -> Result:
    """The attack: an honest trace beside an update that it does not end in."""
    honest = train(*arguments, **named)
    return replace(honest, delta=2 * honest.delta, norm=norm(2 * honest.delta))


@pytest.mark.parametrize(
    ("attack", "code", "segments"),
    [
        (other_recipe, "replay.result", 1),
        (other_order, "replay.batches", 1),
        (other_update, "audit.update", 4),
    ],
)
def test_what_was_no_training_fails(
    attack: Train, code: str, segments: int, tmp_path: Path
) -> None:
    """The hospital's own store cannot hide it, for the chain holds the commitment."""
    found = audited(trained(tmp_path, attack))

    assert (found.outcome, found.code, found.segments) == (AuditOutcome.FAILED, code, segments)


def test_missing_snapshots_of_no_training_fail_too(tmp_path: Path) -> None:
    """The attack: delete the snapshots that would show it. They do not come out again."""
    town = trained(tmp_path, other_recipe)
    trace = town.traces(1).find(TASK, 1)
    assert trace is not None
    trace.drop_snapshots()

    found = audited(town, [2])

    assert (found.outcome, found.code) == (AuditOutcome.FAILED, "replay.result")


def test_where_a_step_may_differ_missing_snapshots_prove_nothing(tmp_path: Path) -> None:
    """What comes out may differ by what the task allows, and nothing is there to compare with."""
    town = trained(tmp_path, other_recipe, replay=Replay(1, 3, 0))
    trace = town.traces(1).find(TASK, 1)
    assert trace is not None
    trace.drop_snapshots()

    found = audited(town, [2])

    assert (found.outcome, found.code) == (AuditOutcome.UNAVAILABLE, "audit.no_snapshot")


def test_a_trace_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    """Lost, or past its retention: nobody is accused, and it is said."""
    town = trained(tmp_path)
    shutil.rmtree(town.folder / "hospital-1")

    found = audited(town)

    assert (found.outcome, found.code, found.segments) == (
        AuditOutcome.UNAVAILABLE,
        "audit.no_trace",
        0,
    )


def test_rows_that_changed_since_are_unavailable(tmp_path: Path) -> None:
    """They are not the registered ones, so no replay on them shows anything."""
    town = trained(tmp_path)
    path = town.path(1)
    path.write_text(path.read_text().replace(",yes\n", ",no\n", 1))

    found = audited(town)

    assert (found.outcome, found.code) == (AuditOutcome.UNAVAILABLE, "audit.no_rows")


def test_rows_that_are_gone_are_unavailable(tmp_path: Path) -> None:
    """Consent withdrawn, for one: the file is not there."""
    town = trained(tmp_path)
    town.path(1).unlink()

    assert audited(town).code == "audit.no_rows"


@dataclass(frozen=True)
class OwnTraining:
    """A loop of the site's own, whose update names `said` and whose segments name `ran`."""

    town: Town
    said: OwnLoop
    ran: OwnLoop

    async def train(self, assignment: Assignment) -> Trained:
        """Honest training in every other way."""
        kept: list[Snapshot] = []
        honest = train(
            assignment.job,
            assignment.base,
            assignment.rows,
            keep=lambda _, snapshot: kept.append(snapshot),
        )
        segments = tuple(
            replace(
                one, batches=digest(BATCHES, encode((self.ran.script, self.ran.environment, index)))
            )
            for index, one in enumerate(honest.segments)
        )
        trace = self.town.traces(1).begin(head_of(assignment))
        for count, one in enumerate(kept, start=1):
            trace.keep(count, replace(one, segments=segments[:count]))
        return Trained(replace(honest, segments=segments), Evidence.COMMITTED, self.said)


def looped(folder: Path, said: OwnLoop, ran: OwnLoop) -> Town:
    """A task in which a script of hospital 1's own has trained."""
    town = opened(folder)
    run(town.trainer(1, own=OwnTraining(town, said, ran)).work(TASK))
    return town


SCRIPT = OwnLoop(bytes(32), bytes(range(32)))


def test_a_site_s_own_loop_cannot_be_audited(tmp_path: Path) -> None:
    """Its update says on the chain what trained it: nobody can replay that, or accuse it."""
    town = looped(tmp_path, said=SCRIPT, ran=SCRIPT)

    assert town.chain.get(Update, TASK, 1, "hospital-1").loop == SCRIPT
    assert audited(town) == Finding(
        AuditOutcome.UNAVAILABLE,
        "audit.own_loop",
        "expected a training by the task's recipe, found the site's own loop",
        0,
    )


def test_a_trace_of_another_script_than_the_update_names_fails(tmp_path: Path) -> None:
    """What an update names is what its segments commit to, or it names nothing."""
    town = looped(tmp_path, said=SCRIPT, ran=replace(SCRIPT, script=bytes(range(32))))

    found = audited(town)

    assert (found.outcome, found.code) == (AuditOutcome.FAILED, "audit.own_loop")


def test_a_trainer_cannot_say_afterwards_that_its_own_loop_trained(tmp_path: Path) -> None:
    """An update that names no loop is held to the task's recipe, whatever the site's disk says."""
    kept: list[Snapshot] = []

    def scripted(*arguments: Any, keep: Keep, **named: Any) -> Result:
        honest = train(*arguments, keep=lambda _, snapshot: kept.append(snapshot), **named)
        ran = (SCRIPT.script, SCRIPT.environment)
        segments = tuple(
            replace(one, batches=digest(BATCHES, encode((*ran, index))))
            for index, one in enumerate(honest.segments)
        )
        for count, one in enumerate(kept, start=1):
            kept[count - 1] = replace(one, segments=segments[:count])
            keep(count, kept[count - 1])
        return replace(honest, segments=segments)

    town = trained(tmp_path, cast(Train, scripted))
    store = town.traces(1)
    found = store.find(TASK, 1)
    assert found is not None
    head = replace(found.head, script=SCRIPT.script, environment=SCRIPT.environment)
    trace = store.begin(head)
    for count, one in enumerate(kept, start=1):
        trace.keep(count, one)

    outcome = audited(town)

    assert (outcome.outcome, outcome.code) == (AuditOutcome.FAILED, "replay.batches")


def test_only_what_has_a_trace_is_audited(tmp_path: Path) -> None:
    """Not a round or an update that is not there, nor one of class scored."""
    whole = replace(TERMS.training, snapshot_steps=TERMS.training.steps)
    town = trained(tmp_path, evidence=Evidence.SCORED, training=whole)
    client = town._parts("hospital-1.trainer")[0].client

    for number, name, code in (
        (9, "hospital-1", "audit.missing"),
        (1, "hospital-2", "audit.missing"),
        (1, "hospital-1", "audit.evidence"),
    ):
        with pytest.raises(Refused, match=re.escape(code)):
            asyncio.run(find_audited(client, TASK, number, name))

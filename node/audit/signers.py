"""Who signed what a model came from, and that each key was its member's when it did."""

from collections.abc import Iterator
from typing import NamedTuple

from node.audit.lineage import Lineage, RoundLineage, TaskLineage
from vm.record import KeyInterval
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX


class Act(NamedTuple):
    """Something that a member signed in a block from height `first` to `last`.

    A round's record does not tell when each aggregate came, and late ones are added to it, so those
    have no last height but the highest possible.
    """

    member: str
    what: str
    first: int
    last: int


def acts(lineage: Lineage) -> Iterator[Act]:
    """All that was signed on the way to the model, as far as records tell by whom and when."""
    for item in lineage.tasks:
        yield from _acts_of_task(item)
        for found in item.rounds:
            yield from _acts_of_round(found)


def _acts_of_task(item: TaskLineage) -> Iterator[Act]:
    task = item.task
    yield _at(task.steward, f"task {task.id}", task.opened_height)
    for participant in item.participants:
        dataset, approval = participant.dataset, participant.approval
        yield _at(dataset.steward, f"dataset {dataset.id}", dataset.registered_height)
        if approval is not None:
            what = f"approval of task {task.id}"
            yield _at(approval.trainer, what, approval.approved_height)


def _acts_of_round(found: RoundLineage) -> Iterator[Act]:
    rnd = found.round
    name = f"round {rnd.number} of {rnd.task}"
    for part in found.sites:
        if part.update is not None:
            yield _at(part.update.trainer, f"update in {name}", part.update.height)
        if part.decline is not None:
            yield _at(part.decline.trainer, f"decline in {name}", part.decline.height)
        for verdict in part.verdicts:
            yield _at(verdict.verifier, f"verdict in {name}", verdict.height)
    for item in rnd.attestations:
        yield Act(item.validator, f"aggregate in {name}", rnd.opened_height, HEIGHT_MAX)


def _at(member: str, what: str, height: int) -> Act:
    return Act(member, what, height, height)


def check_signers(lineage: Lineage) -> str:
    """Check every act against its member's keys; raises `Refused("lineage.key")`."""
    count = 0
    for act in acts(lineage):
        if not keys_of(lineage, act):
            raise Refused(
                "lineage.key",
                f"expected a key of {act.member} valid from height {act.first} to {act.last}, for "
                f"its {act.what}, found none",
            )
        count += 1
    return f"{count} signed acts of {len(lineage.signers)} members, each with a key valid then"


def keys_of(lineage: Lineage, act: Act) -> tuple[KeyInterval, ...]:
    """The keys with which the member may have signed: those valid then, in order."""
    intervals = lineage.signers[act.member].keys.intervals
    return tuple(item for item in intervals if item.covers(act.first, act.last))

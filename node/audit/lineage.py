"""Where a model version came from, as records: the story whose rules are in `node.audit.rules`.

`trace` reads it from any source of records: a validator's state, which so learns what to prove, or
what an auditor has proven, which so learns that nothing is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from vm.conduct import ModelMark
from vm.epoch import EpochHead
from vm.learning import Commitment, Decline, Round, SiteApproval, Task, Update, Verdict
from vm.quorum import Epoch
from vm.record import Dataset, Member, MemberKeys, Model, Organisation
from vm.refusal import Refused
from vm.state import Record
from vm.terms import Site

R = TypeVar("R", bound=Record)


class Records(Protocol):
    """A source of records: a state at one height."""

    def get(self, cls: type[R], *key: str | int) -> R | None:
        """The record under `key`, or None if there is none."""


@dataclass(frozen=True, slots=True)
class Part:
    """One site's part in a round: its update or its word that none comes, and the verdicts on it.

    `commitment` is what bound the site's own verifier.
    """

    site: Site
    update: Update | None
    decline: Decline | None
    verdicts: tuple[Verdict, ...]
    commitment: Commitment | None


@dataclass(frozen=True, slots=True)
class RoundLineage:
    """A round and what was submitted and judged in it, in order of the task's sites."""

    round: Round
    sites: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Participant:
    """Who and what stands behind one site of a task; without an approval it took no part."""

    site: Site
    organisation: Organisation
    trainer: Member
    verifier: Member
    dataset: Dataset
    approval: SiteApproval | None


@dataclass(frozen=True, slots=True)
class TaskLineage:
    """A task and all its rounds, failed ones too, up to the last that the model came from."""

    task: Task
    steward: Member
    participants: tuple[Participant, ...]
    rounds: tuple[RoundLineage, ...]


@dataclass(frozen=True, slots=True)
class Signer:
    """A member that signed something, with all keys that it ever had."""

    member: Member
    keys: MemberKeys


@dataclass(frozen=True, slots=True)
class Lineage:
    """A model's versions from the one asked for down to version 0, and the tasks between.

    `mark` is a failed audit's, if one has reached the model, also a later version of it. `signers`
    are all who signed something on the way, by id; `epochs` those that ruled since the first round
    closed, in order, so that a pin later than that is enough to know them.
    """

    versions: tuple[Model, ...]
    mark: ModelMark | None
    tasks: tuple[TaskLineage, ...]
    signers: dict[str, Signer]
    epochs: tuple[Epoch, ...]

    @property
    def model(self) -> Model:
        """The version asked for."""
        return self.versions[0]

    @property
    def rounds(self) -> tuple[RoundLineage, ...]:
        """All rounds of all tasks, the newest task's first."""
        return tuple(found for task in self.tasks for found in task.rounds)


def trace(records: Records, id: str, version: int) -> Lineage:
    """Read the lineage of a model version; raises `Refused("lineage.missing")`."""
    versions = [_require(records, Model, id, number) for number in range(version, -1, -1)]
    mark = records.get(ModelMark, id)
    last_rounds: dict[str, int] = {}
    for model in versions:
        if model.task is not None and model.round is not None:
            last_rounds.setdefault(model.task, model.round)  # newest first
    tasks = [_trace_task(records, name, last) for name, last in last_rounds.items()]
    names = sorted({name for task in tasks for name in _signers(task)})
    return Lineage(
        versions=tuple(versions),
        mark=mark,
        tasks=tuple(tasks),
        signers={
            name: Signer(_require(records, Member, name), _require(records, MemberKeys, name))
            for name in names
        },
        epochs=_trace_epochs(records, versions),
    )


def _signers(task: TaskLineage) -> Iterator[str]:
    """Who speaks for the task, its sites and its datasets, and the validators that aggregated."""
    yield task.task.steward
    for item in task.participants:
        yield from (item.site.trainer, item.site.verifier, item.dataset.steward)
    for found in task.rounds:
        yield from (item.validator for item in found.round.attestations)


def _trace_epochs(records: Records, versions: list[Model]) -> tuple[Epoch, ...]:
    """From the newest down to the one that ruled as the first version of a round was made."""
    made = [model.created_height for model in versions if model.task is not None]
    if not made:
        return ()
    found = [_require(records, Epoch, _require(records, EpochHead).number)]
    while found[-1].first > min(made) and found[-1].number:
        found.append(_require(records, Epoch, found[-1].number - 1))
    return tuple(reversed(found))


def _trace_task(records: Records, id: str, last_round: int) -> TaskLineage:
    task = _require(records, Task, id)
    return TaskLineage(
        task=task,
        steward=_require(records, Member, task.steward),
        participants=tuple(
            Participant(
                site,
                _require(records, Organisation, site.organisation),
                _require(records, Member, site.trainer),
                _require(records, Member, site.verifier),
                _require(records, Dataset, site.dataset),
                records.get(SiteApproval, id, site.organisation),
            )
            for site in task.terms.sites
        ),
        rounds=tuple(_trace_round(records, task, number + 1) for number in range(last_round)),
    )


def _trace_round(records: Records, task: Task, number: int) -> RoundLineage:
    parts = tuple(_trace_part(records, task, number, site) for site in task.terms.sites)
    return RoundLineage(_require(records, Round, task.id, number), parts)


def _trace_part(records: Records, task: Task, number: int, site: Site) -> Part:
    key = (task.id, number, site.organisation)
    update = records.get(Update, *key)
    found = (
        records.get(Verdict, *key, judge.organisation)
        for judge in task.terms.sites
        if update is not None and judge is not site
    )
    return Part(
        site=site,
        update=update,
        decline=records.get(Decline, *key) if update is None else None,
        verdicts=tuple(verdict for verdict in found if verdict is not None),
        commitment=records.get(Commitment, *key),
    )


def _require(records: Records, cls: type[R], *key: str | int) -> R:
    record = records.get(cls, *key)
    if record is None:
        label = " ".join(str(part) for part in key)
        raise Refused("lineage.missing", f"expected {cls.KIND} {label}, found none")
    return record

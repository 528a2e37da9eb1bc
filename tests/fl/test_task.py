"""Registering a model and opening a task: every numbered check, failing, and what is written."""

from dataclasses import replace
from typing import Any

import pytest

from fl.dataset import weight as weight_of
from fl.spec import mlp, parameter_count
from node.program import program
from tests.fl.dialogue import (
    AGE,
    MODEL,
    OUTCOME,
    SMOKER,
    SUBMIT_MS,
    TASK,
    TERMS,
    address,
    dataset,
    model,
    opened,
    opening,
    registered,
    site,
)
from tests.fl.terms import by
from tests.harness import Chain, Item, organisation
from vm.digest import BEACON, digest
from vm.encoding import encode
from vm.learning import (
    TASKS_OPEN_MAX,
    TASKS_OPEN_OF_ORGANISATION_MAX,
    OpenTasks,
    Round,
    RoundPhase,
    Task,
)
from vm.record import Band, Dataset, Flatten, Linear, Model, ModelHead, Organisation, Standing
from vm.registry import SetStanding
from vm.terms import (
    AVERAGE,
    BATCH_ROWS_MIN,
    MICRO,
    WEIGHT_MAX,
    Aggregation,
    Evidence,
    Level,
    Optimizer,
    Preprocessing,
    Replay,
    Rule,
    Site,
    Training,
)


def columns(**changes: Any) -> Preprocessing:
    """The task's preprocessing with `changes` to the first column."""
    return Preprocessing((replace(AGE, **changes), SMOKER), OUTCOME)


def outcome(**changes: Any) -> Preprocessing:
    """The task's preprocessing with `changes` to the outcome."""
    return Preprocessing((AGE, SMOKER), replace(OUTCOME, **changes))


def sites(**changes: Any) -> tuple[Site, ...]:
    """The task's sites with `changes` to the second."""
    first, second, *others = TERMS.sites
    return (first, replace(second, **changes), *others)


def aggregation(**changes: Any) -> Aggregation:
    """The task's rule with `changes`."""
    return replace(TERMS.aggregation, **changes)


def training(steps: int, snapshot_steps: int) -> Training:
    """The task's training with other steps."""
    return replace(TERMS.training, steps=steps, snapshot_steps=snapshot_steps)


def adam(epsilon_nano: int) -> Training:
    """The task's training with Adam in place of SGD."""
    return replace(TERMS.training, optimizer=Optimizer.ADAM, epsilon_nano=epsilon_nano)


def test_model_is_registered_as_version_0() -> None:
    """Version 0 has no lineage, and its head is free."""
    chain = Chain(program())

    chain.applied([model()])

    first = chain.get(Model, MODEL, 0)
    assert (first.organisation, first.weights) == ("hospital-1", address("initial"))
    assert (first.task, first.round, first.contributions) == (None, None, ())
    assert chain.get(ModelHead, MODEL) == ModelHead(MODEL, 0, None)


def test_model_id_is_never_taken_over() -> None:
    """A second registration of the id fails and changes nothing."""
    chain = registered()

    code = chain.refused(model(weights=address("other")))

    assert code == "model.exists"
    assert chain.get(Model, MODEL, 0).weights == address("initial")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"spec": mlp(2, (8,), 3), "weights_bytes": 11}, "blob.bytes"),
        (
            {"spec": replace(mlp(2, (8,)), layers=(Flatten(), Linear(3, 1)))},
            "spec.shape",
        ),
        ({"grid_bits": 24, "weights_bytes": 2**30}, "blob.bytes"),
    ],
)
def test_model_is_refused(changes: dict[str, Any], code: str) -> None:
    """A spec whose layers do not fit, or weights that are not of its size, fail."""
    chain = Chain(program())

    assert chain.refused(model(**changes)) == code
    assert chain.state.get(ModelHead, MODEL) is None


def test_task_opens_its_first_round() -> None:
    """The beacon comes from the header before, the deadline from the block's time."""
    chain = registered()
    parent = chain.parent

    chain.applied([opening()])

    task = chain.get(Task, TASK)
    assert (task.steward, task.round, task.closed, task.failures) == ("hospital-1.steward", 1, 0, 0)
    assert chain.get(OpenTasks).tasks == (TASK,)
    assert chain.get(ModelHead, MODEL).task == TASK
    first = chain.get(Round, TASK, 1)
    assert (first.phase, first.base_version) == (RoundPhase.SUBMIT, 0)
    assert first.deadline_ms == chain.time_ms + SUBMIT_MS
    assert first.beacon == digest(BEACON, encode((parent, TASK, 1)))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model": "other"}, "state.missing"),
        ({"preprocessing": Preprocessing((AGE,), OUTCOME)}, "task.inputs"),
        ({"preprocessing": Preprocessing((AGE, AGE), OUTCOME)}, "task.columns"),
        ({"preprocessing": columns(name="Preterm")}, "task.columns"),
        ({"preprocessing": columns(name="Weight")}, "task.schema"),
        ({"preprocessing": columns(unit="month")}, "task.schema"),
        ({"preprocessing": columns(levels=(Level("a", 0), Level("a", 1)))}, "task.levels"),
        ({"preprocessing": columns(levels=(Level(" a", 0),))}, "task.levels"),
        ({"preprocessing": columns(levels=(Level("NA", 0),))}, "task.levels"),
        ({"preprocessing": columns(impute=121 * MICRO)}, "task.bounds"),
        ({"preprocessing": columns(levels=(Level("a", -1),))}, "task.bounds"),
        ({"preprocessing": columns(low=2, high=1)}, "task.bounds"),
        ({"preprocessing": outcome(name="Death")}, "task.schema"),
        ({"preprocessing": outcome(levels=(Level("no", 0),))}, "task.outcome"),
        ({"preprocessing": outcome(levels=(), high=2 * MICRO)}, "task.outcome"),
        ({"training": training(20, 6)}, "task.segments"),
        ({"training": training(1_025, 1)}, "task.segments"),
        ({"training": replace(training(1, 1), batch_rows=1)}, "task.batch_rows"),
        ({"training": replace(TERMS.training, batch_rows=BATCH_ROWS_MIN - 1)}, "task.batch_rows"),
        ({"training": replace(training(7, 1), batch_rows=8)}, "task.rows_drawn"),
        ({"aggregation": by(Rule.WEIGHTED_MEAN, 1, 3)}, "task.aggregation"),
        ({"aggregation": by(Rule.WEIGHTED_MEAN, 0, 5)}, "task.aggregation"),
        ({"aggregation": by(Rule.TRIMMED_MEAN, 2, 4)}, "task.aggregation"),
        ({"training": replace(TERMS.training, rate=0)}, "task.optimizer"),
        ({"training": replace(TERMS.training, beta2=1)}, "task.optimizer"),
        ({"training": replace(TERMS.training, epsilon_nano=1)}, "task.optimizer"),
        ({"training": replace(TERMS.training, optimizer=Optimizer.ADAM)}, "task.optimizer"),
        ({"training": adam(59)}, "task.optimizer"),
        ({"aggregation": aggregation(server=replace(AVERAGE, rate=0))}, "task.server"),
        ({"replay": Replay(11, 0, 0)}, "task.replay"),
        ({"replay": Replay(0, 0, 0), "evidence": Evidence.REPLAYED}, "task.replay"),
        ({"sites": (*TERMS.sites, TERMS.sites[0])}, "task.organisation_twice"),
        ({"sites": sites(organisation="hospital-9")}, "state.missing"),
        ({"sites": sites(trainer="hospital-3.trainer")}, "task.trainer"),
        ({"sites": sites(trainer="hospital-2.verifier")}, "task.trainer"),
        ({"sites": sites(verifier="hospital-3.verifier")}, "task.verifier"),
        ({"sites": sites(verifier="hospital-2.trainer")}, "task.verifier"),
        ({"sites": sites(trainer="nobody")}, "state.missing"),
        ({"sites": sites(dataset="opt-3")}, "task.dataset"),
        ({"sites": sites(dataset="opt-9")}, "state.missing"),
        ({"sites": sites(weight=151)}, "task.weight"),
    ],
)
def test_task_is_refused(changes: dict[str, Any], code: str) -> None:
    """Terms that could not be kept, or that bend a site's part, fail before the task exists."""
    chain = registered()

    found = chain.refused(opening(**changes))

    assert found == code, chain.receipts
    assert chain.state.get(Task, TASK) is None
    assert chain.get(ModelHead, MODEL).task is None


@pytest.mark.parametrize(
    "changes",
    [
        {"preprocessing": outcome(levels=())},  # a number 0 or 1
        {"preprocessing": outcome(levels=(Level("n", 0), Level("y", MICRO), Level("Y", MICRO)))},
        {"aggregation": by(Rule.TRIMMED_MEAN, 1, 3)},
        {"training": training(1_024, 1)},
        {"sites": TERMS.sites[:3]},
        {"evidence": Evidence.REPLAYED},
    ],
)
def test_task_at_the_edge_of_its_rules_opens(changes: dict[str, Any]) -> None:
    """What the checks allow at their limits does open."""
    chain = registered()

    chain.applied([opening(**changes)])

    assert chain.get(Task, TASK).round == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"conditions": ("DUO:0000011",)}, "task.conditions"),  # ancestry research only
        ({"conditions": ("DUO:0000042", "DUO:0000016")}, "task.conditions"),  # genetic studies
    ],
)
def test_task_respects_use_conditions(changes: dict[str, Any], code: str) -> None:
    """A dataset whose conditions rule out a clinical model cannot be put to training one."""
    chain = Chain(program())
    chain.applied([dataset(1, **changes), *(dataset(n) for n in (2, 3, 4)), model()])

    assert chain.refused(opening()) == code


def test_replay_needs_every_hospitals_permission() -> None:
    """A task cannot demand openings that one dataset record forbids."""
    chain = Chain(program())
    chain.applied([dataset(1, opening=False), *(dataset(n) for n in (2, 3, 4)), model()])

    assert chain.refused(opening(evidence=Evidence.REPLAYED)) == "task.opening"


@pytest.mark.parametrize(("room", "code"), [(0, ""), (-1, "task.too_large")])
def test_task_fits_the_memory_of_who_aggregates(
    monkeypatch: pytest.MonkeyPatch, room: int, code: str
) -> None:
    """Sites times parameters are bounded: validators hold the updates of all at once."""
    chain = registered()
    parameters = parameter_count(chain.get(Model, MODEL, 0).spec)
    bound = len(TERMS.sites) * parameters + room
    monkeypatch.setattr("fl.task.AGGREGATE_COORDINATES_MAX", bound)

    if code:
        assert chain.refused(opening()) == code
    else:
        chain.applied([opening()])


def test_task_needs_members_in_good_standing() -> None:
    """A suspended verifier cannot be named; nor can an organisation that is not enrolled."""
    chain = registered()
    body = SetStanding("hospital-2.verifier", Standing.SUSPENDED)
    chain.applied([("hospital-2.admin", "member.standing", body)])
    assert chain.refused(opening()) == "task.verifier"

    # no transaction of this version changes an organisation's standing: write it by hand
    state = chain.state
    state.put(replace(chain.get(Organisation, "hospital-1"), standing=Standing.SUSPENDED))
    chain.stored |= state.writes

    assert chain.refused(opening()) == "task.organisation"


def test_task_id_is_never_taken_over() -> None:
    """A second task of the same id fails, also after the first has ended."""
    chain = opened()

    assert chain.refused(opening(rounds=7)) == "task.exists"
    assert chain.get(Task, TASK).terms.rounds == 2


def test_one_task_at_a_time_extends_a_model() -> None:
    """A second task on the model waits: its lineage stays a line."""
    chain = opened()

    assert chain.refused(opening("preterm-2")) == "task.model_busy"


def test_open_tasks_are_bounded() -> None:
    """One task more than the bound fails; as many as the bound open."""
    chain = registered()
    hospitals = TASKS_OPEN_MAX // TASKS_OPEN_OF_ORGANISATION_MAX
    for number in range(1, hospitals + 1):
        chain.applied(opened_by(number, TASKS_OPEN_OF_ORGANISATION_MAX))

    code = chain.refused(opening("one-more"))

    assert code == "task.too_many"
    assert len(chain.get(OpenTasks).tasks) == TASKS_OPEN_MAX


def test_one_steward_cannot_take_all_open_tasks() -> None:
    """A hospital's steward fills its own share; the others can still open theirs."""
    chain = registered()
    chain.applied(opened_by(4, TASKS_OPEN_OF_ORGANISATION_MAX))
    one_more = opened_by(4, TASKS_OPEN_OF_ORGANISATION_MAX + 1)[-2:]
    chain.applied(one_more[:1])

    assert chain.refused(one_more[1]) == "task.too_many_of_organisation"
    chain.applied([opening()])


def test_adam_divides_by_one_grid_step_at_least() -> None:
    """An epsilon of 60 nano is above 2^-24; 59 would be below, and is refused."""
    chain = registered()

    chain.applied([opening(training=adam(60))])

    assert chain.get(Task, TASK).terms.training == adam(60)


def test_only_the_models_organisation_opens_tasks_on_it() -> None:
    """A rival's steward cannot bend a hospital's model by a task of bad terms, or keep it busy."""
    chain = registered()
    _, kind, body = opening()

    assert chain.refused(("hospital-2.steward", kind, body)) == "task.model_owner"
    assert chain.get(ModelHead, MODEL).task is None


def opened_by(number: int, count: int) -> list[Item]:
    """Organisation `number`'s steward registers and opens so many models and tasks, in turn."""
    items = []
    for place in range(count):
        name = f"risk-{number}-{place}"
        for _, kind, body in (model(id=name), opening(f"task-{name}", model=name)):
            items.append((f"{organisation(number)}.steward", kind, body))
    return items


@pytest.mark.parametrize(
    ("low", "weight"), [(0, 1), (1, 1), (150, 150), (WEIGHT_MAX + 1, WEIGHT_MAX)]
)
def test_weight_is_the_low_end_of_the_row_band(low: int, weight: int) -> None:
    """The public band's low end counts, at least 1 and at most the cap."""
    chain = Chain(program())
    chain.applied([dataset(1, rows=Band(low, low + 49), positives=Band(0, 9))])

    assert weight_of(chain.get(Dataset, "opt-1").rows) == weight


def test_only_stewards_open_tasks() -> None:
    """The access table keeps other members out."""
    chain = registered()
    _, kind, body = opening()

    assert chain.refused(("hospital-1.trainer", kind, body)) == "access.role"
    assert site(1) == TERMS.sites[0]

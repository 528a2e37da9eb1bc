"""Models and tasks: all that a trainer could bend is checked when a task opens."""

from dataclasses import replace
from math import prod

from fl.body import CloseTask, OpenTask, RegisterModel
from fl.dataset import weight
from fl.preprocess import BLANKS, MISSING
from fl.resilience import check_aggregation
from fl.rounds import is_barred, open_tasks, start_round
from fl.spec import check_blob_bytes, check_spec, parameter_count
from fl.trace import segment_count
from vm.execute import Context
from vm.learning import (
    TASKS_OPEN_MAX,
    TASKS_OPEN_OF_ORGANISATION_MAX,
    OpenTasks,
    Task,
    TaskPhase,
)
from vm.record import (
    Dataset,
    Member,
    Model,
    ModelHead,
    ModelSpec,
    Organisation,
    Output,
    Role,
    Standing,
)
from vm.refusal import Refused
from vm.state import State
from vm.terms import (
    BATCH_ROWS_MIN,
    MICRO,
    NANO,
    ROWS_DRAWN_MIN,
    SEGMENTS_MAX,
    Column,
    Evidence,
    Optimizer,
    Preprocessing,
    Site,
    Terms,
    Training,
)

# GA4GH Data Use Ontology: permissions that cover training a clinical model, and the modifier that
# rules it out. What else the conditions ask (a project, a place, a date) the site itself decides.
TRAINABLE = frozenset({"DUO:0000004", "DUO:0000006", "DUO:0000007", "DUO:0000042"})
GENETIC_STUDIES_ONLY = "DUO:0000016"

# Sites times parameters of one task: a validator that aggregates holds every update as int32, 1 GiB
# at the bound. Eight sites may train the largest model, sixty-four one of 4 million parameters.
AGGREGATE_COORDINATES_MAX = 2**28


def register_model(state: State, context: Context, body: RegisterModel) -> None:
    """Record version 0 of a model."""
    # 1. the id is free
    if state.get(ModelHead, body.id) is not None:
        raise Refused("model.exists", f"expected a new id, found {body.id} registered before")
    # 2. the layers fit each other
    check_spec(body.spec)
    # 3. the weights have the size that the layers ask
    check_blob_bytes(body.spec, body.weights_bytes)
    state.put(
        Model(
            id=body.id,
            version=0,
            organisation=context.sender.organisation,
            spec=body.spec,
            grid_bits=body.grid_bits,
            weights=body.weights,
            weights_bytes=body.weights_bytes,
            task=None,
            round=None,
            contributions=(),
            created_height=context.block.height,
            created_ms=context.block.time_ms,
        )
    )
    state.put(ModelHead(body.id, 0, None))


def open_task(state: State, context: Context, body: OpenTask) -> None:
    """Record a task and open its first round."""
    terms = body.terms
    # 1. the id is free
    if state.get(Task, body.id) is not None:
        raise Refused("task.exists", f"expected a new id, found {body.id} opened before")
    # 2. there is room for one more
    others = open_tasks(state).tasks
    if len(others) >= TASKS_OPEN_MAX:
        raise Refused("task.too_many", f"expected fewer than {TASKS_OPEN_MAX} open, found as many")
    organisation = context.sender.organisation
    own = sum(state.require(Task, id).organisation == organisation for id in others)
    if own >= TASKS_OPEN_OF_ORGANISATION_MAX:
        raise Refused(
            "task.too_many_of_organisation",
            f"expected fewer than {TASKS_OPEN_OF_ORGANISATION_MAX} open of {organisation}, "
            "found as many",
        )
    # 3. the model is the steward's organisation's, and no other task extends it
    head = state.require(ModelHead, terms.model)
    model = state.require(Model, head.id, head.version)
    if model.organisation != organisation:
        raise Refused(
            "task.model_owner",
            f"expected a steward of {model.organisation}, whose model {head.id} is, "
            f"found one of {organisation}",
        )
    if head.task is not None:
        raise Refused("task.model_busy", f"expected {head.id} free, found task {head.task} on it")
    if is_barred(state, head.id):
        raise Refused(
            "task.model_marked",
            f"expected a model that no failed audit has marked, or that a steward has kept, "
            f"found {head.id} marked: see `model.decide`",
        )
    # 4. the columns make the model's inputs, and the outcome its classes
    (logits,) = check_spec(model.spec)
    classes = 2 if model.spec.output is Output.BINARY else logits
    _check_columns(model.spec, classes, terms.preprocessing)
    # 5. no update tells of single rows; the steps fall into a bounded number of whole segments;
    # the optimizer moves, by steps that its state on the grid bounds
    _check_rows(terms.training)
    _check_segments(terms.training)
    _check_optimizer(terms.training, model.grid_bits)
    _check_replay(terms)
    # 6. the rule can stand what it claims with the fewest updates that it may get
    check_aggregation(terms.aggregation, len(terms.sites))
    # 7. every validator can hold all updates at once
    _check_size(model.spec, len(terms.sites))
    # 8. one site per organisation, each with people and data of its own
    names = [site.organisation for site in terms.sites]
    if len(set(names)) != len(names):
        raise Refused("task.organisation_twice", "expected one site per organisation, found more")
    for site in terms.sites:
        _check_site(state, site, terms)
    task = Task(
        id=body.id,
        steward=context.sender.id,
        organisation=organisation,
        terms=terms,
        base_version=head.version,
        phase=TaskPhase.OPEN,
        round=0,
        closed=0,
        failures=0,
        closing=None,
        opened_height=context.block.height,
        opened_ms=context.block.time_ms,
        server=None,
    )
    state.put(OpenTasks((*others, task.id)))
    state.put(ModelHead(head.id, head.version, task.id))
    start_round(state, context.block, task)


def close_task(state: State, context: Context, body: CloseTask) -> None:
    """Have a task end with its present round, on the word of its steward's organisation.

    That round goes on as any other: who could cut it off would see updates before others had sent
    theirs, or take an aggregate that no model version shows.
    """
    # 1. the task is open, and not closing already
    task = state.require(Task, body.task)
    if task.phase is not TaskPhase.OPEN or task.closing is not None:
        found = "closing" if task.phase is TaskPhase.OPEN else task.phase.value
        raise Refused("task.phase", f"expected task {task.id} open, found it {found}")
    # 2. the sender is a steward of the organisation that opened it
    if context.sender.organisation != task.organisation:
        raise Refused(
            "task.owner",
            f"expected a steward of {task.organisation}, which opened {task.id}, "
            f"found one of {context.sender.organisation}",
        )
    state.put(replace(task, closing=body.reason))


def _check_columns(spec: ModelSpec, classes: int, preprocessing: Preprocessing) -> None:
    """Every cell has one meaning, and the model has an input for each column."""
    inputs, columns = prod(spec.input), preprocessing.columns
    if inputs != len(columns):
        raise Refused("task.inputs", f"expected {inputs} columns, found {len(columns)}")
    outcome = preprocessing.outcome
    names = [column.name for column in (*columns, outcome)]
    if len(set(names)) != len(names):
        raise Refused("task.columns", "expected distinct columns and outcome, found a repeat")
    for column in (*columns, outcome):
        _check_column(column)
    # without levels the outcome is a whole number from low to high
    labels = {level.value for level in outcome.levels}
    expected = {label * MICRO for label in range(classes)}
    if outcome.levels:
        fits = labels == expected
    else:
        fits = (outcome.low, outcome.high) == (0, (classes - 1) * MICRO)
    if not fits:
        raise Refused(
            "task.outcome", f"expected {outcome.name} to take the values 0 to {classes - 1} exactly"
        )


def _check_column(column: Column) -> None:
    texts = [level.text for level in column.levels]
    if len(set(texts)) != len(texts) or any(t != t.strip(BLANKS) or t in MISSING for t in texts):
        raise Refused(
            "task.levels",
            f"expected distinct levels of {column.name}, no blanks around, none that means missing",
        )
    values = (column.impute, *(level.value for level in column.levels))
    if not all(column.low <= value <= column.high for value in values):
        raise Refused(
            "task.bounds", f"expected impute and levels of {column.name} within low and high"
        )


def _check_rows(training: Training) -> None:
    if training.batch_rows < BATCH_ROWS_MIN:
        raise Refused(
            "task.batch_rows",
            f"expected at least {BATCH_ROWS_MIN} rows in a batch, found {training.batch_rows}",
        )
    drawn = training.steps * training.batch_rows
    if drawn < ROWS_DRAWN_MIN:
        raise Refused(
            "task.rows_drawn",
            f"expected steps that draw at least {ROWS_DRAWN_MIN} rows, found {drawn}",
        )


def _check_segments(training: Training) -> None:
    if training.steps % training.snapshot_steps:
        raise Refused(
            "task.segments",
            f"expected steps in whole segments of {training.snapshot_steps}, "
            f"found {training.steps}",
        )
    segments = segment_count(training)
    if segments > SEGMENTS_MAX:
        raise Refused(
            "task.segments", f"expected at most {SEGMENTS_MAX} segments, found {segments}"
        )


def _check_optimizer(training: Training, grid_bits: int) -> None:
    """The rate is positive, and each optimizer has its own constants and no other's.

    Adam divides by the root of its second moment plus epsilon. Where that root rounds to 0, an
    epsilon below one grid step would let a first moment of one step move a weight without bound.
    """
    if training.rate <= 0:
        raise Refused("task.optimizer", f"expected a rate above 0, found {training.rate}")
    match training.optimizer:
        case Optimizer.SGD:
            if (training.beta2, training.epsilon_nano) != (0, 0):
                raise Refused("task.optimizer", "expected sgd without beta2 and epsilon, found one")
        case Optimizer.ADAM:
            least = -(-NANO // 2**grid_bits)
            if training.epsilon_nano < least:
                raise Refused(
                    "task.optimizer",
                    f"expected an epsilon of at least {least} nano, one grid step, "
                    f"found {training.epsilon_nano}",
                )


def _check_replay(terms: Terms) -> None:
    """Class replayed means that something is."""
    replay, segments = terms.replay, segment_count(terms.training)
    least = 1 if terms.evidence is Evidence.REPLAYED else 0
    if not least <= replay.segments <= segments:
        raise Refused(
            "task.replay",
            f"expected {least} to {segments} replayed segments, found {replay.segments}",
        )


def _check_size(spec: ModelSpec, sites: int) -> None:
    coordinates = sites * parameter_count(spec)
    if coordinates > AGGREGATE_COORDINATES_MAX:
        raise Refused(
            "task.too_large",
            f"expected at most {AGGREGATE_COORDINATES_MAX} coordinates in the updates of all "
            f"sites, found {coordinates}",
        )


def _check_site(state: State, site: Site, terms: Terms) -> None:
    organisation = state.require(Organisation, site.organisation)
    if organisation.standing is not Standing.ENROLLED:
        raise Refused(
            "task.organisation",
            f"expected {organisation.id} enrolled, found {organisation.standing.value}",
        )
    _check_member(state, site.trainer, site.organisation, Role.TRAINER)
    _check_member(state, site.verifier, site.organisation, Role.VERIFIER)
    dataset = state.require(Dataset, site.dataset)
    if dataset.organisation != site.organisation:
        raise Refused(
            "task.dataset",
            f"expected a dataset of {site.organisation}, found {dataset.id} "
            f"of {dataset.organisation}",
        )
    _check_dataset(dataset, terms)
    if site.weight != weight(dataset.rows):
        raise Refused(
            "task.weight",
            f"expected weight {weight(dataset.rows)} for {dataset.id}, found {site.weight}",
        )


def _check_member(state: State, name: str, organisation: str, role: Role) -> None:
    member = state.require(Member, name)
    found = (member.organisation, member.role, member.standing)
    if found != (organisation, role, Standing.ENROLLED):
        raise Refused(
            f"task.{role.value}",
            f"expected {name} enrolled as {role.value} of {organisation}, found it "
            f"{member.standing.value} as {member.role.value} of {member.organisation}",
        )


def _check_dataset(dataset: Dataset, terms: Terms) -> None:
    known = {(column.name, column.unit) for column in dataset.schema}
    for column in terms.preprocessing.columns:
        if (column.name, column.unit) not in known:
            raise Refused(
                "task.schema",
                f"expected {column.name} in {column.unit} in {dataset.id}, found no such column",
            )
    outcome = terms.preprocessing.outcome.name
    if dataset.outcome != outcome:
        raise Refused(
            "task.schema", f"expected outcome {outcome} of {dataset.id}, found {dataset.outcome}"
        )
    conditions = dataset.conditions
    if not TRAINABLE.intersection(conditions) or GENETIC_STUDIES_ONLY in conditions:
        raise Refused(
            "task.conditions",
            f"expected {dataset.id} to permit training a clinical model, "
            f"found {', '.join(conditions)}",
        )
    if terms.evidence is Evidence.REPLAYED and not dataset.opening:
        raise Refused(
            "task.opening",
            f"expected {dataset.id} to permit opening for replay, found it closed",
        )

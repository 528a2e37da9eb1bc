"""A task's terms in sentences, for the person who decides whether a hospital takes part."""

from fl.spec import parameter_count
from vm.learning import Task
from vm.record import Model
from vm.terms import MICRO, Evidence, Mixing, Preprocessing, Replay, Site, Terms, Valuation

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

EVIDENCE = {
    Evidence.REPLAYED: "Verifiers of the other hospitals ask for snapshots of your training and "
    "for the batches between them, and can read rows of yours in these.",
    Evidence.COMMITTED: "Your update leaves; your rows and snapshots do not. An auditor of another "
    "organisation may come to replay your training on this machine.",
    Evidence.SCORED: "Your update leaves; your rows and snapshots do not, and no training is "
    "proven.",
}


def sentences(task: Task, model: Model | None, organisation: str) -> list[str]:
    """What the task asks of `organisation` and of the others, one sentence or two for each term."""
    terms = task.terms
    return [
        f"{task.id}: {terms.title}. Opened by {task.steward} of {task.organisation}.",
        f"Purpose: {terms.purpose}.",
        _model(terms, model),
        *_columns(terms.preprocessing),
        f"Each of {terms.rounds} rounds trains {terms.training.steps} steps of "
        f"{terms.training.batch_rows} rows ({terms.training.optimizer.value}, rate "
        f"{terms.training.rate / MICRO:g}) on this machine.",
        f"Evidence: {terms.evidence.value} or more. {EVIDENCE[terms.evidence]}",
        _loops(terms),
        *_replay(terms.replay),
        f"Keep what your training went through for {duration(terms.trace_retention_ms)} after a "
        "round: for so long an auditor may ask.",
        f"Your update can be read by the verifiers and validators of this task until "
        f"{duration(terms.retention_ms)} after its round; the aggregate of the accepted ones is "
        "the shared model, which every member can read.",
        _aggregation(terms),
        f"An update fails whose norm is above {terms.policy.norm_factor / MICRO:g} times the "
        "round's median, whose cosine with the median of the round's updates is below "
        f"{terms.policy.direction_min / MICRO:g}, or which raises the log-loss on a verifier's "
        f"rows by {terms.policy.margin / MICRO:g} nat and two standard errors.",
        _contribution(terms),
        f"A round gives {duration(terms.submit_ms)} to train and submit, "
        f"{duration(terms.verdict_ms)} to judge, {duration(terms.reveal_ms)} to reveal what was "
        f"judged and {duration(terms.aggregate_ms)} to aggregate.",
        *(_site(site, organisation) for site in terms.sites),
    ]


def duration(ms: int) -> str:
    """Milliseconds in the largest unit that shows them whole or to a tenth."""
    for unit, name in ((DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "min")):
        if ms >= unit:
            return f"{ms / unit:.1f}".removesuffix(".0") + f" {name}"
    return f"{ms / 1_000:.1f}".removesuffix(".0") + " s"


def _model(terms: Terms, model: Model | None) -> str:
    if model is None:
        return f"Model: {terms.model}."
    return (
        f"Model: {terms.model} from version {model.version}, "
        f"{parameter_count(model.spec):,} parameters, layers: "
        f"{', '.join(layer.TAG for layer in model.spec.layers)}."
    )


def _columns(preprocessing: Preprocessing) -> list[str]:
    columns = ", ".join(f"{column.name} ({column.unit})" for column in preprocessing.columns)
    outcome = preprocessing.outcome
    return [
        f"It reads {len(preprocessing.columns)} columns: {columns}.",
        f"Outcome: {outcome.name}.",
    ]


def _loops(terms: Terms) -> str:
    allowed = "may" if terms.own_loops else "may not"
    return f"A training with a trace {allowed} be done by a loop of the site's own."


def _replay(replay: Replay) -> list[str]:
    if not replay.segments:
        return []
    allowed = f" within {replay.tolerance} grid steps" if replay.tolerance else ""
    return [f"Each verifier replays {replay.segments} segments of a replayed update{allowed}."]


def _aggregation(terms: Terms) -> str:
    found = terms.aggregation
    mixing = "" if found.mixing is Mixing.NONE else f" after {found.mixing.value}"
    return (
        f"Aggregation: {found.rule.value}{mixing} of at least {found.updates_min} accepted "
        f"updates, of which it stands {found.f} false ones; server optimizer "
        f"{found.server.optimizer.value}."
    )


def _contribution(terms: Terms) -> str:
    if terms.contribution is Valuation.NONE:
        return f"Contributions are not measured; {terms.pool} credits are shared out."
    return (
        f"What each update contributes is measured ({terms.contribution.value}) and published; "
        f"{terms.pool} credits are shared out by it."
    )


def _site(site: Site, organisation: str) -> str:
    whose = "Your part" if site.organisation == organisation else site.organisation
    return (
        f"{whose}: dataset {site.dataset} of weight {site.weight}, trained by {site.trainer}, "
        f"verified by {site.verifier}."
    )

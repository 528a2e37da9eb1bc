"""Scores as an oracle: is this row among a verifier's scoring rows, and which label has it.

The attacker knows the row's inputs and sends updates, one a round, within norm and direction, that
bend the model most where the row lies. It reads each score that comes with a pass. Beside what
other sites' rows would score, its likelihood under both answers follows (Neyman and Pearson 1933,
with normal noise of so many rows and of the rounding).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fl import trial
from fl.experiment import Hospital, join
from fl.fixed import Floats, Ints, norm
from fl.metric import Numbers, auc
from fl.model import Rows
from fl.settle import SCORE_STEP_BP
from fl.verify import BP, Case, norm_bound, score
from tests.lab.data import Source
from tests.lab.federation import WITHIN
from tests.lab.membership import RIDGE, gradients
from tests.lab.watched import Finding, Watched, row_losses, watch
from vm.terms import MICRO

QUERIES = (1, 4, 16, 64)
TARGETS = 6  # of each label, among a verifier's scoring rows and among others
ACROSS = 1.0  # length of each query's own chance direction, beside that towards the row
SMALL = 1e-9  # nat squared: what else is in a score

Answers = Sequence[float | None]  # nat above the base's score; None where no score came


@dataclass(frozen=True, slots=True)
class Asked:
    """One row asked about, and what an attacker then holds, by rounded and by exact scores.

    `expected` [rows, queries] are the rises of loss on the attacker's rows, `own` [2, queries]
    those of the target under label 0 and 1; `rows` is how many rows the verifier scores with.
    """

    present: bool
    label: int
    rows: int
    expected: Numbers
    own: Numbers
    rounded: Answers
    exact: Answers


def oracle(data: Source, seed: int) -> Iterator[Finding]:
    """Each site's verifier in turn is asked, by an attacker with the rows of all other sites."""
    seen = watch(data, seed, data.rounds // 2)
    random = np.random.default_rng(seed)
    asked = [one for site in seen.sites for one in _ask_site(seen, site, random)]
    step = SCORE_STEP_BP / BP
    for queries in QUERIES:
        for name, grain in (("rounded", step), ("exact", 0.0)):
            found = [likelihoods(one, queries, grain) for one in asked]
            present = np.array([one.present for one in asked])
            presence = [ratios[one.label] for one, ratios in zip(asked, found, strict=True)]
            labels = np.array([one.label for one in asked])[present]
            label = np.array([ratios[1] - ratios[0] for ratios in found])[present]
            view = f"{queries} queries, {name} scores"
            for measure, area in (
                ("presence, AUC", auc(present.astype(np.int64), np.array(presence))),
                ("label, AUC", auc(labels, label)),
            ):
                assert area is not None, "rows of both kinds"
                yield Finding("scores", data.name, view, measure, area, 0.5)


def likelihoods(asked: Asked, queries: int, grain: float) -> tuple[float, float]:
    """Log-likelihood ratios of the row's presence with label 0 and with label 1, to its absence.

    Scores are rounded to `grain` nat, as is the base's that each is held against.
    """
    answers = (asked.rounded if grain else asked.exact)[:queries]
    heard = [place for place, answer in enumerate(answers) if answer is not None]
    if not heard:
        return 0.0, 0.0
    expected = asked.expected[:, heard]
    usual = expected.mean(axis=0)
    noise = np.atleast_2d(np.cov(expected, rowvar=False)) / asked.rows
    noise += np.eye(len(heard)) * (grain**2 / 12 + SMALL) + grain**2 / 12
    off = np.array([answers[place] for place in heard]) - usual
    ratios = []
    for own in asked.own[:, heard]:
        shift = (own - usual) / asked.rows
        ratios.append(float(shift @ np.linalg.solve(noise, off - shift / 2)))
    return ratios[0], ratios[1]


def _ask_site(seen: Watched, site: Hospital, random: np.random.Generator) -> Iterator[Asked]:
    data, base = seen.data, seen.bases[-1]
    terms = trial.terms("lab", [one.site for one in seen.sites])
    case = Case.of(data.spec, data.grid_bits, terms, base, seen.deltas[-1], site.scoring)
    own = join([part for one in seen.sites if one is not site for part in (one.train, one.test)])
    known = gradients(data, base, own)
    covariance = known.T @ known / len(known)
    ridge = RIDGE * np.trace(covariance) * np.eye(len(covariance))
    for rows, present in ((site.scoring, True), (site.test, False)):
        for target in _targets(rows):
            towards = np.linalg.solve(covariance + ridge, gradients(data, base, target)[0])
            yield _ask(case, data, own, target, present, _queries(case, towards, random))


def _targets(rows: Rows) -> Iterator[Rows]:
    for label in (0, 1):
        places = np.flatnonzero(rows.labels.numpy() == label)[:TARGETS]
        yield from (rows.take([place]) for place in places.tolist())


def _queries(case: Case, towards: Floats, random: np.random.Generator) -> list[Ints]:
    """Updates as long as the norm bound lets them be, none of which points away from the median."""
    reach = WITHIN * norm_bound(case.terms.policy, case.norms)
    towards = towards / np.linalg.norm(towards)
    median = case.median / max(norm(case.median), 1)
    found = []
    for number in range(max(QUERIES)):
        chance = random.normal(size=len(towards))
        way = (-1) ** number * towards + ACROSS * chance / np.linalg.norm(chance)
        way /= np.linalg.norm(way)
        if way @ median < case.terms.policy.direction_min / MICRO:
            way = -way
        found.append(np.trunc(reach * way).astype(np.int64))
    return found


def _ask(
    case: Case, data: Source, own: Rows, target: Rows, present: bool, queries: Sequence[Ints]
) -> Asked:
    twice = [replace(target, labels=target.labels * 0 + label) for label in (0, 1)]
    both = join([own, *twice])
    before = row_losses(data, case.base, both)
    rises = np.stack(
        [row_losses(data, case.base + query, both) - before for query in queries], axis=1
    )
    base = score(case, np.zeros_like(case.base)).score_bp
    assert base is not None, "a base that is no worse than itself"
    held = row_losses(data, case.base, case.rows).mean()
    rounded: list[float | None] = []
    exact: list[float | None] = []
    for query in queries:
        said = score(case, query).score_bp
        rounded.append(None if said is None else (said - base) / BP)
        mean = row_losses(data, case.base + query, case.rows).mean()
        exact.append(None if said is None else float(mean - held))
    return Asked(
        present,
        int(target.labels[0]),
        len(case.rows),
        rises[: len(own)],
        rises[len(own) :],
        rounded,
        exact,
    )

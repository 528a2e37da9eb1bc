"""A federation in one process, by the code of the chain: for splits that the chain does not run.

Given the beacons of a chain's rounds and its split, it ends in the chain's weights, byte for byte.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import torch

from fl import server
from fl.aggregate import aggregate
from fl.attack import sign_flip
from fl.dataset import leaves, part_digest
from fl.fixed import Ints
from fl.metric import auc
from fl.model import Rows, build, load, prepare
from fl.preprocess import Table
from fl.sampling import split
from fl.settle import aggregation_weight, eligible_verifiers, settle
from fl.trace import Origin, root
from fl.train import Job, Result, train
from fl.verify import Case, Judgement, judge
from fl.weights import pack_update
from vm.digest import BEACON, digest
from vm.encoding import encode
from vm.learning import (
    Outcome,
    Update,
    UpdateStatus,
    Verdict,
)
from vm.record import ModelSpec
from vm.shape import Digest
from vm.terms import Site, Terms, Training

POISON_SCALE = 5  # of the sign flip: enough to undo the round and more


@dataclass(frozen=True, slots=True)
class Hospital:
    """A site of the task with its own rows in three disjoint parts."""

    site: Site
    train: Rows
    scoring: Rows
    test: Rows


@dataclass(frozen=True, slots=True)
class Plan:
    """One round: its beacon, and the organisations that send a poisoned update or none.

    `accepted` are those whose updates a chain has accepted; with None they are settled here.
    `seed` is the round's, from which buckets are drawn; the beacon stands in for it.
    """

    beacon: Digest
    poisoned: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    accepted: frozenset[str] | None = None
    seed: Digest | None = None


@dataclass(frozen=True, slots=True)
class Federation:
    """The weights after the last round, [parameters], and each round's outcomes by site."""

    weights: Ints
    rounds: tuple[tuple[Outcome, ...], ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """AUC on test rows of the model trained alone (mean over hospitals), federated, and pooled.

    First on the test rows of all hospitals together, then on each hospital's own (mean over
    hospitals; without those whose test rows hold one outcome only).
    """

    alone: float
    federated: float
    pooled: float
    own_alone: float
    own_federated: float
    own_pooled: float


def admit(
    spec: ModelSpec, terms: Terms, site: Site, table: Table, secret: bytes, seed: bytes
) -> Hospital:
    """A hospital with its table prepared and split; `secret` salts its rows, `seed` parts them."""
    rows = prepare(spec, terms.preprocessing, table, leaves(table, secret))
    parts = split(seed, table.labels)
    return Hospital(site, rows.take(parts.train), rows.take(parts.scoring), rows.take(parts.test))


def beacons(seed: bytes, rounds: int) -> list[Digest]:
    """Beacons for a split that no chain runs."""
    return [digest(BEACON, encode((seed, number))) for number in range(1, rounds + 1)]


@dataclass(frozen=True, slots=True)
class Experiment:
    """A task and its hospitals in one process."""

    task: str
    spec: ModelSpec
    grid_bits: int
    terms: Terms
    hospitals: Sequence[Hospital]

    def federate(self, base: Ints, plans: Sequence[Plan]) -> Federation:
        """Run the rounds of `plans` from the weights `base`, as peers and validators would."""
        rounds = []
        optimizer = self.terms.aggregation.server
        state = server.start(optimizer, self.grid_bits, len(base))
        for number, plan in enumerate(plans, start=1):
            delta, outcomes = self._round(base, number, plan)
            if delta is not None:
                moved, state = server.step(optimizer, self.grid_bits, delta, state)
                base = base + moved
            rounds.append(outcomes)
        return Federation(base, tuple(rounds))

    def alone(self, hospital: Hospital, base: Ints, plans: Sequence[Plan]) -> Ints:
        """Weights after as many rounds of one hospital on its own rows."""
        training = self.terms.training
        return self._train_on(hospital.site.dataset, hospital.train, base, plans, training)

    def pooled(self, base: Ints, plans: Sequence[Plan]) -> Ints:
        """Weights after as many rounds on all hospitals' rows in one place: the upper reference.

        A round has as many steps as those of all hospitals together, so each row is seen as often.
        """
        training = self.terms.training
        together = replace(training, steps=training.steps * len(self.hospitals))
        rows = join([one.train for one in self.hospitals])
        return self._train_on("pooled", rows, base, plans, together)

    def compare(self, base: Ints, plans: Sequence[Plan], federated: Ints) -> Comparison:
        """AUC of training alone, of the `federated` weights and of training on pooled rows."""
        pooled = self.pooled(base, plans)
        alone = [self.alone(hospital, base, plans) for hospital in self.hospitals]
        tests = [hospital.test for hospital in self.hospitals]
        everyone = join(tests)
        return Comparison(
            alone=_mean([self._auc(weights, everyone) for weights in alone]),
            federated=_mean([self._auc(federated, everyone)]),
            pooled=_mean([self._auc(pooled, everyone)]),
            own_alone=_mean([self._auc(w, rows) for w, rows in zip(alone, tests, strict=True)]),
            own_federated=_mean([self._auc(federated, rows) for rows in tests]),
            own_pooled=_mean([self._auc(pooled, rows) for rows in tests]),
        )

    def _round(
        self, base: Ints, number: int, plan: Plan
    ) -> tuple[Ints | None, tuple[Outcome, ...]]:
        """The aggregate, unless too few updates were accepted, and what became of each update."""
        results = {
            hospital.site.organisation: self._update(hospital, base, plan)
            for hospital in self.hospitals
            if hospital.site.organisation not in plan.absent
        }
        deltas = [result.delta for result in results.values()]
        nobody = self.hospitals[0].scoring.take([])
        case = Case.of(self.spec, self.grid_bits, self.terms, base, deltas, nobody)
        cases = {
            hospital.site.organisation: replace(case, rows=hospital.scoring)
            for hospital in self.hospitals
        }
        outcomes = []
        for hospital in self.hospitals:
            if (result := results.get(hospital.site.organisation)) is not None:
                outcomes.append(self._settle(hospital, number, result, cases))
        accepted = [one.organisation for one in outcomes if one.status is UpdateStatus.ACCEPTED]
        if plan.accepted is not None:
            accepted = [name for name in results if name in plan.accepted]
        rule = self.terms.aggregation
        if len(accepted) < rule.updates_min:
            return None, tuple(outcomes)
        sites = {hospital.site.organisation: hospital.site for hospital in self.hospitals}
        delta = aggregate(
            rule,
            [results[name].delta for name in accepted],
            [aggregation_weight(self.terms, sites[name]) for name in accepted],
            accepted,
            plan.seed or plan.beacon,
        )
        return delta, tuple(outcomes)

    def _update(self, hospital: Hospital, base: Ints, plan: Plan) -> Result:
        job = self._job(hospital.site.dataset, plan.beacon, self.terms.training)
        result = train(job, base, hospital.train)
        if hospital.site.organisation in plan.poisoned:
            return sign_flip(base, result, POISON_SCALE)
        return result

    def _settle(
        self, hospital: Hospital, number: int, result: Result, cases: dict[str, Case]
    ) -> Outcome:
        """All other hospitals' verdicts on one update, settled."""
        update, blob = self.submit(hospital, number, result)
        verdicts = [
            verdict_of(by.site, update, judge(cases[by.site.organisation], update, blob))
            for by in self.hospitals
            if by is not hospital
        ]
        return settle(update, verdicts, eligible_verifiers(self.terms))

    def submit(self, hospital: Hospital, number: int, result: Result) -> tuple[Update, bytes]:
        """The update of round `number` as a chain would record it, and its file."""
        site = hospital.site
        origin = Origin(self.task, number, site.trainer, site.dataset)
        blob = pack_update(self.spec, self.grid_bits, origin, result.delta, result.segments)
        update = Update(
            task=self.task,
            round=number,
            organisation=site.organisation,
            trainer=site.trainer,
            dataset=site.dataset,
            base_version=number - 1,
            blob="",  # nothing here looks at addresses, transactions and heights
            blob_bytes=len(blob),
            norm=result.norm,
            trace=root(origin, result.segments),
            segments=len(result.segments),
            data=part_digest(hospital.train.leaves),
            loop=None,
            evidence=self.terms.evidence,
            transaction=b"",
            height=0,
            status=UpdateStatus.SUBMITTED,
            audits_passed=0,
            audits_failed=0,
            audits_unavailable=0,
        )
        return update, blob

    def _job(self, dataset: str, beacon: Digest, training: Training) -> Job:
        return Job(self.spec, self.grid_bits, training, beacon, dataset)

    def _train_on(
        self, dataset: str, rows: Rows, base: Ints, plans: Sequence[Plan], training: Training
    ) -> Ints:
        for plan in plans:
            base = base + train(self._job(dataset, plan.beacon, training), base, rows).delta
        return base

    def _auc(self, weights: Ints, rows: Rows) -> float | None:
        module = build(self.spec)
        load(module, weights, self.grid_bits)
        with torch.no_grad():
            logits = module(rows.inputs)[:, 0].numpy()
        return auc(rows.labels.numpy(), logits)


def verdict_of(by: Site, update: Update, judgement: Judgement) -> Verdict:
    """The judgement of a site's verifier as a chain would record it."""
    return Verdict(
        task=update.task,
        round=update.round,
        organisation=update.organisation,
        verifier=by.verifier,
        verifier_organisation=by.organisation,
        decision=judgement.decision,
        code=judgement.code,
        reason=judgement.reason,
        segment=judgement.segment,
        score_bp=judgement.score_bp,
        contribution_bp=None,
        near=None,
        rerun=False,
        transaction=b"",
        height=0,
        blind=b"",
    )


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, of two values or more."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) / sqrt(len(values))


def join(parts: Sequence[Rows]) -> Rows:
    """All rows of the parts, in order."""
    return Rows(
        torch.cat([part.inputs for part in parts]),
        torch.cat([part.labels for part in parts]),
        tuple(leaf for part in parts for leaf in part.leaves),
    )


def _mean(values: Sequence[float | None]) -> float:
    """The mean of those values that there are."""
    return float(np.mean([value for value in values if value is not None]))

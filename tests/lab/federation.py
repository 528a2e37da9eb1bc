"""One federation with dishonest sites, by the code of the chain: train, judge, settle, aggregate.

Dishonest sites see every honest update before they send theirs, and their verifiers pass their own
kind and fail everybody else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fl.attack import bend
from fl.experiment import Experiment, Hospital, beacons, verdict_of
from fl.fixed import Ints
from fl.metric import auc
from fl.model import Rows, build, initial, load
from fl.rules.rows import Deltas
from fl.settle import aggregation_weight, eligible_verifiers, lower_median, settle
from fl.train import Job, Result, train
from fl.verify import Case, Judgement, check_form, score
from tests.lab.poison import FORGE_SCALE, TARGET, Poison, Seen, backdoor_rows
from vm.learning import Decision, Update, UpdateStatus, Verdict
from vm.record import Output
from vm.refusal import Refused
from vm.shape import Digest
from vm.terms import MICRO, Aggregation

# Of `fl.aggregate.aggregate`: the rule, updates [p], weights, organisations, the round's seed.
Combine = Callable[[Aggregation, Sequence[Deltas], Sequence[int], Sequence[str], Digest], Ints]

WITHIN = 0.99  # of the norm bound: how near to it attackers dare to go


@dataclass(frozen=True, slots=True)
class Found:
    """What came of one federation.

    `right` and `rows` are test rows classified well, and all of them, by site; `backdoor` the share
    of triggered test rows of other classes that the model calls TARGET (None of two classes);
    `auc` that of all test rows of honest sites (None of ten classes). Updates are counted over all
    rounds, `honest_lost` and `dishonest_lost` being those not accepted.
    """

    right: Mapping[str, int]
    rows: Mapping[str, int]
    auc: float | None
    backdoor: float | None
    honest: int
    honest_lost: int
    dishonest: int
    dishonest_lost: int
    rounds_failed: int


@dataclass(slots=True)
class Federation:
    """A task some of whose sites are dishonest.

    Without `filtering` every update is aggregated, as it came. `lost` counts updates that were not
    accepted, by whether their site is dishonest.
    """

    experiment: Experiment
    poison: Poison
    dishonest: frozenset[str]
    combine: Combine
    filtering: bool
    seed: int
    lost: dict[bool, int]

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        poison: Poison,
        dishonest: frozenset[str],
        combine: Combine,
        *,
        filtering: bool,
        seed: int,
    ) -> "Federation":
        """With the dishonest sites' rows poisoned, if that is their way."""
        classes = 2 if experiment.spec.output is Output.BINARY else 10
        poisoned = [
            replace(one, train=poison.rows(one.train, classes))
            if poison.rows is not None and one.site.organisation in dishonest
            else one
            for one in experiment.hospitals
        ]
        experiment = replace(experiment, hospitals=poisoned)
        lost = {True: 0, False: 0}
        return cls(experiment, poison, dishonest, combine, filtering, seed, lost)

    def run(self, rounds: int) -> Found:
        """Train so many rounds from first weights that the seed gives, and test."""
        experiment = self.experiment
        base = initial(experiment.spec, experiment.grid_bits, self.seed)
        sites = {one.site.organisation: one.site for one in experiment.hospitals}
        failed = 0
        for number, beacon in enumerate(beacons(self.seed.to_bytes(8, "big"), rounds), start=1):
            try:
                results = self._send(base, number, beacon)
                accepted = self._accepted(base, number, results)
                delta = self.combine(
                    experiment.terms.aggregation,
                    [results[name].delta for name in accepted],
                    [aggregation_weight(experiment.terms, sites[name]) for name in accepted],
                    accepted,
                    beacon,
                )
            except Refused:  # too few updates, or weights that an attack has pushed off the grid
                failed += 1
                continue
            base = base + delta
        return self._test(base, rounds, failed)

    def _send(self, base: Ints, number: int, beacon: Digest) -> dict[str, Result]:
        """What every site sends."""
        experiment = self.experiment
        results = {}
        for one in experiment.hospitals:
            site = one.site
            job = Job(
                experiment.spec,
                experiment.grid_bits,
                experiment.terms.training,
                beacon,
                site.dataset,
            )
            results[site.organisation] = train(job, base, one.train)
        if self.poison.name == "none":
            return results
        honest = np.stack(
            [one.delta for name, one in results.items() if name not in self.dishonest]
        ).astype(np.float64)
        median = lower_median([int(np.linalg.norm(row)) for row in honest]) or 0
        bound = self.experiment.terms.policy.norm_factor / MICRO if self.filtering else FORGE_SCALE
        for place, name in enumerate(sorted(self.dishonest)):
            seen = Seen(
                results[name].delta.astype(np.float64),
                honest,
                WITHIN * bound * median,
                len(self.dishonest),
                self.experiment.terms.policy.direction_min / MICRO,
                np.random.default_rng((self.seed, number, place)),
            )
            results[name] = bend(base, results[name], self.poison.delta(seen))
        return results

    def _accepted(self, base: Ints, number: int, results: dict[str, Result]) -> list[str]:
        if not self.filtering:
            return sorted(results)
        experiment = self.experiment
        deltas = [result.delta for result in results.values()]
        nobody = experiment.hospitals[0].scoring.take([])
        case = Case.of(
            experiment.spec, experiment.grid_bits, experiment.terms, base, deltas, nobody
        )
        cases = {
            one.site.organisation: replace(case, rows=one.scoring) for one in experiment.hospitals
        }
        accepted = []
        for one in experiment.hospitals:
            name = one.site.organisation
            if self._passes(one, *experiment.submit(one, number, results[name]), cases):
                accepted.append(name)
            else:
                self.lost[name in self.dishonest] += 1
        return sorted(accepted)

    def _passes(
        self, one: Hospital, update: Update, blob: bytes, cases: Mapping[str, Case]
    ) -> bool:
        """Whether verdicts accept an update; once they decide, nobody else is asked."""
        bad = self.dishonest
        delta, refused = None, None
        try:
            delta = check_form(cases[update.organisation], update, blob)
        except Refused as found:
            refused = Judgement(Decision.FAIL, found.code, found.message)
        eligible = eligible_verifiers(self.experiment.terms)
        verdicts: list[Verdict] = []
        others = [by for by in self.experiment.hospitals if by is not one]
        for by in sorted(others, key=lambda by: by.site.organisation not in bad):  # lies are quick
            name = by.site.organisation
            if name in bad:
                judgement = _lie(update.organisation in bad)
            elif delta is None:
                assert refused is not None, "an update that is not well-formed"
                judgement = refused
            else:
                judgement = score(cases[name], delta)
            verdicts.append(verdict_of(by.site, update, judgement))
            status = settle(update, verdicts, eligible).status
            if status is not UpdateStatus.UNDECIDED:
                return status is UpdateStatus.ACCEPTED
        return False

    def _test(self, weights: Ints, rounds: int, failed: int) -> Found:
        experiment = self.experiment
        module = build(experiment.spec)
        load(module, weights, experiment.grid_bits)

        def logits(rows: Rows) -> torch.Tensor:
            with torch.no_grad():
                found: torch.Tensor = module(rows.inputs)
            return found

        binary = experiment.spec.output is Output.BINARY
        right, counts, fooled, tried = {}, {}, 0, 0
        labels, scores = [], []
        for one in experiment.hospitals:
            name, out = one.site.organisation, logits(one.test)
            called = (out[:, 0] > 0).long() if binary else out.argmax(1)
            right[name] = int((called == one.test.labels).sum())
            counts[name] = len(one.test)
            if name not in self.dishonest:
                labels.append(one.test.labels.numpy())
                scores.append(out[:, 0].numpy())
            if not binary:
                rows = backdoor_rows(one.test)
                fooled += int((logits(rows).argmax(1) == TARGET).sum())
                tried += len(rows)
        honest = len(experiment.hospitals) - len(self.dishonest)
        return Found(
            right=right,
            rows=counts,
            auc=auc(np.concatenate(labels), np.concatenate(scores)) if binary else None,
            backdoor=None if binary else fooled / tried,
            honest=rounds * honest,
            honest_lost=self.lost[False],
            dishonest=rounds * len(self.dishonest),
            dishonest_lost=self.lost[True],
            rounds_failed=failed,
        )


def _lie(kin: bool) -> Judgement:
    """What a dishonest verifier says of its own kind, and of everybody else."""
    if kin:
        return Judgement(Decision.PASS, "verdict.pass", "made up", score_bp=0)
    return Judgement(Decision.FAIL, "update.loss", "made up")


def honest_share(found: Found, dishonest: frozenset[str]) -> float:
    """Accuracy on the test rows of honest sites, as a share."""
    names = [name for name in found.rows if name not in dishonest]
    return sum(found.right[name] for name in names) / sum(found.rows[name] for name in names)

"""Figures: the chain's split run again in one process, and further splits beside it.

The same `fl` code as on the network. Given the chain's beacons and the hospitals' own parts of
their rows, it must come to the chain's weights, byte for byte.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from fl.experiment import (
    Comparison,
    Experiment,
    Hospital,
    Plan,
    admit,
    beacons,
    mean_and_error,
)
from fl.fixed import Ints
from fl.weights import pack_weights, unpack_weights
from node.cid import address
from node.keyfile import read_secret
from node.site import load_data
from node.testnet import Layout
from vm.digest import SALT, digest
from vm.learning import Round, Task, UpdateStatus
from vm.record import Model

FURTHER_SPLITS = 10  # beside the chain's own: enough for a standard error


@dataclass(frozen=True, slots=True)
class Figures:
    """AUC over the splits: each mean with its standard error, and the chain's own split.

    `reproduced` is whether the chain's split, run in one process, gave the chain's weights.
    """

    splits: int
    means: dict[str, float]
    errors: dict[str, float]
    chain: dict[str, float]
    reproduced: bool


class Splits:
    """The hospitals' rows, parted as often as needed."""

    def __init__(self, layout: Layout, task: Task, base: Model, weights: bytes) -> None:
        self._task = task
        self._model = base
        self._base = unpack_weights(base.spec, base.grid_bits, weights)
        self._data = []
        for site in task.terms.sites:
            home = layout.home(site.organisation, "peer")
            secret = read_secret(home / "keys/rows.secret")
            self._data.append(load_data(home / "rows.csv", task.terms.preprocessing, secret))

    def figures(
        self,
        rounds: Sequence[Round],
        final: str,
        poisoned: dict[int, str],
        on_split: Callable[[], None],
    ) -> Figures:
        """Run the chain's split and `FURTHER_SPLITS` others.

        `final` is the address of the chain's final weights; `poisoned` maps a round's number to
        the organisation that sent a poisoned update in it.
        """
        plans = [_plan(found, poisoned.get(found.number)) for found in rounds]
        chain, weights = self._compare(self._experiment(None), plans)
        on_split()
        spec, bits = self._model.spec, self._model.grid_bits
        comparisons = [chain]
        for _ in range(FURTHER_SPLITS):
            seed = secrets.token_bytes(32)
            drawn = zip(beacons(seed, len(plans)), plans, strict=True)
            again = [Plan(beacon, plan.poisoned) for beacon, plan in drawn]
            comparisons.append(self._compare(self._experiment(seed), again)[0])
            on_split()
        columns = [asdict(comparison) for comparison in comparisons]
        found = {name: mean_and_error([column[name] for column in columns]) for name in columns[0]}
        return Figures(
            splits=len(comparisons),
            means={name: mean for name, (mean, _) in found.items()},
            errors={name: error for name, (_, error) in found.items()},
            chain=asdict(chain),
            reproduced=address(pack_weights(spec, bits, weights)) == final,
        )

    def _compare(self, experiment: Experiment, plans: Sequence[Plan]) -> tuple[Comparison, Ints]:
        federated = experiment.federate(self._base, plans).weights
        return experiment.compare(self._base, plans, federated), federated

    def _experiment(self, seed: bytes | None) -> Experiment:
        """With `seed` None each hospital parts its rows as its training peer does."""
        hospitals: list[Hospital] = []
        for site, data in zip(self._task.terms.sites, self._data, strict=True):
            own = data.secret if seed is None else digest(SALT, seed + data.secret)
            hospitals.append(
                admit(self._model.spec, self._task.terms, site, data.table, data.secret, own)
            )
        return Experiment(
            self._task.id, self._model.spec, self._model.grid_bits, self._task.terms, hospitals
        )


def _plan(found: Round, poisoned: str | None) -> Plan:
    """A round of the chain as a plan: who was absent there is absent here."""
    absent = {o.organisation for o in found.outcomes if o.status is UpdateStatus.ABSENT}
    return Plan(
        found.beacon,
        frozenset(() if poisoned is None else (poisoned,)),
        frozenset(absent),
    )

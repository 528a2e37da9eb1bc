"""Figures: the chain's split run again in one process, and further splits beside it.

The same `fl` code as on the network. Given the chain's beacons and the hospitals' own parts of
their rows, it must come to the chain's weights, byte for byte.
"""

import os
import secrets
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context

import torch

from fl.experiment import Comparison, Experiment, Plan, admit, beacons, mean_and_error
from fl.weights import pack_weights, unpack_weights
from node.home.keyfile import read_secret
from node.home.testnet import ROWS_SECRET, Layout
from node.peer.site import load_data
from node.wire.cid import address
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


@dataclass(frozen=True, slots=True)
class Chain:
    """What the network did, as far as running it again needs it.

    `final` is the address of the final weights; `poisoned` maps a round's number to the
    organisation that sent a poisoned update in it.
    """

    task: Task
    base: Model
    weights: bytes
    rounds: tuple[Round, ...]
    final: str
    poisoned: dict[int, str]


def figures(layout: Layout, chain: Chain, on_split: Callable[[], None]) -> Figures:
    """Run the chain's split and `FURTHER_SPLITS` others, as many at a time as there are cores."""
    seeds: list[bytes | None] = [None]
    seeds += [secrets.token_bytes(32) for _ in range(FURTHER_SPLITS)]
    # A forked child would inherit torch's threads and our event loop; a fresh one does not.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        running = [pool.submit(run_split, layout, chain, seed) for seed in seeds]
        for future in as_completed(running):
            future.result()
            on_split()
    found = [future.result() for future in running]
    columns = [asdict(comparison) for comparison, _ in found]
    summary = {name: mean_and_error([column[name] for column in columns]) for name in columns[0]}
    return Figures(
        splits=len(found),
        means={name: mean for name, (mean, _) in summary.items()},
        errors={name: error for name, (_, error) in summary.items()},
        chain=columns[0],
        reproduced=found[0][1] == chain.final,
    )


def run_split(layout: Layout, chain: Chain, seed: bytes | None) -> tuple[Comparison, str]:
    """The comparison, and the address of the federated weights.

    With `seed` None each hospital parts its rows as its training peer does, and the rounds have
    the chain's beacons.
    """
    torch.set_num_threads(1)  # the splits themselves share the cores
    plans = [_plan(found, chain.poisoned.get(found.number)) for found in chain.rounds]
    if seed is not None:
        drawn = zip(beacons(seed, len(plans)), plans, strict=True)
        plans = [Plan(beacon, plan.poisoned, plan.absent) for beacon, plan in drawn]
    spec, bits = chain.base.spec, chain.base.grid_bits
    base = unpack_weights(spec, bits, chain.weights)
    experiment = _experiment(layout, chain, seed)
    federated = experiment.federate(base, plans).weights
    comparison = experiment.compare(base, plans, federated)
    return comparison, address(pack_weights(spec, bits, federated))


def _experiment(layout: Layout, chain: Chain, seed: bytes | None) -> Experiment:
    terms, hospitals = chain.task.terms, []
    for site in terms.sites:
        home = layout.home(site.organisation, "peer")
        secret = read_secret(home / ROWS_SECRET)
        table = load_data(home / "rows.csv", terms.preprocessing, secret).table
        parts = secret if seed is None else digest(SALT, seed + secret)
        hospitals.append(admit(chain.base.spec, terms, site, table, secret, parts))
    return Experiment(chain.task.id, chain.base.spec, chain.base.grid_bits, terms, hospitals)


def _plan(found: Round, poisoned: str | None) -> Plan:
    """A round of the chain as a plan: who was absent there is absent here."""
    absent = {o.organisation for o in found.outcomes if o.status is UpdateStatus.ABSENT}
    return Plan(
        found.beacon,
        frozenset(() if poisoned is None else (poisoned,)),
        frozenset(absent),
    )

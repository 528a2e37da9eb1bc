"""Figures: the chain's split run again in one process, and further splits beside it.

The same `fl` code as on the network. Given the chain's beacons and the hospitals' own parts of
their rows, it must come to the chain's weights, byte for byte.
"""

import os
import secrets
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
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

    `gains` are the differences federated - alone within each split, with mean and standard error.
    `reproduced` is whether the chain's split, run in one process, gave the chain's weights.
    """

    splits: int
    means: dict[str, float]
    errors: dict[str, float]
    chain: dict[str, float]
    gains: dict[str, tuple[float, float]]
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
        gains={
            "everywhere": _gain(columns, "federated", "alone"),
            "own": _gain(columns, "own_federated", "own_alone"),
        },
        reproduced=found[0][1] == chain.final,
    )


def _gain(columns: list[dict[str, float]], of: str, over: str) -> tuple[float, float]:
    """Splits are hard or easy for both: their difference says more than that of the means."""
    return mean_and_error([column[of] - column[over] for column in columns])


def run_split(layout: Layout, chain: Chain, seed: bytes | None) -> tuple[Comparison, str]:
    """The comparison, and the address of the federated weights.

    With `seed` None each hospital parts its rows as its training peer does, and the rounds have
    the chain's beacons.
    """
    torch.set_num_threads(1)  # the splits themselves share the cores
    plans = plans_of(chain)
    if seed is not None:
        drawn = zip(beacons(seed, len(plans)), plans, strict=True)
        plans = [replace(plan, beacon=beacon, accepted=None) for beacon, plan in drawn]
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


def plans_of(chain: Chain) -> list[Plan]:
    """The chain's rounds as plans: with the absent absent, and what was accepted there accepted.

    A round that failed made no version, and is none here.
    """
    return [_plan(found, chain) for found in chain.rounds if found.model_version is not None]


def _plan(found: Round, chain: Chain) -> Plan:
    poisoner = chain.poisoned.get(found.number)
    return Plan(
        beacon=found.beacon,
        poisoned=frozenset(() if poisoner is None else (poisoner,)),
        absent=_with(found, UpdateStatus.ABSENT),
        accepted=_with(found, UpdateStatus.ACCEPTED),
    )


def _with(found: Round, status: UpdateStatus) -> frozenset[str]:
    return frozenset(o.organisation for o in found.outcomes if o.status is status)

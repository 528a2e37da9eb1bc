"""Membership inference: was this row trained on? Asked of updates that an attacker can read.

Two attacks. An update lowers the losses of the rows that it was trained on a little more than of
others of the same site (Yeom et al. 2018). How much it lowers them anyway, the other sites' updates
of the round tell, which never saw the row: what is left, in their standard deviations, is a ratio
of the kind of Carlini et al. 2022, without a model trained for it.

And an update is about the sum of its rows' gradients: a matched filter looks for one row's gradient
in it, apart from all directions in which gradients of rows point that the attacker has itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, vmap

from fl.experiment import join
from fl.fixed import Ints, from_grid
from fl.metric import Numbers, auc
from fl.model import Rows, build, load, losses
from tests.lab.data import Source
from tests.lab.watched import Finding, Watched, row_losses, watch

FALSE_SHARE = 0.01  # of rows that were not trained on, wrongly taken for such
SPREAD_MIN = 1e-3  # nat: below, the others' updates say alike by chance
RIDGE = 0.01  # of the mean squared gradient: what counts as a direction that known rows do not have
LENGTH_MIN = 1e-12  # of what is left of a gradient, squared

Marks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Crowd:
    """All rows of all sites, the site of each, and whether it was trained on: [rows]."""

    rows: Rows
    site: NDArray[np.int64]
    trained: Marks

    @classmethod
    def of(cls, seen: Watched) -> "Crowd":
        """The training rows of each site, then those that it holds back."""
        rows, site, trained = [], [], []
        for number, one in enumerate(seen.sites):
            held = len(one.scoring) + len(one.test)
            rows += [one.train, one.scoring, one.test]
            site += [number] * (len(one.train) + held)
            trained += [True] * len(one.train) + [False] * held
        return cls(join(rows), np.array(site), np.array(trained))


def membership(data: Source, seed: int) -> Iterator[Finding]:
    """Of every site's rows: those of its training part against its scoring and test rows."""
    seen = watch(data, seed, data.rounds)
    crowd = Crowd.of(seen)
    for view, scores in {**_by_loss(seen, crowd), **_by_gradient(seen, crowd)}.items():
        asked = ~np.isnan(scores)
        known, found = crowd.trained[asked], scores[asked]
        area = auc(known.astype(np.int64), found)
        assert area is not None, "rows of both kinds"
        yield Finding("membership", data.name, view, "AUC", area, 0.5)
        hit = found_at(found, known)
        yield Finding("membership", data.name, view, "found at 1 % false", hit, FALSE_SHARE)


def found_at(scores: Numbers, trained: Marks) -> float:
    """The share of trained rows whose score lies above all but FALSE_SHARE of the others'."""
    threshold = np.quantile(scores[~trained], 1 - FALSE_SHARE, method="higher")
    return float((scores[trained] > threshold).mean())


def _by_loss(seen: Watched, crowd: Crowd) -> dict[str, Numbers]:
    """Scores [rows] by how an update changes losses; NaN of rows that are not asked about."""
    before = [row_losses(seen.data, base, crowd.rows) for base in seen.bases]
    drops = np.array(
        [
            [losses - row_losses(seen.data, base + delta, crowd.rows) for delta in deltas]
            for base, losses, deltas in zip(seen.bases[:-1], before[:-1], seen.deltas, strict=True)
        ]
    )  # [rounds, sites, rows]
    own = drops[:, crowd.site, np.arange(len(crowd.site))]  # [rounds, rows]
    is_own = np.arange(len(seen.sites))[:, None] == crowd.site  # [sites, rows]
    others = np.ma.masked_array(drops, np.broadcast_to(is_own, drops.shape))
    spread = np.maximum(others.std(axis=1).filled(0), SPREAD_MIN)
    beside = (own - others.mean(axis=1).filled(0)) / spread
    return {
        "one update: loss": own[-1],
        "one update: loss beside the others' updates": beside[-1],
        "a site's updates of all rounds: the same": beside.sum(axis=0),
        "mean of all updates: loss": before[-2] - before[-1],
        "the last model: loss": -before[-1],
    }


def _by_gradient(seen: Watched, crowd: Crowd) -> dict[str, Numbers]:
    """Scores [rows] by matched filter, for an attacker with the rows of one site or of all others.

    Three rounds are looked at: the first, the middle one and the last.
    """
    rounds = sorted({0, len(seen.deltas) // 2, len(seen.deltas) - 1})
    sites = range(len(seen.sites))
    one, many = np.zeros((2, len(rounds), len(crowd.site)))
    mean = np.full(len(crowd.site), np.nan)
    for place, number in enumerate(rounds):
        found = gradients(seen.data, seen.bases[number], crowd.rows)
        products = found @ found.T
        for site in sites:
            asked, towards = crowd.site == site, _towards(seen, found, seen.deltas[number][site])
            neighbour = crowd.site == (site + 1) % len(sites)
            one[place, asked] = matched(products, towards, asked, neighbour)
            many[place, asked] = matched(products, towards, asked, ~asked)
    others = crowd.site != 0  # the attacker is site 0, and takes its own update out of the sum
    towards = _towards(seen, found, np.sum(seen.deltas[-1][1:], axis=0))
    mean[others] = matched(products, towards, others, ~others)
    return {
        "one update: gradient, with one site's rows": one[-1],
        "one update: gradient, with all others' rows": many[-1],
        "a site's updates of three rounds: the same": many.sum(axis=0),
        "mean of all updates: gradient, with one site's rows": mean,
    }


def gradients(data: Source, weights: Ints, rows: Rows) -> Numbers:
    """The gradient of each row's loss: [rows, parameters]."""
    module = build(data.spec)
    load(module, weights, data.grid_bits)
    values = {name: value.detach() for name, value in module.named_parameters()}

    def loss(at: dict[str, Tensor], inputs: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(module, at, (inputs[None],))
        return losses(data.spec.output, logits, label[None])[0]

    found = vmap(grad(loss), in_dims=(None, 0, 0))(values, rows.inputs, rows.labels)
    flat: Numbers = torch.cat([one.reshape(len(rows), -1) for one in found.values()], dim=1).numpy()
    return flat


def _towards(seen: Watched, found: Numbers, delta: Ints) -> Numbers:
    """Inner products [rows] of gradients [rows, parameters] with the way that a delta came down."""
    towards: Numbers = found @ -from_grid(delta, seen.data.grid_bits)
    return towards


def matched(products: Numbers, towards: Numbers, asked: Marks, known: Marks) -> Numbers:
    """How much of each asked row's gradient is in the update, in standard deviations: [asked].

    `products` [rows, rows] are inner products of gradients, `towards` [rows] those with the update.
    Directions of the known rows' gradients count as noise (their covariance and a ridge inverted,
    by Woodbury's identity).
    """
    among, across = products[np.ix_(known, known)], products[np.ix_(asked, known)]
    ridge = RIDGE * np.trace(among) / known.sum()
    solved = np.linalg.solve(
        among + ridge * np.eye(len(among)), np.column_stack([towards[known], across.T])
    )
    left = towards[asked] - across @ solved[:, 0]
    own = np.diag(products)[asked] - np.einsum("ak,ka->a", across, solved[:, 1:])
    scores: Numbers = left / np.sqrt(np.maximum(own, LENGTH_MIN))
    return scores

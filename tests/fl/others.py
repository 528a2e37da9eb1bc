"""What byzfl and flwr make of the same updates: run by hand where both are installed.

    python -m tests.fl.others

They cannot be installed beside this package: flwr asks for rich below 15. So their results are
computed once and kept in others.json with the versions that made them; `tests/fl/test_others.py`
compares. Everything is float64 on whole numbers below 2^21, which neither rounds much.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np

PATH = Path(__file__).with_name("others.json")
SEED = 20_261_122
CASES = 40
STEPS = 6
CLIPPING_STEPS = 16  # as ours
TAU = 700_000.0  # of centered clipping, below the norm of most updates
UNIT = 2**24  # of the grid: server optimizers are fed real numbers


def main() -> None:
    """Write the file."""
    random = np.random.default_rng(SEED)
    found = {
        "versions": {name: version(name) for name in ("byzfl", "flwr", "numpy")},
        "seed": SEED,
        "clipping_steps": CLIPPING_STEPS,
        "tau": TAU,
        "cases": [_case(random) for _ in range(CASES)],
        "servers": _servers(random),
    }
    PATH.write_text(json.dumps(found, indent=None, separators=(",", ":")) + "\n")


def _case(random: np.random.Generator) -> dict[str, Any]:
    """Updates around a common direction, up to f of them elsewhere, and weights."""
    n = int(random.integers(7, 12))
    f = int(random.integers(1, (n - 3) // 2 + 1))
    p = 6
    common = random.normal(0, 2**18, p)
    rows = common + random.normal(0, 2**17, (n, p))
    far = int(random.integers(0, f + 1))
    rows[:far] = random.normal(0, 2**19, (far, p))
    updates = np.rint(rows[random.permutation(n)])
    weights = [int(weight) for weight in random.integers(1, 1_000, n)]
    return {
        "f": f,
        "updates": [[int(value) for value in row] for row in updates],
        "weights": weights,
        "byzfl": _byzfl(updates, f),
        "flwr": _flwr(updates, weights, f),
    }


def _byzfl(updates: Any, f: int) -> dict[str, list[float]]:
    # its benchmark asks for torchvision, which no rule uses and which must match torch's build
    sys.modules.setdefault("torchvision", MagicMock())
    import byzfl

    mixed = byzfl.NNM(f)(updates)
    rules = {
        "average": byzfl.Average()(updates),
        "median": byzfl.Median()(updates),
        "trimmed_mean": byzfl.TrMean(f)(updates),
        "krum": byzfl.Krum(f)(updates),
        "multi_krum": byzfl.MultiKrum(f)(updates),
        "geometric_median": byzfl.GeometricMedian(nu=0.1, T=1_000)(updates),
        "centered_clipping": byzfl.CenteredClipping(L=CLIPPING_STEPS, tau=TAU)(updates),
        "neighbours_trimmed_mean": byzfl.TrMean(f)(mixed),
        "neighbours_median": byzfl.Median()(mixed),
        "neighbours_multi_krum": byzfl.MultiKrum(f)(mixed),
    }
    return {name: np.asarray(value).tolist() for name, value in rules.items()}


def _flwr(updates: Any, weights: list[int], f: int) -> dict[str, list[float]]:
    from flwr.server.strategy import aggregate as rules

    n = len(updates)
    alike = [([row], 1) for row in updates]
    weighted = [([row], weight) for row, weight in zip(updates, weights, strict=True)]
    found = {
        "weighted_mean": rules.aggregate(weighted),
        "median": rules.aggregate_median(alike),
        "trimmed_mean": rules.aggregate_trimmed_avg(alike, (f + 0.5) / n),
        "krum": rules.aggregate_krum(alike, f, 0),
        "multi_krum": rules.aggregate_krum(alike, f, n - f),
    }
    return {name: np.asarray(value[0]).tolist() for name, value in found.items()}


def _servers(random: np.random.Generator) -> dict[str, Any]:
    """The weights after each of some rounds, from the mean of that round's update."""
    from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.server.strategy import FedAdam, FedAvgM

    p = 5
    deltas = np.rint(random.normal(0, 2**18, (STEPS, p)))
    zero = np.zeros(p)
    makers: dict[str, Any] = {
        "momentum": lambda: FedAvgM(
            initial_parameters=ndarrays_to_parameters([zero]),
            server_learning_rate=0.5,
            server_momentum=0.9,
        ),
        "adam": lambda: FedAdam(
            initial_parameters=ndarrays_to_parameters([zero]),
            eta=0.25,
            beta_1=0.9,
            beta_2=0.99,
            tau=0.001,
        ),
    }
    found: dict[str, Any] = {"deltas": [[int(value) for value in row] for row in deltas]}
    for name, make in makers.items():
        strategy, weights, path = make(), zero, []
        for number, delta in enumerate(deltas, start=1):
            sent = ndarrays_to_parameters([weights + delta / UNIT])
            result = FitRes(Status(Code.OK, ""), sent, 1, {})
            parameters, _ = strategy.aggregate_fit(number, [(None, result)], [])
            weights = parameters_to_ndarrays(parameters)[0]
            path.append(weights.tolist())
        found[name] = path
    return found


if __name__ == "__main__":
    main()

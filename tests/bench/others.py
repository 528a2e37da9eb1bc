"""Other frameworks, where they are installed: byzfl's rules, Flower's simulation."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from fl.experiment import Hospital
from fl.fixed import Int32s
from tests.bench.bare import milliseconds, plan_of
from tests.lab.data import Source
from vm.record import Linear

REPOSITORY = Path(__file__).resolve().parents[2]
FLOWER_S_MAX = 1_800.0  # for a whole simulation: only a hang takes longer


@dataclass(frozen=True, slots=True)
class Flower:
    """Flower's simulation: seconds until its first round had ended, and a later one's median."""

    start_s: float
    round_s: float


def byzfl_ms(updates: Sequence[Int32s]) -> dict[str, float]:
    """As `bare.rules_ms`, of byzfl's rules by our names for them; {} where it is not installed.

    On float32 tensors, as in training. Its geometric median stops after three steps and its
    clipping takes one.
    """
    rules = _byzfl()
    if rules is None:
        return {}
    ours: dict[str, Callable[[Any], Any]] = {
        "weighted_mean": rules.Average(),
        "median": rules.Median(),
        "trimmed_mean": rules.TrMean(f=3),
        "krum": rules.Krum(f=3),
        "multi_krum": rules.MultiKrum(f=3),
        "geometric_median": rules.GeometricMedian(),
        "centered_clipping (f = 1)": rules.CenteredClipping(),
        "bucketed_median": _after(rules.Bucketing(s=2), rules.Median()),
        "nnm_trimmed_mean": _after(rules.NNM(f=3), rules.TrMean(f=3)),
    }
    vectors = torch.from_numpy(np.stack(updates).astype(np.float32))
    return {
        name: milliseconds(lambda rule=rule: rule(vectors), vectors.shape[1])  # type: ignore[misc]
        for name, rule in ours.items()
    }


def _after(mixing: Callable[[Any], Any], rule: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda vectors: rule(mixing(vectors))


def _byzfl() -> Any:
    """Its rules alone: the package imports torchvision, which only its benchmark needs."""
    spec = importlib.util.find_spec("byzfl")
    if spec is None:
        return None
    sys.modules.setdefault("byzfl", importlib.util.module_from_spec(spec))
    return importlib.import_module("byzfl.aggregators")


def flower(
    python: Path, data: Source, sites: Sequence[Hospital], rounds: int, folder: Path
) -> Flower:
    """Simulate by the interpreter of an environment with `flwr[simulation]`.

    Raises `AssertionError` with the end of what it said if it fails.
    """
    paths = [folder / name for name in ("sites.npz", "plan.json", "flower.json")]
    arrays = {
        f"{name}_{number}": tensor.numpy()
        for number, site in enumerate(sites)
        for name, tensor in (("inputs", site.train.inputs), ("labels", site.train.labels))
    }
    np.savez(paths[0], **arrays)  # type: ignore[arg-type]
    widths = [layer.inputs for layer in data.spec.layers if isinstance(layer, Linear)]
    plan = {"plan": asdict(plan_of(data)), "widths": widths, "rounds": rounds, "sites": len(sites)}
    paths[1].write_text(json.dumps(plan))
    done = subprocess.run(
        [python, "-m", "tests.bench.flower", *map(str, paths)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=FLOWER_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    found = json.loads(paths[2].read_text())
    return Flower(found["start_s"], median(found["rounds_s"]))

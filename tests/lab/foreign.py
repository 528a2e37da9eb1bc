"""Rules of byzfl (https://github.com/LPD-EPFL/byzfl) in place of ours, in floats, on the same rows.

byzfl comes with the extra `lab`; without it there is nothing here to call, and `installed` says so.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from fl.fixed import Floats, Ints
from fl.rules.choice import CLIPPING_STEPS
from fl.rules.rows import Deltas
from fl.settle import lower_median
from tests.lab.federation import Combine
from vm.refusal import Refused
from vm.shape import Digest
from vm.terms import Aggregation

Make = Callable[[Any, int, Floats], Any]  # byzfl, f and the rows [n, p]: what makes one of them


def _clipping(byzfl: Any, f: int, rows: Floats) -> Any:
    """With the radius and the steps of our rule."""
    radius = lower_median([int(np.linalg.norm(row)) for row in rows])
    return byzfl.CenteredClipping(L=CLIPPING_STEPS, tau=float(radius or 1))


def _mixed(byzfl: Any, f: int, rows: Floats) -> Any:
    mix, trim = byzfl.NNM(f), byzfl.TrMean(f)
    return lambda rows: trim(mix(rows))


FOREIGN: Mapping[str, tuple[str, Make]] = {
    # with the rule of ours whose f and smallest round it is given; mda and meamed we have not
    "average": ("weighted_mean", lambda byzfl, f, rows: byzfl.Average()),
    "median": ("median", lambda byzfl, f, rows: byzfl.Median()),
    "trimmed_mean": ("trimmed_mean", lambda byzfl, f, rows: byzfl.TrMean(f)),
    "krum": ("krum", lambda byzfl, f, rows: byzfl.Krum(f)),
    "multi_krum": ("multi_krum", lambda byzfl, f, rows: byzfl.MultiKrum(f)),
    "geometric_median": ("geometric_median", lambda byzfl, f, rows: byzfl.GeometricMedian()),
    "centered_clipping": ("centered_clipping", _clipping),
    "nnm_trimmed_mean": ("nnm_trimmed_mean", _mixed),
    "mda": ("trimmed_mean", lambda byzfl, f, rows: byzfl.MDA(f)),
    "meamed": ("trimmed_mean", lambda byzfl, f, rows: byzfl.Meamed(f)),
}


def installed() -> bool:
    """Whether byzfl is there to be called."""
    return find_spec("byzfl") is not None


def combine(make: Make) -> Combine:
    """A rule of byzfl, to be called as `fl.aggregate.aggregate` is.

    It weighs all updates alike, and its outcome is rounded to the grid.
    """

    def combined(
        aggregation: Aggregation,
        updates: Sequence[Deltas],
        weights: Sequence[int],
        ids: Sequence[str],
        seed: Digest,
    ) -> Ints:
        if len(updates) < aggregation.updates_min:
            raise Refused(
                "aggregate.too_few",
                f"expected at least {aggregation.updates_min} updates, found {len(updates)}",
            )
        rows = np.stack(updates).astype(np.float64)
        found: Ints = np.rint(make(_byzfl(), aggregation.f, rows)(rows)).astype(np.int64)
        return found

    return combined


@cache
def _byzfl() -> ModuleType:
    """The library's rules without the rest of its package.

    Its own `__init__` loads data sets and plots, and fails where torchvision is built for another
    torch; the rules need neither.
    """
    spec = find_spec("byzfl")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("expected byzfl, of the extra lab, found no such package")
    package = ModuleType("byzfl")
    package.__spec__, package.__path__ = spec, spec.submodule_search_locations
    sys.modules["byzfl"] = package
    return import_module("byzfl.aggregators")

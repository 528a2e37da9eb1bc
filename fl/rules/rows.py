"""Updates as the rules see them: n rows of p coordinates, CHUNK coordinates at a time.

Memory beyond the updates is bounded by a few chunks, whatever the model's size.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from fl.fixed import INT32_MAX, INT32_MIN, Int32s, Ints, check_range
from fl.spec import PARAMETERS_MAX
from vm.record import PARTICIPANTS_MAX

Deltas: TypeAlias = Int32s | Ints  # of one update; int32 as it travels

CHUNK = 2**14  # coordinates at a time: 8 MiB for PARTICIPANTS_MAX updates in int64, near the cache


def chunks(updates: Sequence[Deltas]) -> Iterator[tuple[slice, Int32s]]:
    """Slices of the coordinates and the updates there, [n, c]; raises `Refused("update.range")`."""
    check_rows(updates)
    for start in range(0, len(updates[0]), CHUNK):
        part = slice(start, start + CHUNK)
        yield part, np.stack([_int32(update[part]) for update in updates])


def by_chunk(updates: Sequence[Deltas], rule: Callable[[Int32s], Ints]) -> Ints:
    """The results [p] of `rule`, which makes [c] of every chunk [n, c] and stays within int32."""
    result = np.empty(len(updates[0]), np.int64)
    for part, rows in chunks(updates):
        found = rule(rows)
        assert INT32_MIN <= found.min() <= found.max() <= INT32_MAX, "a rule stays among its input"
        result[part] = found
    return result


def check_rows(updates: Sequence[Deltas]) -> None:
    """Assert what the bounds of all sums rest on: how many updates, and of how many coordinates."""
    assert 1 <= len(updates) <= PARTICIPANTS_MAX, f"{len(updates)} updates"
    assert len({update.shape for update in updates}) == 1, "updates of one model"
    assert len(updates[0]) <= PARAMETERS_MAX, f"{len(updates[0])} coordinates"


def _int32(units: Deltas) -> Int32s:
    if units.dtype == np.int32:
        return units.astype(np.int32, copy=False)
    return check_range(units.astype(np.int64, copy=False)).astype(np.int32)

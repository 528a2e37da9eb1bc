"""Rules of another library are called as ours are."""

from types import ModuleType

import numpy as np
import pytest

from tests.lab import foreign
from tests.lab.setting import DEFAULT, OURS, RULES
from vm.refusal import Refused
from vm.shape import Digest

SEED = Digest(bytes(32))
IDS = [f"site-{number:02}" for number in range(1, 10)]
random = np.random.default_rng(5)
UPDATES = [np.rint(random.normal(size=40) * 2**20).astype(np.int64) for _ in IDS]


def test_a_rule_by_others_ends_on_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever floats it finds are rounded to whole grid units."""
    monkeypatch.setattr(foreign, "_byzfl", lambda: ModuleType("byzfl"))
    halves = foreign.combine(lambda byzfl, f, rows: lambda rows: rows[0] / 2)

    found = halves(OURS[DEFAULT], UPDATES, [1] * 9, IDS, SEED)

    assert np.array_equal(found, np.rint(UPDATES[0] / 2))
    assert found.dtype == np.int64


def test_a_rule_by_others_needs_as_many_updates_as_ours() -> None:
    """Else rounds would fail with one and not with the other, and that would be compared."""
    with pytest.raises(Refused, match="expected at least 5 updates, found 4"):
        RULES["byzfl.nnm_trimmed_mean"].combine(OURS[DEFAULT], UPDATES[:4], [1] * 4, IDS[:4], SEED)


@pytest.mark.skipif(not foreign.installed(), reason="byzfl comes with the extra lab alone")
@pytest.mark.parametrize("name", ["median", "trimmed_mean", "nnm_trimmed_mean"])
def test_the_same_rule_by_others_finds_the_same(name: str) -> None:
    """A differential test of ours, in integers, against theirs, in floats: to a grid unit."""
    ours, theirs = RULES[name], RULES[f"byzfl.{name}"]

    own = ours.combine(ours.aggregation, UPDATES, [1] * 9, IDS, SEED)
    other = theirs.combine(theirs.aggregation, UPDATES, [1] * 9, IDS, SEED)

    assert np.abs(own - other).max() <= 1
    assert foreign.installed(), "also once it was called"

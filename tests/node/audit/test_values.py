"""Proven values as a source of records: what is missing, and what is too much."""

from typing import Literal

import pytest

from node.audit.values import Values
from vm.record import Organisation, Standing
from vm.refusal import Refused
from vm.shape import pack
from vm.state import state_key

HELD = Organisation("held", "Held", "NL", Standing.ENROLLED)
VALUES = {
    state_key(Organisation.KIND, ("held",)): pack(HELD),
    state_key(Organisation.KIND, ("absent",)): None,
}


def test_records_are_found_and_absent_as_they_were_proven() -> None:
    """Once all were read, none is too much."""
    values = Values(VALUES, "lineage")

    assert values.get(Organisation, "held") == HELD
    assert values.get(Organisation, "absent") is None
    values.expect_all_read()


@pytest.mark.parametrize("whole", ["lineage", "case"])
def test_what_is_missing_is_refused_where_all_is_due(whole: Literal["lineage", "case"]) -> None:
    """Nobody tells a part of the story for the whole."""
    with pytest.raises(Refused, match="organisation other") as refused:
        Values(VALUES, whole).get(Organisation, "other")

    assert refused.value.code == f"{whole}.incomplete"


def test_what_is_missing_is_noted_where_it_is_still_to_be_fetched() -> None:
    """In order, each once."""
    values = Values(VALUES, None)

    for name in ("second", "first", "second", "held"):
        values.get(Organisation, name)

    assert list(values.missing) == [
        state_key(Organisation.KIND, (name,)) for name in ("second", "first")
    ]


@pytest.mark.parametrize("whole", ["lineage", "case"])
def test_what_nobody_read_is_too_much(whole: Literal["lineage", "case"]) -> None:
    """Equal stories have equal proofs."""
    values = Values(VALUES, whole)
    values.get(Organisation, "absent")

    with pytest.raises(Refused) as refused:
        values.expect_all_read()

    assert refused.value.code == f"{whole}.excess"


def test_a_value_that_belongs_under_another_key_is_refused() -> None:
    """It was proven, and is not what it is shown for."""
    values = Values({state_key(Organisation.KIND, ("other",)): pack(HELD)}, "case")

    with pytest.raises(Refused) as refused:
        values.get(Organisation, "other")

    assert refused.value.code == "audit.key"

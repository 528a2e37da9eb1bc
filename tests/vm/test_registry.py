"""Members and datasets: what an admin and a steward may record, and what is refused them."""

from typing import Any

import pytest

from tests.vm.registrar import ADMIN, DATASET, chain, dataset, enrol, stand
from vm.record import (
    COLUMNS_MAX,
    CONDITIONS_MAX,
    Band,
    ColumnSchema,
    Dataset,
    Member,
    Role,
    Standing,
)
from vm.registry import CELL_MIN, MODIFIERS

OTHER_ADMIN = "hospital-2.admin"


def test_an_admin_enrols_members_of_its_own_organisation() -> None:
    """The member gets the admin's organisation, whatever its id says, and the block's height."""
    network = chain()

    network.applied([enrol("hospital-2.second", Role.TRAINER, transport=bytes(32))])

    assert network.get(Member, "hospital-2.second") == Member(
        id="hospital-2.second",
        organisation="hospital-1",
        role=Role.TRAINER,
        public_key=b"hospital-2.second".ljust(32, b"."),
        transport=bytes(32),
        standing=Standing.ENROLLED,
        enrolled_height=1,
        changed_height=1,
    )


def test_an_admin_cannot_make_a_validator() -> None:
    """One admin must not change who votes."""
    assert chain().refused(enrol("sybil", Role.VALIDATOR)) == "member.validator"


@pytest.mark.parametrize("victim", ["hospital-1.trainer", "hospital-2.trainer", ADMIN])
def test_an_enrolled_id_is_never_taken_over(victim: str) -> None:
    """Enrolling an id again with an attacker's key is refused, also after its revocation."""
    network = chain()
    before = network.get(Member, victim)

    assert network.refused(enrol(victim, Role.TRAINER)) == "member.exists"
    assert network.get(Member, victim) == before
    network.applied([enrol("zoe"), stand("zoe", Standing.REVOKED)])
    assert network.refused(enrol("zoe")) == "member.exists"


@pytest.mark.parametrize("stolen", ["public_key", "transport"])
def test_nobody_enrols_with_anothers_key(stolen: str) -> None:
    """A rival's admin who enrols a hospital's key for its own member is refused.

    Else the rival could pass for the hospital, or shut its validator out of the network.
    """
    network = chain()
    network.applied([enrol("victim", transport=b"t" * 32)])
    victim = network.get(Member, "victim")

    theft = enrol("thief", admin=OTHER_ADMIN, **{stolen: getattr(victim, stolen)})

    assert network.refused(theft) == "member.key"
    assert network.state.get(Member, "thief") is None


def test_a_member_is_suspended_and_restored() -> None:
    """Suspension is not final; the record says since when its standing holds."""
    network = chain()

    network.applied([stand("hospital-1.trainer", Standing.SUSPENDED)])
    suspended = network.get(Member, "hospital-1.trainer")
    network.applied([stand("hospital-1.trainer", Standing.ENROLLED)])
    restored = network.get(Member, "hospital-1.trainer")

    assert (suspended.standing, suspended.changed_height) == (Standing.SUSPENDED, 1)
    assert (restored.standing, restored.changed_height) == (Standing.ENROLLED, 2)
    assert restored.enrolled_height == 0


@pytest.mark.parametrize("standing", Standing)
def test_revocation_is_final(standing: Standing) -> None:
    """Nothing follows a revocation, not even another one."""
    network = chain()
    network.applied([stand("hospital-1.trainer", Standing.REVOKED)])

    assert network.refused(stand("hospital-1.trainer", standing)) == "member.revoked"
    assert network.get(Member, "hospital-1.trainer").changed_height == 1


def test_an_admin_has_no_power_over_other_organisations() -> None:
    """A rival's admin cannot suspend a hospital's trainer before the deadline."""
    network = chain()
    attack = stand("hospital-1.trainer", Standing.SUSPENDED, admin=OTHER_ADMIN)

    assert network.refused(attack) == "member.organisation"
    assert network.get(Member, "hospital-1.trainer").standing is Standing.ENROLLED


def test_validators_stand_above_a_single_admin() -> None:
    """Not even its own organisation's admin suspends a validator: that is for governance."""
    attack = stand("hospital-1.validator", Standing.REVOKED)

    assert chain().refused(attack) == "member.seated"


def test_an_unknown_member_has_no_standing() -> None:
    """There must be a member to suspend."""
    assert chain().refused(stand("nobody", Standing.SUSPENDED)) == "state.missing"


def test_a_dataset_is_recorded_for_the_stewards_organisation() -> None:
    """The record holds the body's fields, who brought it and when."""
    network = chain()

    network.applied([dataset()], time_ms=5_000_000_000_000)

    found = network.get(Dataset, "births")
    assert (found.organisation, found.steward) == ("hospital-1", "hospital-1.steward")
    assert (found.registered_height, found.registered_ms) == (1, 5_000_000_000_000)
    assert (found.root, found.schema, found.rows) == (DATASET.root, DATASET.schema, DATASET.rows)


def test_a_dataset_is_never_replaced() -> None:
    """Rows cannot be exchanged under a registered id: that would bend running tasks."""
    network = chain()
    network.applied([dataset()])

    assert network.refused(dataset(root=b"\x01" * 32)) == "dataset.exists"
    assert network.get(Dataset, "births").root == bytes(32)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"schema": (ColumnSchema("age", "a"), ColumnSchema("age", "1"))}, "dataset.columns"),
        ({"outcome": "age"}, "dataset.columns"),
        ({"rows": Band(100, 100 + CELL_MIN - 2)}, "dataset.band"),
        ({"positives": Band(7, 7)}, "dataset.band"),
        ({"rows": Band(199, 100)}, "dataset.band"),
        ({"positives": Band(200, 299)}, "dataset.band"),
        ({"conditions": ("DUO:0000012",)}, "dataset.conditions"),
        ({"conditions": ("DUO:0000006", "DUO:9999999")}, "dataset.conditions"),
        ({"conditions": ("DUO:0000006", "DUO:0000014")}, "dataset.conditions"),
    ],
)
def test_a_dataset_out_of_rule_is_refused(changes: dict[str, Any], code: str) -> None:
    """Repeated columns, the outcome among inputs, exact or small counts, unknown conditions."""
    network = chain()

    assert network.refused(dataset(**changes)) == code
    assert network.state.get(Dataset, "births") is None


def test_the_narrowest_bands_and_all_modifiers_are_taken() -> None:
    """A band of ten counts is the narrowest; every known modifier may go with a permission."""
    narrow = Band(100, 100 + CELL_MIN - 1)

    chain().applied([dataset(rows=narrow, positives=Band(narrow.high, narrow.high + CELL_MIN))])
    for term in sorted(MODIFIERS):
        chain().applied([dataset(conditions=("DUO:0000042", term))])


def test_columns_and_conditions_fill_their_bounds() -> None:
    """The widest schema with the longest names and the most conditions is taken and stored."""
    network = chain()
    columns = tuple(ColumnSchema(f"{n:064}", "u" * 64) for n in range(COLUMNS_MAX))
    conditions = ("DUO:0000042",) * CONDITIONS_MAX

    network.applied([dataset(schema=columns, conditions=conditions)])

    assert network.get(Dataset, "births").schema == columns

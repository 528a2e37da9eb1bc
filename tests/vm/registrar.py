"""A chain of members and datasets alone, and what its members say on it."""

from dataclasses import replace
from typing import Any

from tests.harness import Chain, Item
from vm.execute import Program
from vm.record import Band, ColumnSchema, Role, Standing
from vm.registry import KINDS, EnrolMember, RegisterDataset, SetStanding

ADMIN = "hospital-1.admin"
STEWARD = "hospital-1.steward"
PROGRAM = Program({kind.name: kind for kind in KINDS}, ())
DATASET = RegisterDataset(
    id="births",
    title="Births",
    root=bytes(32),
    schema=(ColumnSchema("age", "a"), ColumnSchema("bmi", "kg/m2")),
    outcome="preterm",
    rows=Band(100, 199),
    positives=Band(10, 19),
    conditions=("DUO:0000006",),
    region="NL-UT",
    opening=False,
    scores_max=100,
)


def chain(*hooks: Any) -> Chain:
    """A chain at its genesis."""
    return Chain(replace(PROGRAM, hooks=hooks))


def enrol(id: str, role: Role = Role.AUDITOR, *, admin: str = ADMIN, **changes: Any) -> Item:
    """An admin enrols a member of its own organisation."""
    body = EnrolMember(id, role, id.encode().ljust(32, b"."), None)
    return admin, "member.enrol", replace(body, **changes)


def stand(id: str, standing: Standing, *, admin: str = ADMIN) -> Item:
    """An admin sets a member's standing."""
    return admin, "member.standing", SetStanding(id, standing)


def dataset(**changes: Any) -> Item:
    """A steward registers a dataset."""
    return STEWARD, "dataset.register", replace(DATASET, **changes)

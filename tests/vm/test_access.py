"""Who may send what: every kind against every role, and every way of not being who one says."""

from dataclasses import replace

import pytest

from tests.harness import key_of
from vm.access import ACCESS, RESTRICTED, check_access
from vm.record import Member, Role, Standing
from vm.refusal import Refused

# Written again by hand: a role that slips into the table must slip in here too.
EXPECTED = {
    "member.enrol": {Role.ADMIN},
    "member.standing": {Role.ADMIN},
    "governance.propose": {Role.ADMIN},
    "governance.approve": {Role.ADMIN},
    "validator.fault": {Role.VALIDATOR, Role.ADMIN, Role.AUDITOR},
    "dataset.register": {Role.STEWARD},
    "model.register": {Role.STEWARD},
    "task.open": {Role.STEWARD},
    "learning.proof": {Role.TRAINER},
    "learning.decline": {Role.TRAINER},
    "learning.visit": {Role.TRAINER},
    "task.approve": {Role.TRAINER},
    "task.withdraw": {Role.TRAINER, Role.STEWARD, Role.ADMIN},
    "task.close": {Role.STEWARD},
    "learning.commit": {Role.VERIFIER},
    "learning.seal": {Role.VERIFIER},
    "learning.verdict": {Role.VERIFIER},
    "learning.rerun": {Role.VERIFIER},
    "learning.aggregate": {Role.VALIDATOR},
    "learning.audit": {Role.AUDITOR},
    "model.decide": {Role.STEWARD},
    "access.digest": {Role.VALIDATOR},
    "model.use": {Role.STEWARD, Role.TRAINER, Role.VERIFIER},
}

# What tells of a hospital's rows, its visitors or its use of models.
RESTRICTED_KINDS = {
    *("learning.verdict", "learning.rerun", "learning.visit", "learning.audit"),
    "model.use",
}
RESTRICTED_RECORDS = {"verdict", "visit", "audit", "model_usage", "use_batch"}


def member(role: Role = Role.ADMIN, standing: Standing = Standing.ENROLLED) -> Member:
    """A member with a key of its own."""
    return Member("ada", "amc", role, key_of("ada").public, None, standing, 3, 3)


def code_of(kind: str, sender: Member | None, key: bytes = key_of("ada").public) -> str:
    """The code with which a sender is refused, "" if it may send."""
    try:
        assert check_access(kind, sender, "ada", key) == sender
    except Refused as refused:
        return refused.code
    return ""


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("role", Role)
def test_each_kind_is_for_its_roles_alone(kind: str, role: Role) -> None:
    """An auditor sends nothing, an admin no verdict, a trainer no dataset, and so on."""
    assert code_of(kind, member(role)) == ("" if role in EXPECTED[kind] else "access.role")


def test_the_table_has_no_other_kinds() -> None:
    """A new kind of transaction needs a line in the table and one in this test."""
    assert {kind: set(access.senders) for kind, access in ACCESS.items()} == EXPECTED


def test_what_is_shown_to_known_readers_only_is_written_twice() -> None:
    """A kind or record that becomes restricted, or ceases to be, is changed here too."""
    assert {kind for kind, access in ACCESS.items() if access.restricted} == RESTRICTED_KINDS
    assert RESTRICTED == RESTRICTED_RECORDS


def test_a_stranger_is_refused() -> None:
    """Who is not enrolled may send nothing, with whatever key."""
    assert code_of("member.enrol", None) == "access.unknown_member"


def test_an_impostor_with_a_key_of_his_own_is_refused() -> None:
    """A good signature by another key than the enrolled one gives no right, whatever the standing.

    The key is judged first, so that an impostor does not learn a member's standing or role.
    """
    stolen = key_of("mallory").public

    assert code_of("member.enrol", member(), stolen) == "access.wrong_key"
    suspended = replace(member(Role.AUDITOR), standing=Standing.SUSPENDED)
    assert code_of("member.enrol", suspended, stolen) == "access.wrong_key"


@pytest.mark.parametrize("standing", [Standing.SUSPENDED, Standing.REVOKED])
def test_a_member_in_bad_standing_is_refused(standing: Standing) -> None:
    """The right role and key do not help a suspended or revoked member."""
    assert code_of("member.enrol", member(standing=standing)) == "access.standing"

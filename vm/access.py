"""Who may send which kind of transaction: the whole of it, in one table.

Roles are enough to enter a handler; what else must hold (the dataset is the sender's own
organisation's, the round is open) is a numbered check of the handler.
"""

from vm.record import Member, Role, Standing
from vm.refusal import Refused

#       kind                  roles that may send it
ACCESS: dict[str, frozenset[Role]] = {
    "member.enrol":      frozenset({Role.ADMIN}),
    "member.standing":   frozenset({Role.ADMIN}),
    "governance.propose": frozenset({Role.ADMIN}),
    "governance.approve": frozenset({Role.ADMIN}),
    "validator.fault":   frozenset({Role.VALIDATOR, Role.ADMIN, Role.AUDITOR}),
    "dataset.register":  frozenset({Role.STEWARD}),
    "model.register":    frozenset({Role.STEWARD}),
    "task.open":         frozenset({Role.STEWARD}),
    "task.close":        frozenset({Role.STEWARD}),
    "task.approve":      frozenset({Role.TRAINER}),
    "task.withdraw":     frozenset({Role.TRAINER, Role.STEWARD, Role.ADMIN}),
    "learning.proof":    frozenset({Role.TRAINER}),
    "learning.decline":  frozenset({Role.TRAINER}),
    "learning.commit":   frozenset({Role.VERIFIER}),
    "learning.seal":     frozenset({Role.VERIFIER}),
    "learning.verdict":  frozenset({Role.VERIFIER}),
    "learning.rerun":    frozenset({Role.VERIFIER}),
    "learning.aggregate": frozenset({Role.VALIDATOR}),
    "learning.visit":    frozenset({Role.TRAINER}),
    "learning.audit":    frozenset({Role.AUDITOR}),
    "model.decide":      frozenset({Role.STEWARD}),
    # who answers for a site's models, and the two keys that lie beside its rows, where models run
    "model.use":         frozenset({Role.STEWARD, Role.TRAINER, Role.VERIFIER}),
}  # fmt: skip


def check_access(kind: str, sender: Member | None, name: str, public_key: bytes) -> Member:
    """The sender's record if it may send `kind`; raises `Refused("access.*")`."""
    if sender is None:
        raise Refused("access.unknown_member", f"expected an enrolled member, found {name}")
    if sender.public_key != public_key:
        raise Refused(
            "access.wrong_key",
            f"expected {name}'s key {sender.public_key.hex()}, found {public_key.hex()}",
        )
    if sender.standing is not Standing.ENROLLED:
        raise Refused("access.standing", f"expected {name} enrolled, found {sender.standing.value}")
    if sender.role not in ACCESS[kind]:
        allowed = " or ".join(sorted(role.value for role in ACCESS[kind]))
        raise Refused(
            "access.role", f"expected role {allowed} for {kind}, found {sender.role.value}"
        )
    return sender

"""Who may send which kind of transaction, and which are read by known readers only, in one table.

Roles are enough to enter a handler; what else must hold (the dataset is the sender's own
organisation's, the round is open) is a numbered check of the handler. What is restricted binds the
HTTP interface and not execution: all that is on chain is with every validator's operator.
"""

from dataclasses import dataclass

from vm.record import Member, Role, Standing
from vm.refusal import Refused


@dataclass(frozen=True, slots=True)
class Access:
    """The roles that may send a kind, and whether its transactions are restricted.

    A restricted transaction is shown to identified readers only, and each time it is logged.
    """

    senders: frozenset[Role]
    restricted: bool


def _open(*senders: Role) -> Access:
    return Access(frozenset(senders), restricted=False)


def _restricted(*senders: Role) -> Access:
    return Access(frozenset(senders), restricted=True)


#    kind                  who is shown it, and roles that may send it
ACCESS: dict[str, Access] = {
    "member.enrol":       _open(Role.ADMIN),
    "member.standing":    _open(Role.ADMIN),
    "governance.propose": _open(Role.ADMIN),
    "governance.approve": _open(Role.ADMIN),
    "validator.fault":    _open(Role.VALIDATOR, Role.ADMIN, Role.AUDITOR),
    "dataset.register":   _open(Role.STEWARD),
    "model.register":     _open(Role.STEWARD),
    "task.open":          _open(Role.STEWARD),
    "task.close":         _open(Role.STEWARD),
    "task.approve":       _open(Role.TRAINER),
    "task.withdraw":      _open(Role.TRAINER, Role.STEWARD, Role.ADMIN),
    "learning.proof":     _open(Role.TRAINER),
    "learning.decline":   _open(Role.TRAINER),
    "learning.commit":    _open(Role.VERIFIER),
    "learning.seal":      _open(Role.VERIFIER),
    "learning.verdict":   _restricted(Role.VERIFIER),
    "learning.rerun":     _restricted(Role.VERIFIER),
    "learning.aggregate": _open(Role.VALIDATOR),
    "learning.visit":     _restricted(Role.TRAINER),
    "learning.audit":     _restricted(Role.AUDITOR),
    "model.decide":       _open(Role.STEWARD),
    "access.digest":      _open(Role.VALIDATOR),
    # who answers for a site's models, and the two keys that lie beside its rows, where models run
    "model.use":          _restricted(Role.STEWARD, Role.TRAINER, Role.VERIFIER),
}  # fmt: skip

# Records that are shown to identified readers only, each time with a line in the access log: by
# kind, for a room that brings such a record need not be imported to know that it is restricted.
# Each has a `blind` that a restricted transaction brings, so no other kind may write it.
RESTRICTED = frozenset({
    "verdict",      # scores on a hospital's rows: many of them together tell of the rows
    "visit",        # who was let into a hospital, and when
    "audit",        # what was found there
    "model_usage",  # how much each hospital uses a model
    "use_batch",    # when it does, and for what
})  # fmt: skip


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
    senders = ACCESS[kind].senders
    if sender.role not in senders:
        allowed = " or ".join(sorted(role.value for role in senders))
        raise Refused(
            "access.role", f"expected role {allowed} for {kind}, found {sender.role.value}"
        )
    return sender

"""The genesis document: the one thing that an auditor must already hold."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from vm import digest
from vm.epoch import EpochHead
from vm.quorum import VALIDATORS_MIN, Epoch, Validator, ValidatorSet
from vm.record import (
    Chain,
    Member,
    Organisation,
    Role,
    Sanction,
    Standing,
    Title,
    Window,
)
from vm.refusal import Refused
from vm.registry import claim_keys
from vm.shape import Code, Digest, Int, Many, TimeMs, pack
from vm.state import State
from vm.tenure import put_member

PROTOCOL = "concilium.1"
ORGANISATIONS_MAX = 1_024  # auditors and registries are organisations too, without a seat
MEMBERS_MAX = 4_096  # enrolled by genesis; more join by transactions
ROTATION_MAX = 1_000_000  # stable checkpoints between two planned changes of primary


@dataclass(frozen=True, slots=True)
class Genesis:
    """Block 0: who is enrolled at the start, and the network's fixed parameters.

    `window` is the number of sequence numbers between the watermarks, `rotation` after how many
    stable checkpoints the primary changes although nobody complains (0 for never), `equivocation`
    what becomes of a seat that signed two messages for one slot. Where reading is `public`, whoever
    reaches a validator may read what is not restricted; else its readers are enrolled members.
    """

    VERSION: ClassVar[int] = 1

    title: Title
    protocol: Code
    time_ms: TimeMs
    window: Window
    rotation: Annotated[int, Int(0, ROTATION_MAX)]
    equivocation: Sanction
    public: bool
    organisations: Annotated[tuple[Organisation, ...], Many(ORGANISATIONS_MAX, VALIDATORS_MIN)]
    members: Annotated[tuple[Member, ...], Many(MEMBERS_MAX, VALIDATORS_MIN)]

    @property
    def chain(self) -> Digest:
        """The chain's id: the digest of the genesis document."""
        return digest.digest(digest.GENESIS, pack(self))


def check_genesis(genesis: Genesis) -> Epoch:
    """Epoch 0 of a sound genesis; raises `Refused("genesis.*" | "validators.*")`."""
    if genesis.protocol != PROTOCOL:
        raise Refused("genesis.protocol", f"expected {PROTOCOL}, found {genesis.protocol}")
    organisations = {organisation.id for organisation in genesis.organisations}
    if len(organisations) != len(genesis.organisations):
        raise Refused("genesis.organisations", "expected distinct organisations, found a repeat")
    if len({member.id for member in genesis.members}) != len(genesis.members):
        raise Refused("genesis.members", "expected distinct members, found a repeat")
    if len({member.public_key for member in genesis.members}) != len(genesis.members):
        raise Refused("genesis.keys", "expected a key of its own for each member, found a repeat")
    transports = [m.transport for m in genesis.members if m.transport is not None]
    if len(set(transports)) != len(transports):
        raise Refused(
            "genesis.transports", "expected a TLS key of its own for each member, found a repeat"
        )
    for member in genesis.members:
        if member.organisation not in organisations:
            raise Refused(
                "genesis.organisation",
                f"expected {member.id} of a listed organisation, found {member.organisation}",
            )
        if member.standing is not Standing.ENROLLED:
            raise Refused("genesis.standing", f"expected {member.id} enrolled")
        if (member.enrolled_height, member.changed_height) != (0, 0):
            raise Refused("genesis.height", f"expected {member.id} enrolled at height 0")
    return Epoch(0, 1, genesis.protocol, validator_set(genesis.members))


def validator_set(members: tuple[Member, ...]) -> ValidatorSet:
    """The seats of the members of role validator, in order of id."""
    seats = sorted(
        (member for member in members if member.role is Role.VALIDATOR),
        key=lambda member: member.id,
    )
    return ValidatorSet(tuple(Validator(m.id, m.organisation, m.public_key) for m in seats))


def genesis_writes(genesis: Genesis) -> dict[bytes, bytes]:
    """State writes of block 0."""
    state = State(lambda key: None)
    state.put(Chain(genesis.title, genesis.window, genesis.equivocation))
    state.put(check_genesis(genesis))
    state.put(EpochHead(0))
    for organisation in genesis.organisations:
        state.put(organisation)
    for member in genesis.members:
        put_member(state, 0, member)
        claim_keys(state, member.id, member.public_key, member.transport)
    return state.writes

"""Records of governance: what organisations propose and approve, and faults that were proven.

Rules that change these records are in `vm.governance`; here is only what they look like.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from vm.quorum import VALIDATORS_MAX
from vm.record import KeyDigits, Region, Title
from vm.shape import Code, Digest, Height, Many, Name, PublicKey, Text

PROPOSALS_OPEN_OF_ORGANISATION_MAX = 4  # so that no organisation crowds out the others
# More than VALIDATORS_MAX organisations can fill, unless some of them have lost their seats since.
PROPOSALS_OPEN_MAX = (VALIDATORS_MAX + 1) * PROPOSALS_OPEN_OF_ORGANISATION_MAX
PROPOSAL_BLOCKS_MAX = 1_000_000  # open for so many blocks at most: a busy chain makes 1 each second

_PORT = r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
HostPort = Annotated[
    str, Text(260, rf"(?:\[[0-9A-Fa-f:]{{2,39}}\]|[A-Za-z0-9._-]{{1,253}}):{_PORT}")
]


@dataclass(frozen=True, slots=True)
class AdmitOrganisation:
    """A new organisation with its first member, an admin; it governs once it has a seat."""

    TAG: ClassVar[str] = "admit_organisation"
    VERSION: ClassVar[int] = 1

    id: Name
    title: Title
    region: Region
    admin: Name
    admin_key: PublicKey


@dataclass(frozen=True, slots=True)
class SeatValidator:
    """A new validator, and a seat for it; `address` is where other validators reach it."""

    TAG: ClassVar[str] = "seat_validator"
    VERSION: ClassVar[int] = 1

    id: Name
    organisation: Name
    public_key: PublicKey
    transport: Digest
    address: HostPort


@dataclass(frozen=True, slots=True)
class UnseatValidator:
    """The seat of this validator ends, and with it its organisation's part in governance."""

    TAG: ClassVar[str] = "unseat_validator"
    VERSION: ClassVar[int] = 1

    id: Name


@dataclass(frozen=True, slots=True)
class RotateKey:
    """Other keys or another address for a seat; None leaves what it is.

    A new `public_key` ends a suspension: what the old key signed says nothing of the new one.
    """

    TAG: ClassVar[str] = "rotate_key"
    VERSION: ClassVar[int] = 1

    id: Name
    public_key: PublicKey | None
    transport: Digest | None
    address: HostPort | None


@dataclass(frozen=True, slots=True)
class UpgradeProtocol:
    """Another version of the protocol; a node that does not know it stops before it begins."""

    TAG: ClassVar[str] = "upgrade_protocol"
    VERSION: ClassVar[int] = 1

    protocol: Code


Change = AdmitOrganisation | SeatValidator | UnseatValidator | RotateKey | UpgradeProtocol


class ProposalPhase(StrEnum):
    """Where a proposal stands; the last two are final."""

    OPEN = "open"
    APPLIED = "applied"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Approval:
    """An organisation's yes, said by one of its admins."""

    VERSION: ClassVar[int] = 1

    organisation: Name
    member: Name
    height: Height


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change that organisations approve one by one; its record stays for ever.

    `closed_height` is where it was applied or found expired. `approvals` are in order of coming;
    those of organisations that do not govern any more are dropped when the next one comes.
    """

    KIND: ClassVar[str] = "proposal"
    VERSION: ClassVar[int] = 1

    id: Name
    organisation: Name
    change: Change
    proposed_height: Height
    expires_height: Height
    approvals: Annotated[tuple[Approval, ...], Many(VALIDATORS_MAX, 1)]
    phase: ProposalPhase
    closed_height: Height | None

    @property
    def key(self) -> tuple[str]:
        """Found by its id."""
        return (self.id,)


@dataclass(frozen=True, slots=True)
class OpenProposal:
    """What of an open proposal is read in every block."""

    VERSION: ClassVar[int] = 1

    id: Name
    organisation: Name
    expires_height: Height


@dataclass(frozen=True, slots=True)
class OpenProposals:
    """The proposals that may still be approved, in order of coming."""

    KIND: ClassVar[str] = "open_proposals"
    VERSION: ClassVar[int] = 1

    proposals: Annotated[tuple[OpenProposal, ...], Many(PROPOSALS_OPEN_MAX)]

    @property
    def key(self) -> tuple[()]:
        """There is one."""
        return ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where other validators reach one; those of genesis are in the nodes' own configuration."""

    KIND: ClassVar[str] = "endpoint"
    VERSION: ClassVar[int] = 1

    member: Name
    address: HostPort

    @property
    def key(self) -> tuple[str]:
        """Found by the validator's id."""
        return (self.member,)


@dataclass(frozen=True, slots=True)
class Fault:
    """A key that signed two contents for one slot; `transaction` holds both statements.

    `suspended_height` is where its seat was suspended for it, or None while it was only recorded.
    """

    KIND: ClassVar[str] = "fault"
    VERSION: ClassVar[int] = 1

    digits: KeyDigits
    validator: Name
    organisation: Name
    reporter: Name
    transaction: Digest
    height: Height
    suspended_height: Height | None

    @property
    def key(self) -> tuple[str]:
        """Found by the key in lower-case hexadecimal."""
        return (self.digits,)

"""A chain on which organisations govern, and what their admins say on it."""

from collections.abc import Callable

from tests.harness import Chain, Item, key_of, organisation, signer_of
from tests.vm.liar import evidence
from vm import registry
from vm.epoch import newest
from vm.execute import Program
from vm.governance import HOOKS, Approve, Propose, kinds
from vm.proposal import (
    AdmitOrganisation,
    Change,
    RotateKey,
    SeatValidator,
    UnseatValidator,
    UpgradeProtocol,
)
from vm.quorum import Epoch, ValidatorSet

LAST = 500  # height after which the proposals of these tests expire


def council(
    organisations: int = 4,
    window_max: Callable[[int], int] = lambda n: 64,
) -> Chain:
    """A chain at its genesis, one seat for each organisation."""
    built = (*registry.KINDS, *kinds(window_max))
    return Chain(Program({kind.name: kind for kind in built}, HOOKS), organisations)


def admin(number: int) -> str:
    """The id of an organisation's admin."""
    return f"{organisation(number)}.admin"


def validator(number: int) -> str:
    """The id of an organisation's validator."""
    return f"{organisation(number)}.validator"


def propose(number: int, id: str, change: Change, expires_height: int = LAST) -> Item:
    """The organisation with this number proposes."""
    return admin(number), "governance.propose", Propose(id, change, expires_height)


def approve(number: int, id: str) -> Item:
    """The organisation with this number approves."""
    return admin(number), "governance.approve", Approve(id)


def fault(chain: Chain, name: str, epoch: int = 0, sender: str = admin(1)) -> Item:
    """Somebody reports that a validator signed twice in an epoch, with its key of that time."""
    found = chain.state.get(Epoch, epoch)
    seat = None if found is None else found.validators.get(name)
    key = key_of(name) if seat is None else signer_of(seat.key)
    return sender, "validator.fault", evidence(key, chain.genesis.chain, name, epoch)


def admission(number: int) -> AdmitOrganisation:
    """The organisation with this number, which genesis has not, with its admin."""
    name = organisation(number)
    return AdmitOrganisation(name, name.title(), "NL", admin(number), key_of(admin(number)).public)


def seating(number: int, name: str = "") -> SeatValidator:
    """A seat for the organisation with this number; `name` if not for its usual validator."""
    id = name or validator(number)
    transport = id.encode().ljust(32, b".")[:32]
    address = f"{organisation(number)}.example:7100"
    return SeatValidator(id, organisation(number), key_of(id).public, transport, address)


def unseating(number: int) -> UnseatValidator:
    """The end of a seat."""
    return UnseatValidator(validator(number))


def rotation(number: int, key: str = "") -> RotateKey:
    """Another key for an organisation's validator."""
    return RotateKey(validator(number), key_of(key or f"new key of {number}").public, None, None)


def upgrade(version: int = 2) -> UpgradeProtocol:
    """Another version of the protocol."""
    return UpgradeProtocol(f"concilium.{version}")


def decide(chain: Chain, id: str, change: Change, voices: tuple[int, ...] = (1, 2, 3)) -> None:
    """The first of `voices` proposes, the others approve, each in a block of its own."""
    proposer, *others = voices
    chain.applied([propose(proposer, id, change)])
    for number in others:
        chain.applied([approve(number, id)])


def scheduled(chain: Chain) -> ValidatorSet:
    """The set that is scheduled last."""
    return newest(chain.state).validators


def names(members: ValidatorSet) -> list[str]:
    """The organisations that hold its seats."""
    return [seat.organisation for seat in members.validators]

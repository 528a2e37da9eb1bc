"""Governance: organisations that hold a seat decide who else does, and under which protocol.

A change is proposed by an admin of one of them and applied by the approval after which more than
two thirds of them have approved. They are those of the newest scheduled set, at the moment of
counting. Castro and Liskov leave membership out; what goes wrong without a rule for the heights in
between is told in indy-node's changelog (INDY-2319, INDY-2320, INDY-2322).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from vm.epoch import newest, schedule
from vm.evidence import Evidence, judge
from vm.execute import BlockContext, Context, Hook, Kind
from vm.proposal import (
    PROPOSAL_BLOCKS_MAX,
    PROPOSALS_OPEN_MAX,
    PROPOSALS_OPEN_OF_ORGANISATION_MAX,
    AdmitOrganisation,
    Approval,
    Change,
    Endpoint,
    Fault,
    OpenProposal,
    OpenProposals,
    Proposal,
    ProposalPhase,
    RotateKey,
    SeatValidator,
    UnseatValidator,
    UpgradeProtocol,
)
from vm.quorum import VALIDATORS_MAX, VALIDATORS_MIN, Epoch, Validator, ValidatorSet, quorum
from vm.record import Chain, Member, Organisation, Role, Sanction, Standing
from vm.refusal import Refused
from vm.registry import claim_keys, enrol
from vm.shape import Height, Name
from vm.state import State
from vm.tenure import put_member

WindowMax = Callable[[int], int]  # the largest window that is possible with so many seats


@dataclass(frozen=True, slots=True)
class Propose:
    """Body of `governance.propose`; nobody can approve after `expires_height`."""

    VERSION: ClassVar[int] = 1

    id: Name
    change: Change
    expires_height: Height


@dataclass(frozen=True, slots=True)
class Approve:
    """Body of `governance.approve`."""

    VERSION: ClassVar[int] = 1

    proposal: Name


def kinds(window_max: WindowMax) -> tuple[Kind, ...]:
    """The kinds of governance, with what they need of consensus."""

    def approving(state: State, context: Context, body: Approve) -> None:
        approve(state, context, body, window_max)

    return (
        Kind("governance.propose", Propose, propose),
        Kind("governance.approve", Approve, approving),
        Kind("validator.fault", Evidence, report_fault),
    )


def expire(state: State, block: BlockContext) -> None:
    """Close the proposals whose last height has passed."""
    listed = _open(state)
    kept = tuple(item for item in listed if item.expires_height >= block.height)
    if kept == listed:
        return
    for item in listed:
        if item not in kept:
            _close(state, block, state.require(Proposal, item.id), ProposalPhase.EXPIRED)
    state.put(OpenProposals(kept))


HOOKS: tuple[Hook, ...] = (expire,)


def propose(state: State, context: Context, body: Propose) -> None:
    """Record a proposal, with the approval of the sender's organisation."""
    own, height = context.sender.organisation, context.block.height
    # 1. the organisation governs
    _expect_governing(state, own)
    # 2. the id is free for ever: nobody approves one change and gets another
    if state.get(Proposal, body.id) is not None:
        raise Refused("proposal.exists", f"expected a new id, found {body.id} proposed before")
    # 3. it can be approved for a while, and not without end
    if not height < body.expires_height <= height + PROPOSAL_BLOCKS_MAX:
        raise Refused(
            "proposal.expires",
            f"expected expires_height above {height}, by {PROPOSAL_BLOCKS_MAX} at most, "
            f"found {body.expires_height}",
        )
    # 4. few are open
    listed = _open(state)
    if len(listed) >= PROPOSALS_OPEN_MAX:
        raise Refused(
            "proposal.too_many", f"expected fewer than {PROPOSALS_OPEN_MAX} open, found as many"
        )
    if sum(item.organisation == own for item in listed) >= PROPOSALS_OPEN_OF_ORGANISATION_MAX:
        raise Refused(
            "proposal.too_many_of_organisation",
            f"expected fewer than {PROPOSALS_OPEN_OF_ORGANISATION_MAX} open of {own}, "
            "found as many; wait until one is applied or expires",
        )
    # 5. whose keys change says so itself
    if isinstance(body.change, RotateKey):
        _expect_own_rotation(state, own, body.change)
    approval = Approval(own, context.sender.id, height)
    state.put(
        Proposal(
            id=body.id,
            organisation=own,
            change=body.change,
            proposed_height=height,
            expires_height=body.expires_height,
            approvals=(approval,),
            phase=ProposalPhase.OPEN,
            closed_height=None,
        )
    )
    state.put(OpenProposals((*listed, OpenProposal(body.id, own, body.expires_height))))


def approve(state: State, context: Context, body: Approve, window_max: WindowMax) -> None:
    """Add the approval of the sender's organisation; apply the change if it is enough.

    A change that cannot be applied now fails this approval; another can come until it expires.
    """
    own, block = context.sender.organisation, context.block
    # 1. the organisation governs
    governing = _expect_governing(state, own)
    # 2. the proposal is open
    proposal = state.require(Proposal, body.proposal)
    if proposal.phase is not ProposalPhase.OPEN:
        raise Refused(
            "proposal.closed", f"expected {body.proposal} open, found it {proposal.phase.value}"
        )
    # 3. the organisation has not approved yet, unless fewer govern now and the rest is enough
    approvals = tuple(item for item in proposal.approvals if item.organisation in governing)
    repeated = any(item.organisation == own for item in approvals)
    if not repeated:
        approvals = (*approvals, Approval(own, context.sender.id, block.height))
    enough = 3 * len(approvals) > 2 * len(governing)
    if repeated and not enough:
        raise Refused("proposal.approved", f"expected {own} not to have approved, found it had")
    proposal = replace(proposal, approvals=approvals)
    if not enough:
        state.put(proposal)
        return
    # 4. the change's own checks
    _apply(state, block.height, proposal.change, window_max)
    _close(state, block, proposal, ProposalPhase.APPLIED)
    state.put(OpenProposals(tuple(item for item in _open(state) if item.id != proposal.id)))


def _apply(state: State, height: int, change: Change, window_max: WindowMax) -> None:
    match change:
        case AdmitOrganisation():
            admit_organisation(state, height, change)
        case SeatValidator():
            seat_validator(state, height, change, window_max)
        case UnseatValidator():
            unseat_validator(state, height, change, window_max)
        case RotateKey():
            rotate_key(state, height, change)
        case UpgradeProtocol():
            upgrade_protocol(state, height, change)


def admit_organisation(state: State, height: int, change: AdmitOrganisation) -> None:
    """Record an organisation and its first admin."""
    # 1. both ids are free
    if state.get(Organisation, change.id) is not None:
        raise Refused("organisation.exists", f"expected a new id, found {change.id} admitted")
    # 2. and its admin's id and key, as in `member.enrol`
    state.put(Organisation(change.id, change.title, change.region, Standing.ENROLLED))
    enrol(state, _member(height, change.admin, change.id, Role.ADMIN, change.admin_key, None))


def seat_validator(state: State, height: int, change: SeatValidator, window_max: WindowMax) -> None:
    """Enrol a validator and give it a seat."""
    # 1. the organisation exists and has no seat
    state.require(Organisation, change.organisation)
    seats = newest(state).validators.validators
    if any(seat.organisation == change.organisation for seat in seats):
        raise Refused(
            "proposal.seated",
            f"expected {change.organisation} without a seat, found it with one; unseat that first",
        )
    # 2. the id and both keys are free, as in `member.enrol`
    own, key = change.organisation, change.public_key
    enrol(state, _member(height, change.id, own, Role.VALIDATOR, key, change.transport))
    # 3. the network can run with so many seats
    _reseat(state, height, (*seats, Validator(change.id, own, key)), window_max)
    state.put(Endpoint(change.id, change.address))


def unseat_validator(
    state: State, height: int, change: UnseatValidator, window_max: WindowMax
) -> None:
    """Take a validator's seat; it stays a member, whom its admin may revoke."""
    # 1. it has a seat
    seat = _require_seat(state, change.id)
    # 2. the network can run without it
    seats = newest(state).validators.validators
    _reseat(state, height, tuple(item for item in seats if item != seat), window_max)


def rotate_key(state: State, height: int, change: RotateKey) -> None:
    """Replace what is given of a validator's keys and address; a new key ends a suspension."""
    # 1. it has a seat
    seat = _require_seat(state, change.id)
    member = state.require(Member, change.id)
    # 2. the keys are new: a retired key, even of its own, never comes back
    if change.public_key is not None:
        claim_keys(state, member.id, change.public_key, None)
        rotated = replace(seat, key=change.public_key, suspended=False)
        _replace_seat(state, height, rotated)
        standing = Standing.ENROLLED
        member = replace(member, public_key=change.public_key, standing=standing)
    if change.transport is not None:
        claim_keys(state, member.id, change.transport, None)
        member = replace(member, transport=change.transport)
    put_member(state, height, replace(member, changed_height=height))
    if change.address is not None:
        state.put(Endpoint(change.id, change.address))


def upgrade_protocol(state: State, height: int, change: UpgradeProtocol) -> None:
    """Let another version of the protocol rule."""
    # 1. it is another
    if change.protocol == newest(state).protocol:
        raise Refused(
            "proposal.protocol", f"expected another version than {change.protocol}, found that"
        )
    schedule(state, height, protocol=change.protocol)


def report_fault(state: State, context: Context, body: Evidence) -> None:
    """Record that a seat signed two contents for one slot, and suspend it if genesis says so."""
    # 1. the epoch is there, and the signatures prove it of a seat of it
    epoch = state.get(Epoch, body.epoch)
    if epoch is None:
        raise Refused("evidence.epoch", f"expected an epoch of this chain, found {body.epoch}")
    faulty = judge(context.block.chain, epoch.validators, body)
    # 2. it is not known, or was only recorded and can be punished now
    known = state.get(Fault, faulty.key.hex())
    suspended = _suspend(state, context.block.height, faulty)
    if known is not None and not suspended:
        raise Refused("fault.known", f"expected a new fault, found that of {faulty.id} recorded")
    height = context.block.height
    state.put(
        Fault(
            digits=faulty.key.hex(),
            validator=faulty.id,
            organisation=faulty.organisation,
            reporter=context.sender.id,
            transaction=context.transaction,
            height=height,
            suspended_height=height if suspended else None,
        )
    )


def _suspend(state: State, height: int, faulty: Validator) -> bool:
    """Suspend the seat if it still has that key, unless too few would be left to vote."""
    members = newest(state).validators
    seat = members.get(faulty.id)
    if seat is None or seat.key != faulty.key or seat.suspended:
        return False
    if len(members.voters) <= members.quorum:
        return False
    if state.require(Chain).equivocation is not Sanction.SUSPEND:
        return False
    _replace_seat(state, height, replace(seat, suspended=True))
    member = state.require(Member, seat.id)
    member = replace(member, standing=Standing.SUSPENDED, changed_height=height)
    put_member(state, height, member)
    return True


def _expect_governing(state: State, organisation: str) -> frozenset[str]:
    """The organisations that govern, one for each seat that is scheduled last."""
    seats = newest(state).validators.validators
    governing = frozenset(seat.organisation for seat in seats)
    if organisation not in governing:
        raise Refused(
            "governance.organisation",
            f"expected an organisation that holds a seat, found {organisation}",
        )
    return governing


def _expect_own_rotation(state: State, organisation: str, change: RotateKey) -> None:
    if (change.public_key, change.transport, change.address) == (None, None, None):
        raise Refused("proposal.empty", "expected a key or an address, found none of them")
    member = state.require(Member, change.id)
    if member.organisation != organisation:
        raise Refused(
            "proposal.organisation",
            f"expected a validator of {organisation}, found one of {member.organisation}",
        )


def _require_seat(state: State, id: str) -> Validator:
    seat = newest(state).validators.get(id)
    if seat is None:
        raise Refused("proposal.seat", f"expected a validator that holds a seat, found {id}")
    return seat


def _replace_seat(state: State, height: int, seat: Validator) -> None:
    seats = newest(state).validators.validators
    changed = tuple(seat if item.id == seat.id else item for item in seats)
    schedule(state, height, validators=ValidatorSet(changed))


def _reseat(state: State, height: int, seats: tuple[Validator, ...], window_max: WindowMax) -> None:
    """Schedule these seats, in whatever order, if a network can run with them."""
    n, window = len(seats), state.require(Chain).window
    if not VALIDATORS_MIN <= n <= VALIDATORS_MAX:
        raise Refused(
            "proposal.size", f"expected {VALIDATORS_MIN} to {VALIDATORS_MAX} seats, found {n}"
        )
    voters = sum(not seat.suspended for seat in seats)
    if voters < quorum(n):
        raise Refused(
            "proposal.quorum",
            f"expected at least {quorum(n)} of {n} seats to vote, found {voters}; "
            "rotate or unseat suspended ones first",
        )
    if window_max(n) < window:
        raise Refused(
            "proposal.window",
            f"expected seats for which a window of {window} is possible, found {n}",
        )
    schedule(state, height, validators=ValidatorSet(tuple(sorted(seats, key=lambda seat: seat.id))))


def _member(
    height: int, id: str, organisation: str, role: Role, key: bytes, transport: bytes | None
) -> Member:
    return Member(id, organisation, role, key, transport, Standing.ENROLLED, height, height)


def _open(state: State) -> tuple[OpenProposal, ...]:
    found = state.get(OpenProposals)
    return () if found is None else found.proposals


def _close(state: State, block: BlockContext, proposal: Proposal, phase: ProposalPhase) -> None:
    state.put(replace(proposal, phase=phase, closed_height=block.height))

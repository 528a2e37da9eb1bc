"""Members by the TLS key that is enrolled for them: who is at the other end of a connection."""

from node.validator.chain import Chain
from node.validator.store import BlockRow
from vm.record import KeyOwner, Member
from vm.state import state_key


class Directory:
    """Reads the executed state, so that a revocation closes the door with its block."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def identify(self, spki: bytes) -> Member | None:
        """The member whose enrolled TLS key has this digest, whatever its standing."""
        state = self._chain.state()
        owner = state.get(KeyOwner, spki.hex())
        member = None if owner is None else state.get(Member, owner.member)
        return member if member is not None and member.transport == spki else None


def wrote_member(row: BlockRow) -> bool:
    """Whether the block wrote a member."""
    member = state_key(Member.KIND, ("",))[:-1]  # what the key of every member starts with
    return any(key.startswith(member) for key in row.writes)

"""Members by the TLS key that is enrolled for them: who is at the other end of a connection."""

from node.chain import Chain
from vm.encoding import decode
from vm.record import Member


class Directory:
    """Follows the executed chain, so that a revocation closes the door with its block.

    A TLS key is the member's for whom it was enrolled first: an admin who enrols somebody else's
    key for a member of its own must not shut the other out.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._ids: dict[bytes, str] = {}
        for key in chain.store.keys(Member.KIND, (), 1):
            self._note(key)

    def learn(self, height: int) -> bool:
        """Take in what the block at `height` wrote; True if a member changed."""
        row = self._chain.store.row(height)
        assert row is not None, "only executed blocks are learned from"
        changed = [self._note(key) for key in row.writes]
        return any(changed)

    def identify(self, spki: bytes) -> Member | None:
        """The member whose enrolled TLS key has this digest, whatever its standing."""
        id = self._ids.get(spki)
        return None if id is None else self._chain.state().get(Member, id)

    def _note(self, key: bytes) -> bool:
        parts = decode(key)
        assert isinstance(parts, tuple)
        if parts[0] != Member.KIND:
            return False
        id = parts[1]
        assert isinstance(id, str)
        member = self._chain.state().require(Member, id)
        if member.transport is not None:
            holder = self.identify(member.transport)
            if holder is None or (member.enrolled_height, id) < (holder.enrolled_height, holder.id):
                self._ids[member.transport] = id
        return True

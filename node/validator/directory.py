"""Members by the TLS key that is enrolled for them: who is at the other end of a connection."""

from node.validator.chain import Chain
from node.validator.store import BlockRow
from vm.proposal import Endpoint
from vm.quorum import VALIDATORS_MAX
from vm.record import KeyOwner, Member, Standing
from vm.shape import unpack
from vm.state import Record, state_key

ADDRESSES_MAX = 3 * VALIDATORS_MAX  # leaves room in the mesh for those of the configuration


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

    def addresses(self) -> dict[str, str]:
        """Where the chain says that validators are reached; those of genesis it does not know.

        Members that may connect, with a seat or without one; seats alone, if there are too many.
        """
        state, store, root = self._chain.state(), self._chain.store, self._chain.head.root
        found: dict[str, str] = {}
        for key in store.keys(Endpoint.KIND, (), 1):
            data = store.read(root, key)
            endpoint = None if data is None else unpack(Endpoint, data)
            member = None if endpoint is None else state.get(Member, endpoint.member)
            if endpoint and member and member.standing is Standing.ENROLLED:
                found[member.id] = endpoint.address
        if len(found) <= ADDRESSES_MAX:
            return found
        seats = self._chain.epochs[-1].validators
        return {id: at for id, at in found.items() if seats.get(id) is not None}


def wrote(row: BlockRow, cls: type[Record]) -> bool:
    """Whether the block wrote a record of this class, which is found by one name."""
    start = state_key(cls.KIND, ("",))[:-1]  # what the key of each of them starts with
    return any(key.startswith(start) for key in row.writes)

"""Readers: members as the newest executed state has them, so that a revocation ends reading too."""

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from node.wire.places import network_of
from vm.accesslog import Via
from vm.record import KeyOwner, Member, Role, Standing
from vm.refusal import Refused
from vm.state import State

MEMBERS_MAX = 4_096  # remembered at one height; past it all are looked up anew


@dataclass(frozen=True, slots=True)
class Reader:
    """Who asks: an enrolled member, and how it showed that it is."""

    member: str
    role: Role
    via: Via


READER = web.RequestKey("reader", Reader)  # absent where nobody had to be, or was, identified


def holder_of(request: web.Request) -> str:
    """Who has the places that a request takes: the member, or the address where nobody is known."""
    reader = request.get(READER)
    if reader is not None:
        return f"member {reader.member}"
    return f"address {network_of(request.remote or '')}"


class Roster:
    """Finds members, each once for each height: `height` is that of what `state` reads."""

    def __init__(self, state: Callable[[], State], height: Callable[[], int]) -> None:
        self._state = state
        self._height = height
        self._read_at = -1
        self._members: dict[str, Member | None] = {}
        self._owners: dict[bytes, str | None] = {}

    def member(self, id: str) -> Member:
        """The enrolled member; raises `Refused("reader.unknown" | "reader.standing")`."""
        self._turn()
        if id not in self._members:
            self._members[id] = self._state().get(Member, id)
        member = self._members[id]
        if member is None:
            raise Refused("reader.unknown", f"expected an enrolled member, found {id[:80]!r}")
        if member.standing is not Standing.ENROLLED:
            raise Refused("reader.standing", f"expected {id} enrolled, found {member.standing}")
        return member

    def owner(self, spki: bytes) -> Member:
        """The enrolled member whose TLS key has this digest; raises `Refused` as `member` does."""
        self._turn()
        if spki not in self._owners:
            owner = self._state().get(KeyOwner, spki.hex())
            self._owners[spki] = None if owner is None else owner.member
        id = self._owners[spki]
        member = None if id is None else self.member(id)
        if member is None or member.transport != spki:
            raise Refused(
                "reader.unknown",
                f"expected a TLS key enrolled on chain, found one of digest {spki.hex()}",
            )
        return member

    def _turn(self) -> None:
        """Forget what was read at another height, or more than there is room for."""
        height, held = self._height(), len(self._members) + len(self._owners)
        if height != self._read_at or held >= MEMBERS_MAX:
            self._members.clear()
            self._owners.clear()
            self._read_at = height

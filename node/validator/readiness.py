"""Whether a node has caught up, by what its peers say of themselves; f of them may lie.

After a restart a node would show an old state as the newest one: it is ready only once it has what
the others had when it came back.
"""

from vm.quorum import ValidatorSet


class Readiness:
    """How far the voting validators have executed, as they say.

    The height that f + 1 of them claim at least is one that an honest validator has reached.
    """

    def __init__(self, lag_max: int) -> None:
        """`lag_max` is how many blocks a node may be behind that was level with the others once."""
        self._lag_max = lag_max
        self._claims: dict[str, int] = {}
        self._target: int | None = None  # what the others had when enough of them were heard
        self._level = False

    def heard(self, peer: str, executed: int) -> None:
        """A peer has told where it stands."""
        self._claims[peer] = executed

    def lost(self, peer: str) -> None:
        """A peer is gone: what it said says nothing of now."""
        self._claims.pop(peer, None)

    def missing(self, validators: ValidatorSet, certified: int) -> str | None:
        """What still has to happen before this node shows the newest state; None if nothing."""
        voters = {seat.id for seat in validators.voters}
        claims = sorted((h for peer, h in self._claims.items() if peer in voters), reverse=True)
        needed = validators.quorum - 1  # with this node a quorum, if it votes
        if len(claims) < needed:
            return f"expected to hear from {needed} validators, heard from {len(claims)}"
        claim = claims[validators.f]
        if self._target is None:
            self._target = claim
        if not self._level and certified < self._target:
            return f"expected to have caught up to height {self._target}, found {certified}"
        self._level = True
        if certified + self._lag_max < claim:
            return f"expected to be near height {claim}, found {certified}"
        return None

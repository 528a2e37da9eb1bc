"""Complaints of a primary, which is left only if a quorum complains of the same thing.

A replica that leaves a view by itself is silent until others leave too, so a suspicion must not
cost the group a member: with f others away nothing would be ordered any more. A primary that is
dead is left by each backup's own timer; complaints are for one that is alive, but slow (Aardvark,
NSDI'09) or unfair to a request.
"""

from consensus.message import COMPLAINTS_MAX, Status
from consensus.ordering import Ordering
from consensus.outbox import Outbox
from consensus.pace import Pace
from vm.digest import SLOW, digest
from vm.quorum import ValidatorSet
from vm.shape import Digest

SLOWNESS: Digest = digest(SLOW, b"")  # stands among the ids of omitted requests
HEARD_MAX = 8 * COMPLAINTS_MAX  # of one sender, the newest: faulty ones fill no memory


class Complaints:
    """What we and others hold against the primary of the current view."""

    def __init__(self, validators: ValidatorSet, ordering: Ordering, outbox: Outbox) -> None:
        self.pace = Pace()
        self.mine: tuple[Digest, ...] = ()
        self._omitted: tuple[Digest, ...] = ()
        self._heard: dict[str, dict[Digest, None]] = {}  # by sender, oldest first
        self._validators = validators
        self._ordering = ordering
        self._outbox = outbox

    def pending(self, waiting: bool, omitted: tuple[Digest, ...]) -> None:
        """Note which waiting requests blocks with room for them have passed over."""
        self._omitted = omitted
        if not waiting:
            self.pace.rest()

    def draw_up(self) -> bool:
        """Set down what we complain of now; whether anything of it is new.

        That is nothing while we lead, observe or are between two views.
        """
        before, slow = self.mine, self.pace.slow
        leading = self._ordering.primary == self._outbox.me
        if leading or not (self._outbox.voting and self._ordering.active):
            self.mine = ()
        else:
            self.mine = ((SLOWNESS,) if slow else ()) + self._omitted[: COMPLAINTS_MAX - slow]
        return not set(before).issuperset(self.mine)

    def hear(self, sender: str, status: Status) -> None:
        """Count what a voter says of the primary that is ours too.

        That a request was omitted stays true, that a primary is slow may not.
        """
        seat = self._validators.get(sender)
        here = self._ordering.active and (status.view, status.active) == (self._ordering.view, True)
        if seat is None or seat.suspended or not here:
            return
        heard = self._heard.setdefault(sender, {})
        heard.pop(SLOWNESS, None)
        for complaint in status.complaints:
            heard.pop(complaint, None)
            heard[complaint] = None
        for complaint in tuple(heard)[:-HEARD_MAX]:
            del heard[complaint]

    def agreed(self) -> bool:
        """Whether a quorum complains of one thing, of which we complain too."""
        return any(
            1 + sum(complaint in heard for heard in self._heard.values()) >= self._validators.quorum
            for complaint in self.mine
        )

    def turn(self) -> None:
        """A new view: another primary, judged afresh."""
        self.pace.turn()
        self.mine = self._omitted = ()
        self._heard.clear()

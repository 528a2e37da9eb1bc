"""Complaints of a primary, which is left only if a quorum complains of the same thing.

A replica that leaves a view by itself is silent until others leave too, so a suspicion must not
cost the group a member: with f others away nothing would be ordered any more. A primary that is
dead is left by each backup's own timer; complaints are for one that is alive, but slow (Aardvark,
NSDI'09), unfair to a request, or hollow: it orders what changes nothing, so that heights, by which
transactions and proposals expire, fly past.
"""

from collections import deque
from collections.abc import Iterator

from consensus.message import COMPLAINTS_MAX, WINDOW_MAX, Status
from consensus.ordering import Ordering
from consensus.outbox import Outbox
from consensus.pace import Pace
from vm.digest import HOLLOW, SLOW, digest
from vm.quorum import ValidatorSet
from vm.shape import Digest

SLOWNESS: Digest = digest(SLOW, b"")  # stands among the ids of omitted requests
HOLLOWNESS: Digest = digest(HOLLOW, b"")  # so does this
HOLLOW_BLOCKS_MAX = 2 * WINDOW_MAX  # what a faulty primary may leave to the next view, and slack
HOLLOW_WINDOW_BLOCKS = 1_024  # executed ones of this view among which so many may be hollow
HEARD_MAX = 8 * COMPLAINTS_MAX  # of one sender, the newest: faulty ones fill no memory


class Complaints:
    """What we and others hold against the primary of the current view."""

    def __init__(self, validators: ValidatorSet, ordering: Ordering, outbox: Outbox) -> None:
        self.pace = Pace()
        self.mine: tuple[Digest, ...] = ()
        self._omitted: tuple[Digest, ...] = ()
        self._heard: dict[str, dict[Digest, None]] = {}  # by sender, oldest first
        self._gone: set[str] = set()  # seats that have left our view, by a timer of their own
        self._blocks = 0  # executed ones of this view
        self._hollow: deque[int] = deque(maxlen=HOLLOW_BLOCKS_MAX + 1)  # by `_blocks`, the newest
        self._validators = validators
        self._ordering = ordering
        self._outbox = outbox

    def pending(self, waiting: bool, omitted: tuple[Digest, ...]) -> None:
        """Note which waiting requests blocks with room for them have passed over."""
        self._omitted = omitted
        if not waiting:
            self.pace.rest()

    def executed(self, *, hollow: bool) -> None:
        """A block of this view was executed.

        It is hollow if that wrote nothing, though it was no null request and no scheduled epoch
        had to be reached.
        """
        self._blocks += 1
        if hollow:
            self._hollow.append(self._blocks)

    @property
    def hollow(self) -> bool:
        """Whether too many hollow blocks came together; stays so until fewer do."""
        many = len(self._hollow) > HOLLOW_BLOCKS_MAX
        return many and self._hollow[-1] - self._hollow[0] < HOLLOW_WINDOW_BLOCKS

    def draw_up(self) -> bool:
        """Set down what we complain of now; whether anything of it is new.

        That is nothing while we lead, observe or are between two views.
        """
        before = self.mine
        leading = self._ordering.primary == self._outbox.me
        if leading or not (self._outbox.voting and self._ordering.active):
            self.mine = ()
        else:
            slow = (SLOWNESS,) if self.pace.slow else ()
            hollow = (HOLLOWNESS,) if self.hollow else ()
            self.mine = (slow + hollow + self._omitted)[:COMPLAINTS_MAX]
        return not set(before).issuperset(self.mine)

    def hear(self, sender: str, status: Status) -> None:
        """Count what a voter says of the primary that is ours too.

        That a request was omitted stays true, and that blocks were hollow; that a primary is slow
        may not. Who has left the view complains no more, and wants another primary: else one that
        lets a backup time out could do as it likes for want of a quorum.
        """
        seat, view = self._validators.get(sender), self._ordering.view
        if seat is None or seat.suspended or not self._ordering.active:
            return
        if status.view > view:
            self._gone.add(sender)
        if (status.view, status.active) != (view, True):
            return
        heard = self._heard.setdefault(sender, {})
        heard.pop(SLOWNESS, None)
        for complaint in status.complaints:
            heard.pop(complaint, None)
            heard[complaint] = None
        for complaint in tuple(heard)[:-HEARD_MAX]:
            del heard[complaint]

    def agreed(self) -> bool:
        """Whether a quorum complains of one thing, of which we complain too, or has left."""
        return any(
            1 + len(self._gone.union(self._who_say(complaint))) >= self._validators.quorum
            for complaint in self.mine
        )

    def _who_say(self, complaint: Digest) -> Iterator[str]:
        return (sender for sender, heard in self._heard.items() if complaint in heard)

    def turn(self) -> None:
        """A new view: another primary, judged afresh."""
        self.pace.turn()
        self.mine = self._omitted = ()
        self._heard.clear()
        self._gone.clear()
        self._blocks = 0
        self._hollow.clear()

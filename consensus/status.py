"""Status exchange: what a peer lacks is sent again, so that no message is lost for good.

Castro-Liskov leave retransmission open (section 4.2 speaks of it in passing); here it is pulled. A
replica tells where it stands, and each receiver sends again what it has itself said and the sender
may lack. That also completes the last checkpoint certificate before a pause.
"""

from collections import Counter

from consensus.checkpoint import Checkpoints
from consensus.complaints import Complaints
from consensus.message import (
    PAYLOAD_BYTES_MAX,
    PrePrepare,
    Status,
)
from consensus.ordering import Ordering
from consensus.outbox import Outbox
from consensus.viewchange import ViewChanges
from vm.statement import SlotKind


class StatusExchange:
    """Tells where we stand and answers those who stand elsewhere."""

    def __init__(
        self,
        ordering: Ordering,
        checkpoints: Checkpoints,
        views: ViewChanges,
        complaints: Complaints,
        outbox: Outbox,
    ) -> None:
        self._ordering = ordering
        self._checkpoints = checkpoints
        self._views = views
        self._complaints = complaints
        self._outbox = outbox
        self._answered: Counter[tuple[str, bool]] = Counter()  # by peer and kind, in this period
        self._answers_max = 1
        self._old = 0  # sequence numbers up to here were under way a status period ago
        self._complained = False  # in this status period, out of turn

    def connected(self, peer: str) -> None:
        """Tell a peer that can be reached again."""
        self._outbox.send(peer, self._status(answer=False))

    def broadcast(self, answers_max: int) -> None:
        """Tell everybody; what is under way now may be sent again from the next period on.

        Until then each peer is answered so many times at most, for its own statuses and for its
        answers to ours: a small message may bring large ones back.
        """
        self._answered.clear()
        self._complained = False
        self._answers_max = answers_max
        self._outbox.broadcast(self._status(answer=False))
        self._old = max(self._ordering.top, self._checkpoints.executed)

    def complain(self) -> None:
        """Tell everybody at once that there is a new complaint; the next ones wait their turn."""
        if not self._complained:
            self._complained = True
            self._outbox.broadcast(self._status(answer=False))

    def on_status(self, sender: str, status: Status, *, same_epoch: bool) -> None:
        """Send the peer what it may lack, and where we stand if that differs.

        A peer in another epoch can use nothing that we said in ours. One that lags finds in our
        status the certificate that it lacks to turn, or learns that it must ask for blocks.
        """
        if self._answered[sender, status.answer] >= self._answers_max:
            return
        self._answered[sender, status.answer] += 1
        if same_epoch:
            self._resend_view(sender, status)
            self._resend_votes(sender, status)
        mine = self._status(answer=True)
        if not status.answer and _position(mine) != _position(status):
            self._outbox.send(sender, mine)

    def _status(self, *, answer: bool) -> Status:
        view, active = self._ordering.view, self._ordering.active
        executed = self._checkpoints.executed
        accepted = self._ordering.accepted(executed) if active else ()
        stable, complaints = self._checkpoints.stable, self._complaints.mine
        return Status(view, active, executed, stable, accepted, complaints, answer)

    def _resend_view(self, to: str, status: Status) -> None:
        """The way into our view, for a peer that is not yet in it."""
        view = self._ordering.view
        if status.view > view or (status.view == view and status.active):
            return
        if self._ordering.active:
            envelope = self._views.new_view
        else:
            envelope = self._outbox.said(SlotKind.VIEW_CHANGE, view, 0)
        if envelope is not None:
            self._outbox.resend(to, envelope)

    def _resend_votes(self, to: str, status: Status) -> None:
        """What we said about heights that the peer has not got behind it."""
        stable = 0 if status.stable is None else status.stable.height
        first = max(self._checkpoints.low, stable) + 1
        room = PAYLOAD_BYTES_MAX
        for n in range(first, min(self._old, self._ordering.high) + 1):
            said = self._outbox.said(SlotKind.CHECKPOINT, 0, n)
            if said is not None:
                self._outbox.resend(to, said)
            if n > status.executed and status.view == self._ordering.view:
                self._resend_agreement(to, n)
                proposal = self._ordering.proposal(n)
                if proposal and n not in status.accepted and len(proposal[1]) <= room:
                    room -= len(proposal[1])
                    self._outbox.resend(to, *proposal)

    def _resend_agreement(self, to: str, sequence: int) -> None:
        for kind in (SlotKind.PREPARE, SlotKind.COMMIT):
            said = self._outbox.said(kind, self._ordering.view, sequence)
            if said is not None and not isinstance(said.body, PrePrepare):
                self._outbox.resend(to, said)


def _position(status: Status) -> tuple[int, bool, int, int, tuple[int, ...]]:
    """What of a status can be ahead or behind; the votes of its certificate say nothing."""
    stable = 0 if status.stable is None else status.stable.height
    return status.view, status.active, status.executed, stable, status.accepted

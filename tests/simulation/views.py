"""What must hold of views: who may leave one, who has to, and that a vote brings one back to it."""

from collections.abc import Sequence

from consensus.event import Broadcast, Effect, Persist, Send
from consensus.journal import Said
from consensus.message import Commit, Envelope, NewView, Prepare, PrePrepare, ViewChange
from tests.simulation.judge import Violation, quorum_of
from tests.simulation.shell import Shell
from tests.simulation.world import World
from vm.quorum import Epoch, ValidatorSet, faults

HEED_MS_MAX = 50  # from a message's coming to what follows from it: some full turns


class Views:
    """Watches the honest validators' views, epoch by epoch, and counts by itself.

    Traitors are taken to have asked for every view: what they said to whom is nobody's to know.
    """

    def __init__(
        self, world: World, epochs: Sequence[Epoch], traitors: list[str], rotation: int
    ) -> None:
        """`epochs` grow as the chain goes on; `rotation` is the genesis'."""
        self._rotation = rotation
        self._stable = 0  # newest checkpoint with which anybody has left a view
        self._world = world
        self._epochs = epochs
        self._traitors = traitors
        self._entered: dict[tuple[str, int], int] = {}  # newest view by name and epoch
        self._asked: dict[tuple[int, str], int] = {}  # newest view by epoch and name
        self._came: dict[tuple[str, int, str], dict[int, int]] = {}  # view changes: when, by view
        self._voted: dict[str, tuple[int, int]] = {}  # by name, epoch and view of its last vote

    def arrived(self, shell: Shell, envelope: Envelope) -> None:
        """A message has come to an honest validator."""
        change, sender = envelope.body, envelope.sender
        here = shell.up and shell.replica.epoch.number == envelope.epoch
        if here and isinstance(change, ViewChange) and sender not in self._traitors:
            came = self._came.setdefault((shell.name, envelope.epoch, sender), {})
            came.setdefault(change.view, self._world.now_ms)

    def watch(self, shell: Shell, effect: Effect) -> None:
        """Judge one effect of an honest validator, just run."""
        match effect:
            case Persist(Said(Envelope(epoch=number, body=NewView(view)))):
                self._entered[shell.name, number] = view
            case Broadcast(envelope) | Send(_, envelope) if envelope.sender == shell.name:
                self._said(shell, envelope)

    def ended(self, shell: Shell) -> None:
        """Its process has ended: what came to it counts no more."""
        self._came = {key: came for key, came in self._came.items() if key[0] != shell.name}

    def restarted(self, shell: Shell) -> None:
        """Whoever has voted in a view takes part in it again, or has left it."""
        number, view = self._voted.get(shell.name, (-1, 0))
        replica = shell.replica
        back = replica.view > view or (replica.view == view and replica.active)
        if replica.epoch.number == number and not back:
            raise Violation(
                f"no rollback: {shell.name} voted in view {view}, came back to {replica.view}"
                + ("" if replica.active else ", on its way there")
            )

    def excuse(self, shell: Shell) -> None:
        """Its journal is gone."""
        self._voted.pop(shell.name, None)

    def expect_calm(self, shell: Shell, effect: Effect) -> None:
        """Where nothing is late, nobody leaves an honest primary.

        Where a seat is suspended one may: nobody is to spare then. And it may end by plan.
        """
        match effect:
            case Broadcast(Envelope(epoch=number, body=ViewChange(view, stable))):
                seats = self._epochs[number].validators
                self._stable = max(self._stable, 0 if stable is None else stable.height)
                left = [seats.primary(earlier).id for earlier in range(view)]
                honest = [primary for primary in left if primary not in self._traitors]
                if len(honest) > self._turns(number, self._stable) and len(seats.voters) == seats.n:
                    raise Violation(f"calm: {shell.name} leaves {left[-1]} for view {view}")

    def rotated(self, shell: Shell) -> None:
        """At the end: whoever votes has left a view that is over by plan."""
        replica = shell.replica
        number, height = (
            replica.epoch.number,
            0 if replica.stable is None else replica.stable.height,
        )
        if replica.voting and replica.view == 0 < self._turns(number, height):
            raise Violation(f"views: {shell.name} is still in view 0 at height {height}")

    def _turns(self, number: int, height: int) -> int:
        """How many views of an epoch are over by plan at this height, if all are as long."""
        every, base = self._rotation, self._epochs[number].first - 1
        return max(0, height // every - base // every) if every else 0

    def _said(self, shell: Shell, envelope: Envelope) -> None:
        match envelope.body:
            case PrePrepare(view) | Prepare(view) | Commit(view):
                self._voted[shell.name] = (envelope.epoch, view)
            case ViewChange(view):
                asked = self._asked.get((envelope.epoch, shell.name), 0)
                if asked < view:
                    self._asked[envelope.epoch, shell.name] = view
                    self._may_leave(shell.name, envelope.epoch, view)
                    self._leaves_in_time(shell.name, envelope.epoch, view)

    def _may_leave(self, name: str, number: int, view: int) -> None:
        """One view is left for the next, at once only if a quorum was on its way there.

        Or f + 1 others want to go as far (section 4.5.2): so nobody runs ahead of the rest alone.
        """
        seats = self._epochs[number].validators
        if view - 1 == self._entered.get((name, number), 0):
            return
        there = self._count(seats, number, view - 1)
        farther = self._count(seats, number, view) - 1
        if there < quorum_of(seats) and farther <= faults(seats.n):
            raise Violation(
                f"views: {name} goes on to view {view}, to the one before {there} wanted"
            )

    def _count(self, seats: ValidatorSet, number: int, view: int) -> int:
        """Seats that may have asked for this view or a later one."""
        return sum(
            seat.id in self._traitors or self._asked.get((number, seat.id), 0) >= view
            for seat in seats.validators
        )

    def _leaves_in_time(self, name: str, number: int, view: int) -> None:
        """Whoever has heard that f + 1 others want to go so far, goes with them."""
        seats, heeded = self._epochs[number].validators, self._world.now_ms - HEED_MS_MAX
        heard = sum(
            any(
                there >= view and at_ms < heeded
                for there, at_ms in self._came.get((name, number, seat.id), {}).items()
            )
            for seat in seats.validators
            if seat.id != name
        )
        if heard > faults(seats.n):
            raise Violation(f"views: {name} leaves for view {view} long after {heard} others")

"""The timers' settings and the view timer's delay (section 4.5.2)."""

from consensus.event import CancelTimer, Limits, SetTimer, Timer, TimerName
from consensus.outbox import Outbox


class Timers:
    """Knows which timers run, so that a firing of an earlier setting does nothing."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._running: dict[TimerName, Timer] = {}
        self._settings = 0

    def running(self, name: TimerName) -> bool:
        """Whether the timer is set."""
        return name in self._running

    def set(self, name: TimerName, delay_ms: int) -> None:
        """Start the timer, again if it runs."""
        self._settings += 1
        timer = self._running[name] = Timer(name, self._settings)
        self._outbox.put(SetTimer(timer, delay_ms))

    def cancel(self, name: TimerName) -> None:
        """Stop the timer if it runs."""
        if self._running.pop(name, None) is not None:
            self._outbox.put(CancelTimer(name))

    def fired(self, timer: Timer) -> bool:
        """Whether this firing counts; the timer is then no longer set."""
        if self._running.get(timer.name) != timer:
            return False
        del self._running[timer.name]
        return True


class Backoff:
    """The view timer's delay: doubled by each view change, halved by each delivery.

    The cap keeps a long outage from growing the delay beyond use (besu-docs#611).
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.delay_ms = limits.view_timeout_ms

    def failed(self) -> None:
        """The view brought nothing."""
        self.delay_ms = min(2 * self.delay_ms, self._limits.view_timeout_ms_max)

    def progressed(self) -> None:
        """A block was delivered."""
        self.delay_ms = max(self.delay_ms // 2, self._limits.view_timeout_ms)

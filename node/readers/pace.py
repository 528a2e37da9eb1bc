"""How often somebody may ask: an allowance that refills evenly. Time comes in as an argument."""

from collections import OrderedDict
from math import ceil, inf

from vm.refusal import Refused

ASKING_MAX = 16_384  # who is remembered; past it whoever asked longest ago begins anew


class TooMany(Refused):
    """Somebody asks too often; `wait_s` says when to come again, in whole seconds."""

    def __init__(self, wait_s: float, message: str) -> None:
        self.wait_s = max(1, ceil(wait_s))
        super().__init__("reader.too_many", f"{message}; come again in {self.wait_s} s")


class Pace:
    """Lets each of many ask `per_s` times a second on average, and `at_once` times in one moment.

    Of each is kept only when its allowance will be full again (the generic cell rate algorithm).
    """

    def __init__(self, per_s: float, at_once: int, asking_max: int = ASKING_MAX) -> None:
        self.per_s = per_s
        self._cost_s = 1 / per_s
        self._depth_s = at_once / per_s
        self._asking_max = asking_max
        self._full_s: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, who: str, now_s: float) -> float:
        """How long until one could be taken; 0 if it could now."""
        full_s = max(self._full_s.get(who, now_s), now_s)
        return max(0.0, full_s + self._cost_s - self._depth_s - now_s)

    def debt_s(self, who: str, now_s: float) -> float:
        """How long until what was charged beyond the allowance is there; 0 if nothing was."""
        return max(0.0, self._full_s.get(who, now_s) - self._depth_s - now_s)

    def take(self, who: str, now_s: float) -> float:
        """Take one from the allowance; the seconds until it is there, 0 if it was."""
        wait_s = self.wait_s(who, now_s)
        if wait_s > 0:
            return wait_s
        self.charge(who, 1, now_s)
        return 0.0

    def charge(self, who: str, count: float, now_s: float, most_s: float = inf) -> None:
        """Take `count` from the allowance, whether they are there or not: then `who` waits.

        Not more than so that its debt lasts `most_s`, unless it would already.
        """
        full_s = max(self._full_s.pop(who, now_s), now_s)
        most_full_s = max(full_s, now_s + self._depth_s + most_s)
        self._full_s[who] = min(full_s + count * self._cost_s, most_full_s)
        if len(self._full_s) > self._asking_max:
            self._full_s.popitem(last=False)

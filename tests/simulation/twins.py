"""Twins: two instances of one replica with one key, under every script of partitions and timeouts.

Bano et al., "Twins: BFT Systems Made Robust" (arXiv 2004.10617): most attacks of a traitor on
agreement are what two honest copies of one replica do when they see different parts of a network.
Four replicas and the twin of one are five instances. A script is a list of rounds; in each round
the instances are in one group or in two, whoever leads a view proposes, and every message within a
group arrives, in the order of sending. Then the view timers of all run out, or of none: so the next
round has another leader or the same. What crosses groups is lost.

The scripts of a depth are all that differ: two groups have no names, and the twins of the first
round that parts them have none either.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

from consensus.event import (
    Deliver,
    Effect,
    Event,
    Limits,
    Pending,
    Persist,
    Propose,
    Received,
    TimerFired,
    TimerName,
)
from consensus.message import Envelope
from tests.consensus.node import Node, validator_set
from tests.simulation.judge import Violation
from tests.simulation.signatures import remembered

REPLICAS = 4
TWIN = REPLICAS  # the index of the second instance
MESSAGES_MAX = 5_000  # of one round; a protocol that never falls silent is broken too
LIMITS = Limits(window=4)


@dataclass(frozen=True, slots=True)
class Round:
    """`groups` gives the group, 0 or 1, of each of the five instances."""

    groups: tuple[int, ...]
    expires: bool  # whether the view timers run out at its end


@dataclass(frozen=True, slots=True)
class Script:
    """Which replica has a twin, and what happens."""

    twinned: int
    rounds: tuple[Round, ...]

    def __str__(self) -> str:
        told = (
            "".join(map(str, item.groups)) + ("!" if item.expires else "") for item in self.rounds
        )
        return f"{self.twinned}:{','.join(told)}"


def read_script(text: str) -> Script:
    """The script that is written like this: `0:01101!,00000`."""
    twinned, _, rounds = text.partition(":")
    return Script(
        int(twinned),
        tuple(
            Round(tuple(map(int, item.rstrip("!"))), item.endswith("!"))
            for item in rounds.split(",")
        ),
    )


def scripts(depth: int, *, expires: tuple[bool, ...] = (True, False)) -> Iterator[Script]:
    """Every script of so many rounds, with rounds that end in one of these ways."""
    partitions = [(0, *rest) for rest in product((0, 1), repeat=REPLICAS)]
    rounds = [Round(groups, end) for groups, end in product(partitions, expires)]
    for twinned in range(REPLICAS):
        for chosen in product(rounds, repeat=depth):
            if _is_first_of_its_mirror(twinned, chosen):
                yield Script(twinned, chosen)


def play(text: str) -> str:
    """Play a script; what it violates, or nothing."""
    with remembered():
        try:
            Stage(read_script(text)).play()
        except AssertionError as broken:  # a violation, or an assertion of the code under test
            return str(broken)
    return ""


def _is_first_of_its_mirror(twinned: int, rounds: tuple[Round, ...]) -> bool:
    """Of two scripts in which the twins have changed places one is enough."""
    mirrored = tuple(Round(_mirror(twinned, item.groups), item.expires) for item in rounds)
    return [item.groups for item in rounds] <= [item.groups for item in mirrored]


def _mirror(twinned: int, groups: tuple[int, ...]) -> tuple[int, ...]:
    changed = list(groups)
    changed[twinned], changed[TWIN] = changed[TWIN], changed[twinned]
    return tuple(group ^ changed[0] for group in changed)  # the first instance is in group 0


class Stage:
    """Five instances and what is said among them."""

    def __init__(self, script: Script) -> None:
        self.decided: dict[int, bytes] = {}
        self._script = script
        self._groups = (0,) * (REPLICAS + 1)
        self._wire: deque[tuple[int, str, Envelope]] = deque()
        seats = validator_set(REPLICAS)
        indices = (*range(REPLICAS), script.twinned)
        self.nodes = [
            Node(index, seats, partial(self._send, who), LIMITS)
            for who, index in enumerate(indices)
        ]

    def play(self) -> None:
        """Play the script; raises `Violation` if two replicas without a twin disagree."""
        for who, node in enumerate(self.nodes):
            self._apply(who, node.recover())
        self._wire.clear()
        for who in range(len(self.nodes)):
            self._step(who, Pending(waiting=True))
        for number, item in enumerate(self._script.rounds):
            self._groups = item.groups
            self._play(number)
            if item.expires:
                self._fire(TimerName.VIEW)

    def _send(self, who: int, to: str, envelope: Envelope) -> None:
        self._wire.append((who, to, envelope))

    def _play(self, number: int) -> None:
        self._fire(TimerName.STATUS)
        self._carry()
        for who, node in enumerate(self.nodes):
            if node.replica.may_propose:
                self._step(who, Propose(f"{who} in round {number}".encode()))
        self._carry()

    def _fire(self, name: TimerName) -> None:
        for who, node in enumerate(self.nodes):
            setting = node.timers.pop(name, None)
            if setting is not None:
                self._step(who, TimerFired(setting.timer))

    def _carry(self) -> None:
        carried = 0
        while self._wire:
            sender, to, envelope = self._wire.popleft()
            carried += 1
            if carried > MESSAGES_MAX:
                raise Violation(f"silence: {self._script} never ends")
            for who, node in enumerate(self.nodes):
                if node.name == to and self._groups[who] == self._groups[sender]:
                    self._step(who, Received(envelope))

    def _step(self, who: int, event: Event) -> None:
        self._apply(who, self.nodes[who].step(event))

    def _apply(self, who: int, effects: list[Effect]) -> None:
        node = self.nodes[who]
        for effect in effects:
            if isinstance(effect, Persist):
                continue  # nobody crashes here
            node.apply(effect)
            if isinstance(effect, Deliver) and node.index != self._script.twinned:
                self._judge(node, effect)
        while node.answers:
            self._apply(who, node.step(node.answers.pop(0)))

    def _judge(self, node: Node, effect: Deliver) -> None:
        if self.decided.setdefault(effect.sequence, effect.payload) != effect.payload:
            raise Violation(f"agreement: {node.name} at {effect.sequence} in {self._script}")

"""Real replicas on a fake wire, in a fixed order: for tests that read as dialogues."""

from collections import deque
from collections.abc import Callable, Sequence

from consensus.event import Effect, Event, Limits, Pending, Propose, Received, TimerFired, TimerName
from consensus.message import (
    Body,
    Envelope,
    decode_envelope,
    encode_envelope,
    is_signed,
    signing_digest,
)
from tests.consensus.node import CHAIN, KEYS, LIMITS, Node, accept_all, validator_set

Route = Callable[[str, str, Envelope], bool]  # a choice by (sender, receiver, envelope)
Lost = Route  # is it lost


def lose_nothing(_sender: str, _receiver: str, _envelope: Envelope) -> bool:
    """Every message arrives."""
    return False


def everything(_sender: str, _receiver: str, _envelope: Envelope) -> bool:
    """Every message is meant."""
    return True


def see_nothing(_node: Node, _seen: Sequence[Effect | TimerFired]) -> None:
    """Nobody watches."""


class Cluster:
    """n nodes whose messages arrive in the order of sending; time passes only on demand.

    The first `seated` of them, or all, have the seats of the genesis.
    """

    def __init__(
        self,
        n: int = 4,
        limits: Limits = LIMITS,
        check: Callable[[int, bytes], None] = accept_all,
        seated: int | None = None,
    ) -> None:
        self.validators = validator_set(seated or n)
        peers = tuple(f"v{i:02}" for i in range(n))
        self.lost: Lost = lose_nothing
        self.now_ms = 0
        self.sent: list[tuple[str, str, Envelope]] = []  # everything, lost or not
        self.watch: Callable[[Node, Sequence[Effect | TimerFired]], None] = see_nothing
        self.busy: set[str] = set()  # nodes whose shell does not answer what is delivered
        self.wire: deque[tuple[str, str, Envelope]] = deque()
        self._due: dict[tuple[str, str], tuple[int, int]] = {}  # (node, timer) -> (ms, setting)
        self.nodes = [
            Node(i, self.validators, self._sender(peers[i]), limits, check, peers) for i in range(n)
        ]
        self.up = {node.name: True for node in self.nodes}
        for node in self.nodes:
            self.apply(node, node.recover())
        self.run()

    def __getitem__(self, index: int) -> Node:
        return self.nodes[index]

    def apply(self, node: Node, effects: list[Effect]) -> None:
        """Run effects, and the events that the shell answers them with."""
        for effect in effects:
            node.apply(effect)
        self.watch(node, effects)
        while node.answers and node.name not in self.busy:
            self.apply(node, node.step(node.answers.pop(0)))
        for name in TimerName:
            setting = node.timers.get(name)
            key = (node.name, name)
            if setting is None:
                self._due.pop(key, None)
            elif key not in self._due or self._due[key][1] != setting.timer.setting:
                self._due[key] = (self.now_ms + setting.delay_ms, setting.timer.setting)

    def event(self, index: int, event: Event) -> None:
        """Give one node an event, without running the wire."""
        self.apply(self.nodes[index], self.nodes[index].step(event))

    def run(self, meant: Route = everything) -> None:
        """Carry messages that are meant, and those that follow, until none of them is on the wire.

        The others stay there in their order.
        """
        passed: deque[tuple[str, str, Envelope]] = deque()
        while self.wire:
            item = self.wire.popleft()
            if meant(*item):
                self._arrive(*item)
            else:
                passed.append(item)
        self.wire = passed

    def _arrive(self, sender: str, receiver: str, envelope: Envelope) -> None:
        node = next(node for node in self.nodes if node.name == receiver)
        if self.up[receiver] and not self.lost(sender, receiver, envelope):
            again = decode_envelope(encode_envelope(envelope))
            self.apply(node, node.step(Received(again)))

    def propose(self, *payloads: bytes) -> None:
        """The primary of the highest active view proposes each payload; then the wire runs."""
        for payload in payloads:
            self.event(self.leader(), Propose(payload))
        self.run()

    def leader(self) -> int:
        """The running node that may propose in the highest view."""
        leaders = [n for n in self.nodes if self.up[n.name] and n.replica.may_propose]
        return max(leaders, key=lambda node: node.replica.view).index

    def wait_for(self, *, requests: bool) -> None:
        """Tell every node that is up whether requests wait."""
        for i, node in enumerate(self.nodes):
            if self.up[node.name]:
                self.event(i, Pending(requests))
        self.run()

    def pass_time(self, ms: int) -> None:
        """Fire every timer that falls due within `ms`, in order."""
        end = self.now_ms + ms
        while self._due:
            (name, timer), (due, _) = min(self._due.items(), key=lambda item: (item[1][0], item[0]))
            if due > end:
                break
            self.now_ms = max(self.now_ms, due)
            self.fire(next(node for node in self.nodes if node.name == name), TimerName(timer))
            self.run()
        self.now_ms = end

    def fire(self, node: Node, name: TimerName) -> None:
        """Fire a timer of a node now, unless the node is down."""
        self._due.pop((node.name, name), None)
        if self.up[node.name]:
            fired = TimerFired(node.timers.pop(name).timer)
            self.watch(node, [fired])
            self.apply(node, node.step(fired))

    def kill(self, index: int) -> None:
        """Stop a node without warning: what was not synced is lost."""
        node = self.nodes[index]
        node.crash()
        self.up[node.name] = False

    def restart(self, index: int) -> None:
        """Start a killed node from its disk."""
        node = self.nodes[index]
        self.up[node.name] = True
        self.apply(node, node.recover())
        self.run()

    def inject(self, sender: int, receiver: int, body: Body, payload: bytes | None = None) -> None:
        """Deliver a message, correctly signed by `sender`, that its replica never sent."""
        envelope = signed(sender, body, payload)
        self.event(receiver, Received(envelope))

    def sent_by(self, index: int, kind: type[Body]) -> list[Envelope]:
        """Messages of one kind that a node sent, once for each receiver."""
        name = self.nodes[index].name
        return [e for s, _, e in self.sent if s == name and isinstance(e.body, kind)]

    def _sender(self, sender: str) -> Callable[[str, Envelope], None]:
        def send(receiver: str, envelope: Envelope) -> None:
            self.sent.append((sender, receiver, envelope))
            self.wire.append((sender, receiver, envelope))

        return send


def signed(sender: int, body: Body, payload: bytes | None = None, epoch: int = 0) -> Envelope:
    """An envelope with the signature of the validator of this index."""
    signature = KEYS[sender].sign(signing_digest(CHAIN, epoch, body)) if is_signed(body) else None
    return Envelope(f"v{sender:02}", epoch, body, signature, payload)

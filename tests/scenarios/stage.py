"""The stage of a scenario: real replicas on the wire of `tests.consensus.cluster`, in words."""

from collections.abc import Callable, Sequence

from consensus.event import (
    Broadcast,
    CancelTimer,
    Certified,
    Deliver,
    Effect,
    Fault,
    Halt,
    Limits,
    Pending,
    Persist,
    Propose,
    Received,
    Rejected,
    Send,
    SetTimer,
    TimerFired,
    TimerName,
    Turned,
)
from consensus.journal import Held, frame
from consensus.message import Envelope, Status, slot_of
from tests.consensus.cluster import Cluster, Route, everything, lose_nothing, signed
from tests.consensus.node import KEYS, Disk, Node, seats
from tests.scenarios.forge import Forger, index, split
from tests.scenarios.words import Names, voters

TOPICS = ("messages", "again", "blocks", "complaints", "journal", "timers", "pace", "statuses")
SHOWN = frozenset(("messages", "blocks"))  # from the start; views and faults are always told
WORDS_MAX = 4  # blocks that a state names
CLAUSES = ("tag", "from", "to", "at", "in")


class Stage:
    """Commands on replicas; `tell` takes each line of the transcript."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.cluster = Cluster()
        self.names = Names()
        self._tell = tell
        self._shown = SHOWN
        self._views: dict[str, tuple[int, int, bool]] = {}
        self.commands: dict[str, Callable[[list[str]], None]] = {
            "validators": self._start,
            "show": lambda words: self._show(self._shown | self._topics(words)),
            "mute": lambda words: self._show(self._shown - self._topics(words)),
            "propose": self._propose,
            "elect": self._elect,
            "trickle": self._trickle,
            "waiting": lambda words: self._pending(words, waiting=True),
            "omitted": self._omitted,
            "idle": lambda words: self._pending(words, waiting=False),
            "carry": self._carry,
            "drop": self._drop,
            "lose": self._lose,
            "partition": self._partition,
            "heal": lambda _words: self._set_lost(lose_nothing),
            "pass": lambda words: self.cluster.pass_time(int(words[0])),
            "fire": self._fire,
            "busy": self._busy,
            "ready": self._ready,
            "crash": self._crash,
            "restart": self._restart,
            "renew": self._renew,
            "wipe": self._wipe,
            "bar": self._bar,
            "tear": self._tear,
            "flip": self._flip,
            "forge": self._forge,
            "state": self._state,
            "journal": self._journal,
        }

    def check(self) -> None:
        """Whatever a script does with up to f faulty validators: nodes agree on every block."""
        chains = [node.payloads for node in self.cluster.nodes]
        longest = max(chains, key=len)
        for node, chain in zip(self.cluster.nodes, chains, strict=True):
            assert chain == longest[: len(chain)], f"{node.name} has a chain of its own"

    # Commands

    def _start(self, words: list[str]) -> None:
        """`validators 4 others=1 window=8`: seats, nodes without one, and `Limits`."""
        limits = {name: int(value) for name, value in (word.split("=") for word in words[1:])}
        seated = int(words[0])
        n = seated + limits.pop("others", 0)
        self.cluster = Cluster(n, Limits(**({"window": 8} | limits)), seated=seated)
        self.cluster.watch = self._watch
        self._views = {node.name: self._view(node) for node in self.cluster.nodes}
        self.names.meet(0, self.cluster[0].header(0))

    def _show(self, topics: frozenset[str]) -> None:
        self._shown = topics

    def _topics(self, words: list[str]) -> frozenset[str]:
        unknown = set(words) - set(TOPICS)
        assert not unknown, f"expected topics of {TOPICS}, found {unknown}"
        return frozenset(words)

    def _propose(self, words: list[str]) -> None:
        """`propose one two`: the primary does, and nothing is carried yet."""
        for word in words:
            self.cluster.event(self.cluster.leader(), Propose(self.names.payload(word)))

    def _elect(self, words: list[str]) -> None:
        """`elect v00 v01+ v02!`: a block that gives them seats; + by its next key, ! suspended."""
        data = seats(*(str(index(word.rstrip("+!"))) + word[3:] for word in words))
        self.cluster.event(self.cluster.leader(), Propose(self.names.register(data)))

    def _trickle(self, words: list[str]) -> None:
        """`trickle 1900 4`: every 1900 ms the primary orders one block, until 4 or its view end."""
        every_ms, count = map(int, words)
        view = self._newest_view()
        for number in range(count):
            self.cluster.pass_time(every_ms)
            if self._newest_view() > view:
                return
            self.cluster.propose(self.names.payload(f"block-{number}"))

    def _newest_view(self) -> int:
        return max(node.replica.view for node in self.cluster.nodes)

    def _omitted(self, words: list[str]) -> None:
        """`omitted req v01 v02`: there req waits, and blocks that had room passed it over."""
        request, *names = words
        for node in self._nodes(names):
            self.cluster.event(node.index, Pending(True, (self.names.digest(request),)))

    def _pending(self, words: list[str], *, waiting: bool) -> None:
        for node in self._nodes(words):
            self.cluster.event(node.index, Pending(waiting))

    def _carry(self, words: list[str]) -> None:
        """`carry commit from v01 to v02 v03`: those on the wire, and what follows of the kind."""
        self.cluster.run(self._route(words))

    def _drop(self, words: list[str]) -> None:
        """`drop commit to v03`: what is on the wire now; told, for it is the point of a script."""
        meant = self._route(words)
        for item in [item for item in self.cluster.wire if meant(*item)]:
            self.cluster.wire.remove(item)
            sender, receiver, envelope = item
            self._tell(f"lost: {sender} -> {receiver}: {self.names.body(envelope.body)}")

    def _lose(self, words: list[str]) -> None:
        """`lose commit to v03`: from now on, instead of what was lost before."""
        self._set_lost(self._route(words))

    def _partition(self, words: list[str]) -> None:
        """`partition v00 | v01 v02 v03`: whoever is named in no part is alone."""
        parts = [set(part.split()) for part in " ".join(words).split("|")]
        self._set_lost(
            lambda sender, receiver, _: not any({sender, receiver} <= part for part in parts)
        )

    def _set_lost(self, lost: Route) -> None:
        self.cluster.lost = lost

    def _fire(self, words: list[str]) -> None:
        """`fire v01 view`: whatever time it is; nothing is carried yet."""
        self.cluster.fire(self.cluster[index(words[0])], TimerName(words[1]))

    def _busy(self, words: list[str]) -> None:
        """`busy v01`: its shell answers nothing that is delivered."""
        self.cluster.busy.update(words)

    def _ready(self, words: list[str]) -> None:
        """`ready v01`: its shell answers what was delivered meanwhile."""
        for node in self._nodes(words):
            self.cluster.busy.discard(node.name)
            self.cluster.apply(node, [])

    def _crash(self, words: list[str]) -> None:
        """`crash v01`: what was not synced is lost."""
        for node in self._nodes(words):
            self.cluster.kill(node.index)

    def _tear(self, words: list[str]) -> None:
        """`tear v01 half|zeros`: what the system had written of an entry that was not synced."""
        lost = frame(Held(1, b"never synced"))
        tail = {"half": lost[: len(lost) // 2], "zeros": bytes(len(lost))}[words[1]]
        self.cluster[index(words[0])].disk.journal += tail

    def _flip(self, words: list[str]) -> None:
        """`flip v01 40`: one bit of this byte of a crashed node's journal."""
        self.cluster[index(words[0])].disk.journal[int(words[1])] ^= 1

    def _restart(self, words: list[str]) -> None:
        """`restart v01`: it recovers from its disk; nothing is carried yet."""
        for node in self._nodes(words):
            effects = node.recover()
            self.cluster.up[node.name] = True
            self.cluster.apply(node, effects)

    def _renew(self, words: list[str]) -> None:
        """`renew v01`: a fresh journal, with what must be remembered alone."""
        for node in self._nodes(words):
            node.rotate()

    def _wipe(self, words: list[str]) -> None:
        """`wipe v01`: a crashed node's store is gone; its journal is kept."""
        for node in self._nodes(words):
            node.disk = Disk(journal=node.disk.journal)

    def _bar(self, words: list[str]) -> None:
        """`bar v01`: it may use its first key no more, whose journal was lost."""
        for node in self._nodes(words):
            node.disk = Disk()
            del node.keys[KEYS[node.index].public]

    def _forge(self, words: list[str]) -> None:
        """`forge v03 to v01 in 1: commit 0/1 one`: arrives at once, signed by v03 in epoch 1."""
        end = next(at for at, word in enumerate(words) if word.endswith(":"))
        to, *rest = split(["to", *words[2:end], words[end].rstrip(":")], ("to", "in"))
        epoch = int(rest[0][1]) if rest else 0
        forger = Forger(self.cluster, self.names, index(words[0]))
        body, payload = forger.read(words[end + 1 :])
        for node in self._nodes(to[1:]):
            if node.name != words[0]:
                envelope = signed(index(words[0]), body, payload, epoch)
                self.cluster.event(node.index, Received(envelope))

    def _state(self, words: list[str]) -> None:
        """`state v01`: where it stands, in one line."""
        for node in self._nodes(words):
            replica = node.replica
            stable = "none" if replica.stable is None else f"h{replica.stable.height}"
            blocks = " ".join(map(self._word, node.payloads[-WORDS_MAX:])) or "none"
            if len(node.payloads) > WORDS_MAX:
                blocks = f"{len(node.payloads)}, the last {blocks}"
            timed = "running" if TimerName.VIEW in node.timers else "not running"
            self._tell(
                f"{node.name}: {self._place(node)}, "
                f"blocks: {blocks}, stable {stable}, view timer {timed}"
                f"{'' if self.cluster.up[node.name] else ', down'}"
                f"{'' if replica.voting else ', observes'}"
            )

    def _journal(self, words: list[str]) -> None:
        """`journal v01`: the entries that a restart would find, synced or not."""
        for node in self._nodes(words):
            for entry in node.entries():
                self._tell(f"{node.name} has {self.names.entry(entry)}")

    # Words

    def _view(self, node: Node) -> tuple[int, int, bool]:
        return node.replica.epoch.number, node.replica.view, node.replica.active

    def _place(self, node: Node) -> str:
        """`in view 1 of epoch 2`; of the first epoch nothing is said."""
        epoch, view, active = self._view(node)
        place = f"{'in' if active else 'asks for'} view {view}"
        return f"{place} of epoch {epoch}" if epoch else place

    def _nodes(self, words: list[str]) -> list[Node]:
        if words in ([], ["all"]):
            return [node for node in self.cluster.nodes if self.cluster.up[node.name]]
        return [self.cluster[index(word)] for word in words]

    def _word(self, payload: bytes) -> str:
        return payload.decode() or "null"

    def _route(self, words: list[str]) -> Route:
        """`prepare commit from v01 to v02 v03 at 1 in 0`: tags, senders, receivers, heights."""
        if not words:
            return everything
        clauses = {part[0]: set(part[1:]) for part in split(["tag", *words], CLAUSES)}

        def meant(sender: str, receiver: str, envelope: Envelope) -> bool:
            found = {
                "tag": envelope.body.TAG,
                "from": sender,
                "to": receiver,
                "at": str(getattr(envelope.body, "sequence", getattr(envelope.body, "height", ""))),
                "in": str(getattr(envelope.body, "view", "")),
            }
            return all(not chosen or found[part] in chosen for part, chosen in clauses.items())

        return meant

    # The transcript

    def _watch(self, node: Node, seen: Sequence[Effect | TimerFired]) -> None:
        for height, (_, header) in enumerate(node.disk.store, 1):
            self.names.meet(height, header)
        for item in seen:
            self._tell_one(node, item)
        view = self._view(node)
        if view != self._views[node.name]:
            self._views[node.name] = view
            self._tell(
                f"{node.name} is {self._place(node)}"
                if view[2]
                else f"{node.name} {self._place(node)}"
            )

    def _tell_one(self, node: Node, seen: Effect | TimerFired) -> None:
        match seen:
            case TimerFired(timer) if timer.name is TimerName.VIEW or self._timed(timer.name):
                self._tell(f"{node.name} at {self.cluster.now_ms} ms: {timer.name} timer fires")
            case Persist(entry) if "journal" in self._shown:
                self._tell(f"{node.name} persists {self.names.entry(entry)}")
            case Broadcast(envelope) if self._topic(envelope) in self._shown:
                self._tell(f"{node.name} -> all: {self.names.body(envelope.body)}")
            case Send(to, envelope) if self._topic(envelope, again=True) in self._shown:
                self._tell(f"{node.name} -> {to}: {self.names.body(envelope.body)}")
            case Deliver(height, payload, proof) if "blocks" in self._shown:
                decided = f"{proof.view}/{height} by {voters(proof.votes)}"
                self._tell(
                    f"{node.name} delivers {height} {self._word(payload)}, decided {decided}"
                )
            case Turned(epoch):
                seated = " ".join(seat.id for seat in epoch.validators.validators)
                self._tell(
                    f"{node.name} turns to epoch {epoch.number} from {epoch.first}: {seated}"
                )
            case Certified(certificate) if "blocks" in self._shown:
                self._tell(f"{node.name} certifies {self.names.certificate(certificate)}")
            case SetTimer(timer, delay_ms) if self._timed(timer.name):
                self._tell(f"{node.name} sets its {timer.name} timer to {delay_ms} ms")
            case CancelTimer(name) if self._timed(name):
                self._tell(f"{node.name} cancels its {name} timer")
            case Fault(evidence):
                about = evidence.validator
                self._tell(f"{node.name} accuses {about}: {self.names.evidence(evidence)}")
            case Rejected(peer, code):
                self._tell(f"{node.name} rejects {peer}: {code}")
            case Halt(reason):
                self._tell(f"{node.name} halts: {reason}")

    def _topic(self, envelope: Envelope, *, again: bool = False) -> str:
        """What is sent to one alone was said to all before, unless it is asked for or given."""
        if isinstance(envelope.body, Status):
            return "complaints" if envelope.body.complaints else "statuses"
        return "again" if again and slot_of(envelope.body) is not None else "messages"

    def _timed(self, name: TimerName) -> bool:
        topics = {TimerName.VIEW: "timers", TimerName.PACE: "pace", TimerName.STATUS: "statuses"}
        return topics[name] in self._shown

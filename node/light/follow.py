"""Following a chain at several nodes at once, none of them trusted, round by round.

In a round each node shows its newest checkpoint, which is verified, and that it goes on from the
one that is held, or from the pin. Then the highest of them has to contain each other one in its
history; one that is below what is held, or below the pin, it need not be able to show. Whatever
certified header has no place there is a fork, and both sides are kept as evidence. What is held
moves on only along itself; while nothing is held, a fork leaves the client with nothing, rather
than with one of two histories.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TypeVar

from node.client.client import UNKNOWN_EPOCH, Client
from node.client.proven import Proven
from node.light import ask
from node.light.conflict import Conflict, find
from node.light.history import History, begin, parting
from vm.genesis import Genesis
from vm.inclusion import CertifiedHeader
from vm.refusal import Refused
from vm.trust import Pin

T = TypeVar("T")

UNREACHABLE = "client.unreachable"
LOOK_S = 60.0  # for all that leads to a node's newest checkpoint; as long as one answer may take
SHOW_S = 60.0  # for all that it then shows of its history, to whomever it is held against


class State(StrEnum):
    """How a node stood in a round."""

    AGREES = "agrees"  # its checkpoint is the newest, or in the history of the newest
    BEHIND = "behind"  # older than what is held or pinned, and nobody showed how the two stand
    UNREACHABLE = "unreachable"
    REFUSED = "refused"  # it answered, and not with a checkpoint
    FALSE = "false"  # it sent something that does not verify
    CONFLICT = "conflict"  # its checkpoint is certified, and not in the same history


@dataclass(frozen=True, slots=True)
class Seen:
    """One node in a round; `certified` is its newest checkpoint, where it showed one that holds."""

    url: str
    state: State
    certified: CertifiedHeader | None
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """What came of asking all nodes once; `held` is what is followed after it.

    `conflicts` are the forks that the round before did not show.
    """

    seen: tuple[Seen, ...]
    held: History | None
    conflicts: tuple[Conflict, ...]


class Follower:
    """Follows with one client for each node; `held` is what was followed earlier."""

    def __init__(
        self, genesis: Genesis, clients: Sequence[Client], pin: Pin | None, held: History | None
    ) -> None:
        self.held = held
        self._pin = pin if held is None else held.pin
        self._nodes = [_Node(client, genesis, self._pin) for client in clients]
        self._conflicts: dict[str, Conflict] = {}

    async def round(self) -> Round:
        """Ask every node once."""
        self._conflicts.clear()
        await asyncio.gather(*(node.look(self.held) for node in self._nodes))
        await asyncio.gather(*(self._hold(node) for node in self._nodes))
        leader = await self._lead()
        if leader is not None and self._is_behind(leader):
            for node in filter(_is_sound, self._nodes):
                node.state = State.BEHIND
        elif leader is not None:
            self._take(leader)
        seen = tuple(node.seen for node in self._nodes)
        return Round(seen, self.held, tuple(self._conflicts.values()))

    async def _hold(self, node: "_Node") -> None:
        """A node that is as high as what is held, or as the pin, must go on from there."""
        if not _is_sound(node) or self._is_behind(node):
            return
        if self.held is None:
            await node.require_pin()
        elif self.held.newest is not None:
            conflict = await node.parts_from(self.held)
            if conflict is not None:
                self._note(conflict, node)
            else:
                node.require_epochs(self.held)

    async def _lead(self) -> "_Node | None":
        """The highest node, whose history holds the others; None if there is none, or a fork."""
        fork: Conflict | None = None
        while leader := max(filter(_is_sound, self._nodes), key=_height, default=None):
            if not self._is_behind(leader):
                await leader.prove_epochs(self.held)
            if not _is_sound(leader):
                continue
            for node in filter(_is_sound, self._nodes):
                if node is leader or node.history is None:
                    continue
                if self._is_behind(node) and not self._is_behind(leader):
                    conflict = await leader.shows(node)
                else:
                    conflict = await leader.parts_from(node.history)
                if not _is_sound(leader):
                    break  # it cannot show its history: the next one leads
                if conflict is not None:
                    self._note(conflict, node)
                    if self._is_behind(leader) or not self._is_behind(node):
                        fork = conflict  # else it is the node alone that left what is held
            if not _is_sound(leader):
                continue
            if fork is None:
                return leader
            for node in filter(_is_sound, self._nodes):
                node.part(fork, fork.is_by(self.held))
        return None

    def _take(self, leader: "_Node") -> None:
        """Hold what the leader has shown; who agrees with it names the same validators."""
        assert leader.history is not None, "it has shown a checkpoint"
        self.held = leader.history.begun
        for node in filter(_is_sound, self._nodes):
            node.require_epochs(self.held)

    def _note(self, conflict: Conflict, node: "_Node") -> None:
        """Take note of a fork, unless the node was in such a one in the round before already.

        One by retired keys does not keep one of the validators who rule from being told of.
        """
        ruling = conflict.is_by(self.held)
        if ruling not in node.told:
            self._conflicts[conflict.name] = conflict
        node.part(conflict, ruling)

    def _is_behind(self, node: "_Node") -> bool:
        if self.held is not None and self.held.newest is not None:
            return _height(node) < self.held.newest.header.height
        return self._pin is not None and _height(node) < self._pin.height


class _Node:
    """One node: the client that asks it, and what came of the last look."""

    def __init__(self, client: Client, genesis: Genesis, pin: Pin | None) -> None:
        self.url = client.urls[0]
        self.state = State.UNREACHABLE
        self.code = self.message = ""
        self.history: History | None = None
        self.told = set[bool]()  # which forks of it were told of: by those who rule, or not
        self._client = client
        self._genesis = genesis
        self._pin = pin
        self._start: History | None = None  # the beginning, once it is known
        self._left_s = LOOK_S  # of its time in this round

    @property
    def seen(self) -> Seen:
        """How it stands."""
        certified = None if self.history is None else self.history.newest
        return Seen(self.url, self.state, certified, self.code, self.message)

    async def look(self, held: History | None) -> None:
        """Have it show its newest checkpoint."""
        if self.state is not State.CONFLICT:
            self.told.clear()
        self.state, self.code, self.message, self.history = State.AGREES, "", "", None
        self._client.distrusted.clear()
        self._left_s = LOOK_S
        try:
            self.history = await self._in_time(self._newest(held))
        except Refused as refused:
            self._fail(refused)
        self._left_s = SHOW_S

    def part(self, conflict: Conflict, ruling: bool) -> None:
        """It is on one side of a fork, which is one of the validators who rule or not."""
        self.told.add(ruling)
        self.state, self.code = State.CONFLICT, "audit.conflict"
        self.message = f"a fork at height {conflict.height}"

    async def parts_from(self, older: History) -> Conflict | None:
        """The fork, if its newest checkpoint does not go on from that of `older`.

        A node that shows neither is sound no longer.
        """
        try:
            return await self._parting(older)
        except Refused as refused:
            self._fail(refused)
            return None

    async def shows(self, node: "_Node") -> Conflict | None:
        """As `parts_from`, of a node that is behind what this one has been shown to go on from.

        What stands there it may have pruned, or be certified by keys that do not count: then that
        node is behind. Whoever shows an old checkpoint must not put others in the wrong.
        """
        assert node.history is not None, "it has shown a checkpoint"
        try:
            return await self._parting(node.history)
        except Refused as refused:
            if self._client.distrusted or refused.code == UNREACHABLE:
                self._fail(refused)
            else:
                node.state = State.BEHIND
            return None

    async def require_pin(self) -> None:
        """Its newest checkpoint must go on from the pin, if there is one."""
        start = self._start
        if start is None or start.newest is None:
            return
        conflict = await self.parts_from(start)
        if conflict is not None:
            self.state, self.code = State.FALSE, "pin.header"
            self.message = f"{self.url}: expected the pinned header in its history, found another"

    async def prove_epochs(self, held: History | None) -> None:
        """The state of its newest checkpoint must hold the epochs that are new to what is held.

        Between two true headers, keys that were retired sign steps to any validators.
        """
        assert self.history is not None, "it has shown a checkpoint"
        assert self.history.newest is not None, "a look ends with one"
        known = set[bytes]()
        if held is not None and held.newest is not None:
            known = {epoch.digest for epoch in held.begun.trust.epochs}
        _, *following = self.history.begun.trust.epochs
        newest, start = self.history.newest, self.history.start
        header = (newest.later or newest).header
        try:
            if start is not None and header.height < start.certified.certificate.height:
                raise Refused(
                    "client.stale",
                    f"{self.url}: expected a checkpoint as new as what certifies the pin, height "
                    f"{start.certified.certificate.height}, found {header.height}",
                )
            unknown = [epoch for epoch in following if epoch.digest not in known]
            await self._in_time(ask.require_epochs(self._client, header, unknown))
        except Refused as refused:
            self._fail(refused)

    async def _parting(self, older: History) -> Conflict | None:
        history = self.history
        assert history is not None, "it has shown a checkpoint"
        old, new = older.newest, history.newest
        assert old is not None, "there is something to go on from"
        assert new is not None, "a look ends with a checkpoint"
        if old.header.height == new.header.height:
            other = None if old.header.digest == new.header.digest else new
        else:
            check = partial(parting, history, older=old, newer=new)
            other = await self._in_time(ask.consistency(self._client, old, new, check))
        return None if other is None else find(older, history.see(other))

    def require_epochs(self, held: History) -> None:
        """Its validators must be those that were followed, from first to last."""
        if not _is_sound(self) or self.history is None:
            return
        known, shown, height = held.trust.epochs, self.history.trust.epochs, _height(self)
        due = [epoch for epoch in known if epoch.first <= height]
        if len(shown) < len(due) or any(a != b for a, b in zip(known, shown, strict=False)):
            self.state, self.code = State.FALSE, "audit.validators"
            self.message = f"{self.url}: expected the validators that were followed, found others"

    async def _newest(self, held: History | None) -> History:
        """Its checkpoint, under the epochs that it was followed to, or that are held, or its own.

        A node on another history has other epochs from where the two part: so it may begin anew.
        """
        start = self._start
        bases: list[History | None] = [None]  # as it was followed last
        if start is None:
            start = self._start = await self._begin(held)
            if held is not None:
                bases.clear()  # nothing was asked yet; else by what the beginning has shown
        bases += [start] if held is None else [held, start]
        for base in bases:
            if base is not None:
                self._client.proven = Proven(base.trust, base.steps)
            try:
                certified = await ask.newest(self._client)
                break
            except Refused as refused:
                if refused.code != UNKNOWN_EPOCH or base is start:
                    raise
        proven = self._client.proven
        return History(proven.trust, start.start, proven.steps, certified)

    async def _begin(self, held: History | None) -> History:
        if held is None:
            return await ask.beginning(self._client, self._genesis, self._pin)
        return begin(self._genesis, held.start)

    async def _in_time(self, asking: Awaitable[T]) -> T:
        """What the node is asked, if it takes no longer than is left of its time in this round.

        Each answer has its own bounds, yet a node can put off many of them, one after the other.
        """
        now_s = asyncio.get_running_loop().time
        begun_s = now_s()
        try:
            async with asyncio.timeout(self._left_s):
                return await asking
        except TimeoutError:
            raise Refused(
                UNREACHABLE, f"{self.url}: expected it to be done in time, found it slow"
            ) from None
        finally:
            self._left_s -= now_s() - begun_s

    def _fail(self, refused: Refused) -> None:
        if refused.code == UNREACHABLE:
            self.state = State.UNREACHABLE
        else:
            self.state = State.FALSE if self._client.distrusted else State.REFUSED
        self.code, self.message = refused.code, refused.message


def _is_sound(node: _Node) -> bool:
    return node.state is State.AGREES


def _height(node: _Node) -> int:
    assert node.history is not None, "it has shown a checkpoint"
    assert node.history.newest is not None, "a look ends with one"
    return node.history.newest.header.height

"""The board: read once for all who ask, again when told or when time is over, and never stale."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from node.api.keys import KEYS_MAX
from node.client import board as module
from node.client.board import Board
from node.client.client import Client
from node.client.proven import Asked
from vm.learning import Round, Task
from vm.record import Member, Model
from vm.refusal import Refused

TASK: Asked = (Task, ("task",))
ROUND: Asked = (Round, ("task", 1))
MEMBER: Asked = (Member, ("trainer",))


@dataclass(frozen=True)
class Page:
    """A record's stand-in: how often it was written."""

    writes: int


class Node:
    """A client whose stream gives what the test puts in, and whose chain is what it says."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.proven = SimpleNamespace(written=0)
        self.height = 1
        self.writes: dict[Asked, int] = {}
        self.requests: list[tuple[Asked, ...]] = []
        self.refusal: Refused | None = None
        self.gate: asyncio.Event | None = None
        self.asked = asyncio.Event()
        self.open, self.open_most = 0, 0  # requests that wait for their answer

    async def events(self) -> AsyncIterator[Any]:
        """Events as they come."""
        while True:
            yield await self.queue.get()
            self.queue.task_done()  # the board asks for the next

    async def together(self, asked: Sequence[Asked]) -> tuple[list[Any], Any]:
        """Records as they are now."""
        self.requests.append(tuple(asked))
        self.asked.set()
        found = [Page(self.writes[item]) if item in self.writes else None for item in asked]
        header = SimpleNamespace(height=self.height)
        self.open += 1
        self.open_most = max(self.open, self.open_most)
        await asyncio.sleep(0)  # an answer takes a turn
        self.open -= 1
        if self.gate is not None:
            await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        return found, header

    def write(self, *places: Asked) -> None:
        """A block writes these records."""
        self.height += 1
        for place in places:
            self.writes[place] = self.writes.get(place, 0) + 1

    async def tell(self, *places: Asked, left_out: int = 0) -> None:
        """An event names these records, and the board has heard it."""
        named = [SimpleNamespace(kind=cls.KIND, key=list(key)) for cls, key in places]
        event = SimpleNamespace(height=self.height, records=named, left_out=left_out)
        self.queue.put_nowait(event)
        await self.queue.join()


Scenario = Callable[[Node, Board], Awaitable[None]]


def run(scenario: Scenario) -> Node:
    """Go through a scenario with a board that follows its node."""

    async def main() -> Node:
        node = Node()
        board = Board(cast(Client, node))
        following = asyncio.create_task(board.run())
        try:
            await scenario(node, board)
        finally:
            following.cancel()
        return node

    return asyncio.run(asyncio.wait_for(main(), 30))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only events tell of news, unless a test says otherwise."""
    monkeypatch.setattr(module, "POLL_S", 1_000)
    monkeypatch.setattr(module, "BEHIND_S", 1_000)


async def look(board: Board, *places: Asked) -> list[Any]:
    """All of these at the same time, as works do that woke together."""
    return await asyncio.gather(*(board.record(cls, *key) for cls, key in places))


def test_all_who_ask_at_once_are_answered_by_one_request() -> None:
    """Each record is asked for once; an absent one is None."""

    async def scenario(node: Node, board: Board) -> None:
        node.write(TASK, ROUND)
        found = await look(board, TASK, ROUND, TASK, MEMBER)
        assert found == [Page(1), Page(1), Page(1), None]

    assert run(scenario).requests == [(TASK, ROUND, MEMBER)]


def test_more_than_one_answer_holds_are_asked_for_in_several() -> None:
    """A node refuses longer requests."""
    places: list[Asked] = [(Member, (f"trainer-{number}",)) for number in range(KEYS_MAX + 1)]

    async def scenario(node: Node, board: Board) -> None:
        assert await look(board, *places) == [None] * len(places)

    assert [len(asked) for asked in run(scenario).requests] == [KEYS_MAX, 1]


def test_only_so_many_requests_are_open_at_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of verdicts are read one answer after the other: a node has others to serve."""
    monkeypatch.setattr(module, "REQUESTS_MAX", 2)
    places: list[Asked] = [(Member, (f"trainer-{number}",)) for number in range(8 * KEYS_MAX)]

    async def scenario(node: Node, board: Board) -> None:
        assert await look(board, *places) == [None] * len(places)
        assert await look(board, TASK) == [None]

    node = run(scenario)
    assert [len(asked) for asked in node.requests] == [KEYS_MAX] * 8 + [1]
    assert node.open_most == 2


def test_what_was_read_is_kept_until_an_event_names_it() -> None:
    """A block that wrote something else costs nothing."""

    async def scenario(node: Node, board: Board) -> None:
        node.write(ROUND)
        await look(board, ROUND)
        node.write(MEMBER)
        await node.tell(MEMBER)
        assert await look(board, ROUND) == [Page(1)]
        node.write(ROUND)
        await node.tell(ROUND)
        assert await look(board, ROUND) == [Page(2)]

    assert run(scenario).requests == [(ROUND,), (ROUND,)]


def test_what_is_in_use_and_has_changed_is_read_along_once() -> None:
    """Who asks for one of them will ask for the others; if nobody does, they are let go."""

    async def scenario(node: Node, board: Board) -> None:
        await look(board, TASK, ROUND, MEMBER)
        for _ in range(3):
            node.write(TASK, ROUND)
            await node.tell(TASK, ROUND)
            await look(board, TASK)

    first, *later = run(scenario).requests
    assert set(first) == {TASK, ROUND, MEMBER}
    assert [set(asked) for asked in later] == [{TASK, ROUND}, {TASK}, {TASK}]


def test_an_event_that_leaves_records_out_names_them_all() -> None:
    """A block may change more than an event lists."""

    async def scenario(node: Node, board: Board) -> None:
        await look(board, ROUND)
        node.write(ROUND)
        await node.tell(MEMBER, left_out=1)
        assert await look(board, ROUND) == [Page(1)]

    run(scenario)


def test_without_events_a_record_is_kept_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that never tells cannot hide what changed."""
    monkeypatch.setattr(module, "POLL_S", 0)

    async def scenario(node: Node, board: Board) -> None:
        await look(board, ROUND)
        node.write(ROUND)
        assert await look(board, ROUND) == [Page(1)]

    run(scenario)


def test_what_nothing_changes_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's version, once it is there; that it is absent may change."""
    monkeypatch.setattr(module, "POLL_S", 0)
    monkeypatch.setattr(module, "LASTING", Page)
    version: Asked = (Model, ("model", 1))

    async def scenario(node: Node, board: Board) -> None:
        assert await look(board, version) == [None]
        node.write(version)
        for _ in range(3):
            assert await look(board, version) == [Page(1)]

    assert run(scenario).requests == [(version,)] * 2


def test_after_a_receipt_of_ours_nothing_older_is_shown() -> None:
    """Else a trainer would train a round again whose update it has just submitted."""

    async def scenario(node: Node, board: Board) -> None:
        assert await look(board, ROUND) == [None]
        node.write(ROUND)
        node.proven.written = node.height
        assert await look(board, ROUND) == [Page(1)]

    run(scenario)


def test_after_a_receipt_of_ours_all_that_is_in_use_is_read_again_together() -> None:
    """Not one record after the other, as a work comes to them."""

    async def scenario(node: Node, board: Board) -> None:
        await look(board, TASK, ROUND, MEMBER)
        node.write(ROUND)
        node.proven.written = node.height
        assert await look(board, TASK) == [None]
        assert await look(board, ROUND, MEMBER) == [Page(1), None]

    assert [len(asked) for asked in run(scenario).requests] == [3, 3]


def test_after_a_receipt_of_ours_what_nobody_asks_for_any_more_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was in use a while ago: judging a round takes thousands of verdicts, each for a moment."""
    monkeypatch.setattr(module, "IN_USE_S", 0)

    async def scenario(node: Node, board: Board) -> None:
        await look(board, TASK, ROUND, MEMBER)
        node.write(ROUND)
        node.proven.written = node.height
        assert await look(board, TASK) == [None]

    assert [len(asked) for asked in run(scenario).requests] == [3, 1]


def test_a_reading_from_before_a_receipt_does_not_answer_who_asks_after_it() -> None:
    """It was under way, and shows the chain as it was."""

    async def scenario(node: Node, board: Board) -> None:
        node.gate = asyncio.Event()
        early = asyncio.create_task(board.record(Round, "task", 1))
        await node.asked.wait()
        node.write(ROUND)
        node.proven.written = node.height
        late = asyncio.create_task(board.record(Round, "task", 1))
        node.gate.set()
        found: list[Any] = [await early, await late]
        assert found == [None, Page(1)]

    run(scenario)


def test_a_reading_that_an_event_overtakes_is_not_kept() -> None:
    """It may show what was there before."""

    async def scenario(node: Node, board: Board) -> None:
        node.gate = asyncio.Event()
        early = asyncio.create_task(board.record(Round, "task", 1))
        await node.asked.wait()
        node.write(ROUND)
        await node.tell(ROUND)
        node.gate.set()
        assert await early is None
        assert await look(board, ROUND) == [Page(1)]

    run(scenario)


def test_what_is_named_before_the_request_has_left_is_read_once() -> None:
    """The request that leaves then shows the change."""

    async def scenario(node: Node, board: Board) -> None:
        await look(board, ROUND)
        node.write(ROUND)
        await node.tell(ROUND)
        asking = asyncio.create_task(board.record(Round, "task", 1))
        asyncio.get_running_loop().call_soon(board._forget, ROUND)
        found: Any = await asking
        assert found == Page(1)

    assert len(run(scenario).requests) == 2


def test_what_a_node_says_that_lags_behind_the_events_is_kept_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another node told of the block that it has yet to certify."""
    monkeypatch.setattr(module, "BEHIND_S", 0)

    async def scenario(node: Node, board: Board) -> None:
        node.height = 5
        await node.tell(ROUND)
        node.height = 4
        assert await look(board, ROUND) == [None]
        node.height, node.writes[ROUND] = 5, 1
        assert await look(board, ROUND) == [Page(1)]

    run(scenario)


def test_a_height_that_no_block_has_does_not_keep_records_from_being_kept() -> None:
    """A node's events are only its word: one that claims a high block costs a few readings."""

    async def scenario(node: Node, board: Board) -> None:
        node.height = 10**12
        await node.tell(ROUND)
        node.height = 1
        for _ in range(3):
            assert await look(board, ROUND) == [None]

    assert run(scenario).requests == [(ROUND,)]


def test_a_refusal_is_raised_for_all_who_asked_and_not_kept() -> None:
    """The next look asks again."""

    async def scenario(node: Node, board: Board) -> None:
        node.refusal = Refused("client.unreachable", "expected an answer, found none")
        for looking in [asyncio.create_task(look(board, place)) for place in (TASK, ROUND)]:
            with pytest.raises(Refused, match="unreachable"):
                await looking
        node.refusal = None
        assert await look(board, ROUND) == [None]

    run(scenario)


def test_so_many_records_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was read longest ago goes."""
    monkeypatch.setattr(module, "KEPT_MAX", 2)

    async def scenario(node: Node, board: Board) -> None:
        for place in (TASK, ROUND, MEMBER, MEMBER, ROUND, TASK):
            await look(board, place)

    assert run(scenario).requests == [(TASK,), (ROUND,), (MEMBER,), (TASK,)]


def test_blocks_that_wrote_a_task_or_a_round_are_counted() -> None:
    """Once each, and no others."""

    async def scenario(node: Node, board: Board) -> None:
        counts = []
        for places in ((), (MEMBER,), (TASK,), (ROUND, TASK, ROUND), (MEMBER, MEMBER)):
            await node.tell(*places)
            counts.append(board.count)
        assert counts == [0, 0, 1, 2, 2]

    run(scenario)


def test_news_since_the_last_look_are_not_waited_for() -> None:
    """A block that came while we worked is not slept over."""

    async def scenario(node: Node, board: Board) -> None:
        board.count = 3
        await board.wait(2)

    run(scenario)


def test_a_waiter_wakes_with_the_next_block() -> None:
    """All waiters do, and later ones wait for a later block."""

    async def scenario(node: Node, board: Board) -> None:
        for seen in (0, 1):
            waiters = [asyncio.create_task(board.wait(seen)) for _ in range(2)]
            await asyncio.sleep(0)
            await node.tell(ROUND)
            await asyncio.gather(*waiters)
        assert board.count == 2

    run(scenario)


def test_a_silent_stream_is_polled_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that never tells cannot keep a peer from looking."""
    monkeypatch.setattr(module, "POLL_S", 0)

    async def scenario(node: Node, board: Board) -> None:
        await board.wait(0)
        assert board.count == 0

    run(scenario)

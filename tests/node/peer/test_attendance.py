"""Attending to tasks: none stops another, and none is attended to after its end."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import pytest
import structlog.testing

from node.client.board import Board
from node.peer import attendance
from node.peer.attendance import attend, attend_all, end_of, tasks_of
from tests.fl.dialogue import TERMS
from tests.node.hospital import PATIENT
from vm.learning import OpenTasks, SiteApproval, Task, TaskPhase
from vm.refusal import Refused
from vm.state import Record


class Enough(BaseException):
    """The end of a test: nothing that a task can raise."""


@dataclass
class Node:
    """Shows tasks, all open until they are said to be over."""

    phases: dict[str, TaskPhase] = field(default_factory=dict)
    approvals: list[bool | Refused] = field(default_factory=list)  # in turn, of each look at one
    count: int = 0
    reads: int = 0

    async def wait(self, seen: int) -> None:
        """News come at once."""
        await asyncio.sleep(0)

    async def record(self, cls: type[Record], *key: str) -> Record | None:
        """One task, or which are open; lists are no proof, and there are none."""
        self.reads += 1
        if cls is OpenTasks:
            found = [id for id, phase in self.phases.items() if phase is TaskPhase.OPEN]
            return OpenTasks(tuple(found)) if found else None
        if cls is SiteApproval:
            stands = self.approvals.pop(0)
            if isinstance(stands, Refused):
                raise stands
            return SiteApproval(key[0], key[1], "t", bytes(32), stands, bytes(32), 1, 1)
        phase = self.phases.get(key[0])
        if phase is None:
            return None
        return Task(key[0], "s", "o", TERMS, 0, phase, 1, 0, 0, None, None, 0, 0)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits in these tests."""
    monkeypatch.setattr(attendance, "RETRY_S", 0)
    monkeypatch.setattr(attendance, "FIND_AGAIN_S", 0)


def board(node: Node | None = None) -> Board:
    """What a node shows."""
    return cast(Board, node or Node())


def test_a_stuck_task_does_not_stop_another() -> None:
    """Its work hangs for good; the other's goes on, by the same worker."""
    looked: list[str] = []

    async def work(task: str) -> None:
        looked.append(task)
        if task == "stuck":
            await asyncio.Event().wait()
        if looked.count("free") == 3:
            raise Enough

    async def find() -> Iterable[str]:
        return ("stuck", "free")

    with pytest.raises(BaseExceptionGroup) as ended:
        asyncio.run(attend_all([work], (), find, board()))

    assert ended.group_contains(Enough)
    assert sorted(looked) == ["free", "free", "free", "stuck"]


def test_tasks_are_found_later_too_and_attended_to_once() -> None:
    """Each by every worker; a look that is refused is made again."""
    looked: list[str] = []
    looks = iter([("first",), None, ("first", "second")])

    async def find() -> Iterable[str]:
        found = next(looks, ("first", "second"))
        if found is None:
            raise Refused("client.unreachable", "expected a node, found none")
        return found

    async def work(task: str) -> None:
        looked.append(task)
        if task == "second":
            raise Enough
        await asyncio.Event().wait()

    with pytest.raises(BaseExceptionGroup):
        asyncio.run(attend_all([work, work], (), find, board()))

    assert looked.count("first") == 2
    assert set(looked) == {"first", "second"}


def test_listed_tasks_wait_for_no_answer() -> None:
    """A node that never ends its list of tasks holds up nothing that the site listed itself."""

    async def find() -> Iterable[str]:
        await asyncio.Event().wait()
        return ()

    async def work(task: str) -> None:
        raise Enough

    with pytest.raises(BaseExceptionGroup) as ended:
        asyncio.run(asyncio.wait_for(attend_all([work], ("listed",), find, board()), 30))

    assert ended.group_contains(Enough)


def test_a_task_is_attended_to_once_more_after_its_end() -> None:
    """Somebody may have to look at its last round; then nothing is asked any more."""
    node = Node({"task": TaskPhase.OPEN})
    looked: list[str] = []

    async def work(task: str) -> None:
        looked.append(task)
        if len(looked) == 2:
            node.phases["task"] = TaskPhase.COMPLETED

    asyncio.run(attend(work, "task", board(node)))

    assert len(looked) == 3


def test_what_is_refused_is_tried_again_and_said_once() -> None:
    """A log is read by people: the same line every second hides the next one."""
    reasons = iter(["one", "one", "two", "two", "two"])

    async def work(task: str) -> None:
        reason = next(reasons, None)
        if reason is None:
            raise Enough
        raise Refused("peer.not_a_site", reason)

    with structlog.testing.capture_logs() as logs, pytest.raises(Enough):
        asyncio.run(attend(work, "task", board()))

    assert [line["reason"] for line in logs] == ["one", "two"]


def test_a_task_that_breaks_is_tried_again_and_its_data_stay_out_of_the_log() -> None:
    """A steward's or trainer's numbers may break one task's work; the log tells what, no data."""
    looked: list[str] = []

    async def work(task: str) -> None:
        looked.append(task)
        if len(looked) == 3:
            raise Enough
        raise ValueError(PATIENT)

    with structlog.testing.capture_logs() as logs, pytest.raises(Enough):
        asyncio.run(attend(work, "task", board()))

    assert [(line["event"], line["task"], line["type"]) for line in logs] == [
        ("peer.broken", "task", "ValueError")
    ] * 2
    assert PATIENT not in str(logs)


def test_a_site_that_is_asked_looks_for_the_open_tasks_that_name_it() -> None:
    """Not for those of others, and of those that are over it reads none, however many there are."""
    over = {f"over-{number}": TaskPhase.COMPLETED for number in range(1_000)}
    node = Node(over | {"open": TaskPhase.OPEN})

    found = asyncio.run(tasks_of(board(node), "hospital-2.trainer"))
    others = asyncio.run(tasks_of(board(node), "hospital-9.trainer"))

    assert [task.id for task in found] == ["open"]
    assert others == []
    assert node.reads == 2 * 2
    assert asyncio.run(tasks_of(board(), "hospital-2.trainer")) == []


@pytest.mark.parametrize(
    ("phase", "approvals", "code"),
    [
        (TaskPhase.COMPLETED, [], "loop.ended"),
        (TaskPhase.CLOSED, [], "loop.ended"),
        (TaskPhase.OPEN, [True, Refused("client.unreachable", "nobody"), False], "loop.withdrawn"),
    ],
)
def test_no_further_round_comes(
    phase: TaskPhase, approvals: list[bool | Refused], code: str
) -> None:
    """Of a task that is over, or from which the site has withdrawn; an outage says neither."""
    node = Node({"task": phase}, approvals)

    found = asyncio.run(end_of(board(node), "hospital-2.trainer", "task"))

    assert (found.code, node.approvals) == (code, [])

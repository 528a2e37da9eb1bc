"""Attending to tasks: none stops another."""

import asyncio
from pathlib import Path

import pytest
import structlog.testing

from node.client.watch import Watch
from node.peer import attendance
from node.peer.attendance import attend
from tests.node.hospital import PATIENT, Town
from vm.refusal import Refused


def test_a_site_takes_part_in_the_tasks_of_its_configuration_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hospital opts out by not naming a task; one that is refused does not stop the next."""
    monkeypatch.setattr(attendance, "RETRY_S", 0)
    looked: list[str] = []

    async def work(task: str) -> None:
        looked.append(task)
        if len(looked) == 4:
            raise Enough
        if task == "first":
            raise Refused("peer.not_a_site", "expected to be one")

    watch = Town(tmp_path).watch()
    watch.count = 1
    monkeypatch.setattr(Watch, "wait", _at_once)

    with pytest.raises(Enough):
        asyncio.run(attend(work, ("first", "second"), watch))

    assert looked == ["first", "second"] * 2


class Enough(BaseException):
    """The end of a test: nothing that a task can raise."""


def test_a_task_that_breaks_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A steward's or trainer's numbers may break one task's work; the log tells what, no data."""
    monkeypatch.setattr(attendance, "RETRY_S", 0)
    monkeypatch.setattr(Watch, "wait", _at_once)
    looked: list[str] = []

    async def work(task: str) -> None:
        looked.append(task)
        if len(looked) == 4:
            raise Enough
        if task == "first":
            raise ValueError(PATIENT)

    with structlog.testing.capture_logs() as logs, pytest.raises(Enough):
        asyncio.run(attend(work, ("first", "second"), Town(tmp_path).watch()))

    assert looked == ["first", "second"] * 2
    assert [(line["event"], line["task"], line["type"]) for line in logs] == [
        ("peer.broken", "first", "ValueError")
    ] * 2
    assert PATIENT not in str(logs)


async def _at_once(watch: object, seen: int) -> None:
    await asyncio.sleep(0)

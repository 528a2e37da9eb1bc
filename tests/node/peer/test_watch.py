"""Work that is cut off once it is not wanted any more."""

import asyncio

import pytest

from node.peer import watch
from node.peer.watch import while_wanted
from vm.refusal import Refused


def test_work_that_is_not_wanted_has_ended_when_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever it does on its way out: nobody begins anew beside it."""
    monkeypatch.setattr(watch, "LOOK_S", 0)
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended = True

    async def look() -> None:
        raise Refused("test.unwanted", "expected work that is wanted, found it unwanted")

    async def scenario() -> bool:
        with pytest.raises(Refused, match=r"test\.unwanted"):
            await while_wanted(work(), look)
        return ended

    assert asyncio.run(scenario())

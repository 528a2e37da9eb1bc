"""Single looks at the task of a town of hospitals, and what the chain holds after them."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.fl.dialogue import TASK
from tests.harness import organisation
from tests.node.hospital import Town
from vm.learning import Round, RoundPhase, Verdict
from vm.refusal import Refused


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run one look at the task to its end."""
    asyncio.run(work)


def code_of(work: Coroutine[Any, Any, None]) -> str:
    """The code with which one look at the task is refused."""
    with pytest.raises(Refused) as refused:
        asyncio.run(work)
    return refused.value.code


def opened(folder: Path, **changes: Any) -> Town:
    """A town whose task waits for updates."""
    town = Town(folder)
    town.open(**changes)
    return town


def submitted(folder: Path) -> Town:
    """A town whose task waits for verdicts."""
    town = opened(folder)
    for number in (1, 2, 3, 4):
        run(town.trainer(number).work(TASK))
    assert phase(town) is RoundPhase.VERDICT
    town.submitted.clear()
    return town


def phase(town: Town) -> RoundPhase:
    """The first round's phase."""
    return town.chain.get(Round, TASK, 1).phase


def verdicts(town: Town, judge: int) -> dict[str, Verdict]:
    """What a hospital's verifier has said, by the organisation that it judged."""
    found = (
        town.chain.state.get(Verdict, TASK, 1, organisation(n), organisation(judge))
        for n in (1, 2, 3, 4)
    )
    return {item.organisation: item for item in found if item is not None}

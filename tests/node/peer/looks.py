"""Single looks at the task of a town of hospitals, and what the chain holds after them."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from fl.body import Judged
from tests.fl.dialogue import NUMBERS, TASK
from tests.harness import organisation
from tests.node.hospital import Town
from vm.learning import Commitment, Round, RoundPhase
from vm.refusal import Refused


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run one look at the task to its end."""
    asyncio.run(work)


def code_of(work: Coroutine[Any, Any, None]) -> str:
    """The code with which one look at the task is refused."""
    with pytest.raises(Refused) as refused:
        asyncio.run(work)
    return refused.value.code


def opened(folder: Path, scores_max: int = 1_000, **changes: Any) -> Town:
    """A town whose task waits for updates, with so many scores to publish on each dataset."""
    town = Town(folder, scores_max)
    town.open(**changes)
    return town


def committed(town: Town) -> Town:
    """All verifiers have committed to their secrets."""
    for number in NUMBERS:
        run(town.verifier(number).work(TASK))
    return town


def submitted(folder: Path, scores_max: int = 1_000) -> Town:
    """A town whose task waits for verdicts."""
    town = committed(opened(folder, scores_max))
    for number in NUMBERS:
        run(town.trainer(number).work(TASK))
    assert phase(town) is RoundPhase.VERDICT
    town.submitted.clear()
    return town


def phase(town: Town) -> RoundPhase:
    """The first round's phase."""
    return town.chain.get(Round, TASK, 1).phase


def sealed(town: Town, judge: int) -> dict[str, Judged]:
    """What a hospital's verifier has sealed, by the organisation that it judged."""
    assert town.chain.get(Commitment, TASK, 1, organisation(judge)).seal is not None
    found = town.drawer(judge).get(TASK, 1)
    assert found is not None
    return {item.organisation: item for item in found.judgements}

"""`concilium peer withdraw`: what a person at a hospital is told of an approval taken back."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from node.cli import main
from node.commands import consent
from node.home.testnet import write_testnet
from tests.fl.dialogue import TASK, withdrawal
from tests.node.hospital import Town
from tests.node.peer.looks import opened
from vm.learning import SiteApproval, Task, TaskPhase
from vm.state import Record

NOW = datetime(2026, 3, 1, tzinfo=UTC)  # of the certificates; nothing here connects


@dataclass
class Lagging:
    """A client whose nodes show what was there before somebody else withdrew."""

    shown: dict[type[Record], Record]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def record(self, cls: type[Record], *key: str | int) -> Record:
        """As it was."""
        return self.shown[cls]


def ended(town: Town) -> None:
    """The task's rounds fail for want of updates, until it ends."""
    while town.chain.get(Task, TASK).phase is TaskPhase.OPEN:
        town.chain.block(time_ms=town.chain.time_ms + 10**6)


@pytest.mark.parametrize(
    "happens", [lambda town: town.chain.applied([withdrawal(1)]), ended], ids=["withdrawn", "over"]
)
def test_what_others_have_withdrawn_meanwhile_is_nothing_to_withdraw(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    happens: Any,
) -> None:
    """The steward may say it in the same second, or the task may end: the person has his will."""
    town = opened(tmp_path / "town")
    records = (town.chain.get(Task, TASK), town.chain.get(SiteApproval, TASK, "hospital-1"))
    home = write_testnet(tmp_path / "net", now=NOW).home("hospital-1", "peer")
    happens(town)
    monkeypatch.setattr(consent, "_client", lambda _: Lagging({type(one): one for one in records}))
    monkeypatch.setattr(consent, "_pen", lambda *_: town._parts("hospital-1.trainer")[0])

    assert main(["peer", "withdraw", str(home), TASK, "--format", "json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["approved"], found["withdrawn_on_chain"]) == (False, False)

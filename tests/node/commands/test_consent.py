"""`concilium peer approve` and `withdraw`: what a person is told of what became of it."""

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
from tests.fl.dialogue import TASK, opening, withdrawal
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

    async def record(self, cls: type[Record], *key: str | int) -> Record | None:
        """As it was."""
        return self.shown[cls]


@dataclass
class Executed(Lagging):
    """A client whose nodes show what the town's chain has now."""

    town: Town

    async def record(self, cls: type[Record], *key: str | int) -> Record | None:
        """As it is."""
        return self.town.chain.state.get(cls, *key)


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


@pytest.mark.parametrize("crossed", [False, True])
def test_who_approves_is_told_whether_that_stands_on_the_chain(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    crossed: bool,
) -> None:
    """An older withdrawal may still have been on its way, and come after the approval."""
    town = opened(tmp_path / "town")
    town.chain.applied([withdrawal(1)])
    home = write_testnet(tmp_path / "net", now=NOW).home("hospital-1", "peer")
    pen, _ = town._parts("hospital-1.trainer")
    submit = pen.submit

    async def approved(kind: str, body: object) -> Any:
        receipt = await submit(kind, body)
        if crossed:
            town.chain.applied([withdrawal(1)])
        return receipt

    pen.submit = approved  # type: ignore[method-assign]
    monkeypatch.setattr(consent, "_client", lambda _: Executed({}, town))
    monkeypatch.setattr(consent, "_pen", lambda *_: pen)

    assert main(["peer", "approve", str(home), TASK, "--yes", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["stands_on_chain"] is not crossed
    if not crossed:
        town.chain.applied([withdrawal(1)])
    assert main(["peer", "approve", str(home), TASK, "--yes"]) == 0
    words = "withdrawn meanwhile: run this again" if crossed else "stands again"
    assert words in capsys.readouterr().out


def test_a_first_approval_is_the_peers_to_say_on_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says that the chain has none yet, and nothing else there."""
    town = Town(tmp_path / "town")
    town.chain.applied([opening()])
    home = write_testnet(tmp_path / "net", now=NOW).home("hospital-1", "peer")
    monkeypatch.setattr(consent, "_client", lambda _: Executed({}, town))

    assert main(["peer", "approve", str(home), TASK, "--yes", "--format", "json"]) == 0

    assert json.loads(capsys.readouterr().out)["stands_on_chain"] is None
    assert town.submitted == []


def test_only_a_tasks_id_can_be_withdrawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the file in which the peer finds it."""
    home = write_testnet(tmp_path / "net", now=NOW).home("hospital-1", "peer")

    assert main(["peer", "withdraw", str(home), "../head"]) == 3

    assert "document." in capsys.readouterr().err
    assert not list(tmp_path.glob("**/head"))

"""A site withdraws while its verifier works: what was found on its rows stays with it.

Unless the seal was on the chain before: that is the verifier's word.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fl.reputation import reputation_of
from fl.verify import Judgement
from node.peer import watch
from node.peer.verifier import Verifier
from tests.fl.dialogue import ABSTAINING, NUMBERS, TASK, approval, failing, speak, withdrawal
from tests.harness import organisation
from tests.node.hospital import Town
from tests.node.peer.looks import code_of, committed, opened, phase, run, sealed, submitted
from vm.learning import Commitment, Decision, RoundPhase, Verdict
from vm.terms import Evidence


def overtake(town: Town, verifier: Verifier) -> None:
    """A withdrawal comes to the chain before the verifier's seal that is on its way."""
    send = verifier._submitter.submit

    async def slowly(kind: str, body: Any) -> Any:
        town.chain.applied([withdrawal(1)])
        return await send(kind, body)

    verifier._submitter.submit = slowly  # type: ignore[method-assign]


def seal_others(town: Town) -> None:
    """The other three seal, and the round goes on to what was sealed."""
    for number in (2, 3, 4):
        run(town.verifier(number).work(TASK))
    assert phase(town) is RoundPhase.REVEAL


def scores(town: Town) -> list[int | None]:
    """What the chain tells of the others' updates on the first hospital's rows."""
    keys = [(TASK, 1, organisation(number), "hospital-1") for number in (2, 3, 4)]
    found = [town.chain.state.get(Verdict, *key) for key in keys]
    return [verdict.score_bp for verdict in found if verdict is not None]


def test_a_seal_that_a_withdrawal_has_overtaken_is_not_revealed(tmp_path: Path) -> None:
    """Validators are slow to take it: what was found on the rows would be public all the same."""
    town = submitted(tmp_path)
    verifier = town.verifier(1)
    overtake(town, verifier)

    run(verifier.work(TASK))
    seal_others(town)

    for again in (verifier, town.verifier(1)):
        assert code_of(again.work(TASK)) == "peer.withdrawn"
    assert scores(town) == []


def test_a_seal_that_was_there_before_a_withdrawal_is_revealed(tmp_path: Path) -> None:
    """It is the verifier's word, also after a restart: who is not shown it is counted for that."""
    town = submitted(tmp_path)
    run(town.verifier(1).work(TASK))
    town.chain.applied([withdrawal(1)])
    seal_others(town)

    run(town.verifier(1).work(TASK))

    assert len(scores(town)) == 3
    assert reputation_of(town.chain.state, "hospital-1").unrevealed == 0


def test_who_withdraws_here_while_its_seal_arrives_reveals_nothing(tmp_path: Path) -> None:
    """The chain hears of it later than of the seal; the person had said it before."""
    town = submitted(tmp_path)
    verifier = town.verifier(1)
    send = verifier._submitter.submit

    async def slowly(kind: str, body: Any) -> Any:
        receipt = await send(kind, body)
        town.approvals(1).withdraw(TASK)
        return receipt

    verifier._submitter.submit = slowly  # type: ignore[method-assign]
    run(verifier.work(TASK))
    town.chain.applied([withdrawal(1)])
    seal_others(town)

    assert code_of(verifier.work(TASK)) == "peer.withdrawn"
    assert scores(town) == []


def test_who_approves_again_reveals_what_it_has_sealed(tmp_path: Path) -> None:
    """The newest word of a person counts, and others wait for that of its verifier."""
    town = submitted(tmp_path)
    verifier = town.verifier(1)
    overtake(town, verifier)
    run(verifier.work(TASK))
    town.chain.applied([approval(1)])
    seal_others(town)

    run(town.verifier(1).work(TASK))

    assert len(scores(town)) == 3


def test_a_withdrawal_cuts_off_a_seal_that_is_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A halted chain may take hours for it: the verifier abstains instead."""
    monkeypatch.setattr(watch, "LOOK_S", 0)
    town = submitted(tmp_path)
    verifier = town.verifier(1)

    async def endless(*_: Any) -> Any:
        town.approvals(1).withdraw(TASK)
        await asyncio.Event().wait()

    monkeypatch.setattr(verifier._submitter, "submit", endless)
    run(asyncio.wait_for(verifier.work(TASK), 30))
    assert town.submitted == []
    run(town.verifier(1).work(TASK))

    assert {item.code for item in sealed(town, 1).values()} == {"verdict.withdrawn"}
    assert town.chain.get(Commitment, TASK, 1, "hospital-1").scores == 0


def test_a_withdrawal_cuts_off_judging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No further row is read, and nothing of what was found is sealed."""
    monkeypatch.setattr(watch, "LOOK_S", 0)
    town = submitted(tmp_path)
    verifier, updates = town.verifier(1), set(town.brought)

    async def endless(*_: Any) -> Any:
        town.approvals(1).withdraw(TASK)
        await asyncio.Event().wait()

    monkeypatch.setattr(verifier._exchange, "bring", endless)
    run(asyncio.wait_for(verifier.work(TASK), 30))

    assert {item.code for item in sealed(town, 1).values()} == {"verdict.withdrawn"}
    assert set(town.forgotten) == updates


def test_a_withdrawal_cuts_off_a_rerun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says the same again; rows that another hospital has opened are looked at no longer."""
    monkeypatch.setattr(watch, "LOOK_S", 0)
    town = committed(opened(tmp_path, evidence=Evidence.REPLAYED))
    for number in NUMBERS:
        run(town.trainer(number, opening=True).work(TASK))
    speak(town.chain, {(1, 2): failing("replay.weights") | {"segment": 1}, (4, 2): ABSTAINING})

    async def endless(*_: object) -> Judgement | None:
        town.approvals(3).withdraw(TASK)
        await asyncio.Event().wait()
        return None

    run(asyncio.wait_for(town.verifier(3, replay=endless).work(TASK), 30))

    found = town.chain.get(Verdict, TASK, 1, "hospital-2", "hospital-3")
    assert (found.decision, found.code, found.rerun) == (Decision.PASS, "verdict.passed", True)

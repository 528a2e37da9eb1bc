"""Blocks that change nothing, in validators with stores and journals: the attack, and no attack."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from consensus.event import Propose
from node.program import program
from node.validator.runtime import wall_clock_ms
from tests.harness import key_of
from tests.node.committee import LIMITS, Committee
from tests.vm.liar import evidence
from vm.block import Payload
from vm.execute import BlockContext
from vm.record import Role
from vm.registry import EnrolMember
from vm.shape import TimeMs, pack
from vm.state import State

FEW = 2 * LIMITS.window  # as many for this window as the real bound is for the largest
PATIENT = replace(LIMITS, view_timeout_ms=60_000)  # no timer ends a view here


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.node.committee.LIMITS", PATIENT)


def enrol() -> EnrolMember:
    """A transaction body that applies once, and then fails."""
    return EnrolMember("hospital-1.extra", Role.AUDITOR, bytes([7]) * 32, None)


def views(committee: Committee) -> set[int]:
    """The views in which the blocks of every validator were ordered."""
    return {
        block.certificate.view
        for seat in committee.seats.values()
        for block in seat.chain.store.blocks(1, seat.chain.head.height)
    }


def wrote(committee: Committee, height: int) -> bool:
    """Whether the block at this height came to anything."""
    rows = [seat.chain.store.row(height) for seat in committee.seats.values()]
    return any(row.wrote for row in rows if row is not None)


def test_a_primary_that_floods_the_chain_with_empty_blocks_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: heights, by which transactions expire, would fly past while nothing happens."""
    monkeypatch.setattr("consensus.complaints.HOLLOW_BLOCKS_MAX", FEW)

    async def scenario() -> None:
        committee = Committee(tmp_path)
        committee.start_all()
        liar = committee.seats[committee.ids[0]].runtime

        def flood() -> None:
            while liar.replica.may_propose:
                empty = pack(Payload(wall_clock_ms(), ()))
                liar._perform(liar.replica.step(Propose(empty)))

        liar._propose = flood  # type: ignore[method-assign]
        liar.wake()
        await committee.submit(committee.sign("hospital-1.admin", "member.enrol", enrol()))
        height = 1
        await committee.certified(height)
        while not wrote(committee, height):
            height += 1
            await committee.certified(height)

        assert views(committee) == {0, 1}
        assert FEW < height <= FEW + 2 * LIMITS.window
        await committee.stop_all()

    asyncio.run(scenario())


@dataclass(frozen=True, slots=True)
class Clock:
    """A record with a deadline that each block at or after it moves on."""

    KIND: ClassVar[str] = "test-clock"
    VERSION: ClassVar[int] = 1

    due_ms: TimeMs

    @property
    def key(self) -> tuple[str | int, ...]:
        """There is one."""
        return ()

    @staticmethod
    def strike(state: State, block: BlockContext) -> None:
        """The hook."""
        if block.time_ms >= Clock.next_deadline(state):
            state.put(Clock(block.time_ms + 20))

    @staticmethod
    def next_deadline(state: State) -> int:
        """Due at once where there is no record yet."""
        clock = state.get(Clock)
        return 0 if clock is None else clock.due_ms


def test_blocks_that_are_wanted_count_against_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deadlines, an epoch to be reached, transactions that fail: no hollow block is among them."""
    monkeypatch.setattr("consensus.complaints.HOLLOW_BLOCKS_MAX", 0)
    ticking = replace(program(), hooks=(Clock.strike,))
    monkeypatch.setattr("tests.node.committee.program", lambda: ticking)

    async def scenario() -> None:
        committee = Committee(tmp_path)
        committee.next_deadline = Clock.next_deadline
        committee.start_all()

        await committee.certified(10)
        liar = "hospital-4.validator"
        proof = evidence(key_of(liar), committee.genesis.chain, liar)
        await committee.submit(committee.sign("hospital-1.validator", "validator.fault", proof))
        for _ in range(2):  # the second of these fails
            await committee.submit(committee.sign("hospital-1.admin", "member.enrol", enrol()))
        await committee.certified(30)

        assert views(committee) == {0}
        assert all(seat.runtime.replica.view == 0 for seat in committee.seats.values())
        await committee.stop_all()

    asyncio.run(scenario())

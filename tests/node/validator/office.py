"""A hospital's openings, and a chain that leads to them."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from fl.trace import Origin
from node.validator.openings import Openings
from node.wire.openings import Offer
from tests.fl.dialogue import (
    AGGREGATE_MS,
    TASK,
    VERDICT_MS,
    address,
    opened,
    submitted,
)
from tests.harness import Chain, organisation
from vm.learning import Round, RoundPhase
from vm.record import Member
from vm.refusal import Refused
from vm.terms import Evidence

HOME = organisation(1)  # whose validator, and trainer, this is
SEGMENTS = 4
ORIGIN = Origin(TASK, 1, f"{HOME}.trainer", "opt-1")
OFFER = Offer(address("segment 2"), 2_000)
REPLAYED: dict[str, Any] = {"evidence": Evidence.REPLAYED}  # of a task, or of an update


class Office:
    """The first hospital's mailbox, on a chain whose first round is being judged."""

    def __init__(self, chain: Chain | None = None, leftover: tuple[str, ...] = ()) -> None:
        self.chain = submitted(opened(**REPLAYED), **REPLAYED) if chain is None else chain
        self.held: set[str] = set()
        self.openings = self.restarted(leftover)

    def restarted(self, leftover: tuple[str, ...] = ()) -> Openings:
        """The mailbox as after a restart of the validator."""
        self.openings = Openings(
            lambda: self.chain.state,
            f"{HOME}.validator",
            self.held.__contains__,
            leftover,
        )
        return self.openings

    def member(self, number: int, role: str) -> Member:
        """A hospital's member."""
        return self.chain.get(Member, f"{organisation(number)}.{role}")

    def want(self, number: int, piece: str, *, task: str = TASK, round_number: int = 1) -> object:
        """A hospital's verifier asks for a piece of the first hospital's update."""
        verifier = self.member(number, "verifier")
        return self.openings.want(verifier, task, round_number, HOME, piece)

    def announce(self, piece: str, offer: Offer = OFFER, by: str = "trainer") -> None:
        """The first hospital's trainer announces a piece."""
        self.openings.announce(self.member(1, by), TASK, 1, piece, offer)

    def wanted(self, wait_s: float = 0) -> tuple[str, ...]:
        """What the trainer is told to bring."""
        trainer = self.member(1, "trainer")
        return asyncio.run(self.openings.wanted(trainer, TASK, 1, wait_s))

    def readers(self, blob: str) -> set[str]:
        """Who may read the blob, of all who are enrolled."""
        members = [self.chain.get(Member, member.id) for member in self.chain.genesis.members]
        return {member.id for member in members if self.openings.may_read(member, blob)}

    def writers(self, blob: str, size: int) -> set[str]:
        """Who may bring the blob, of all who are enrolled."""
        members = [self.chain.get(Member, member.id) for member in self.chain.genesis.members]
        return {member.id for member in members if self.openings.may_write(member, blob, size)}

    def end_round(self) -> None:
        """Deadlines pass until nothing is judged any more."""
        for _ in range(3):
            if self.phase() in (RoundPhase.CLOSED, RoundPhase.FAILED, RoundPhase.AGGREGATE):
                break
            self.chain.block(time_ms=self.chain.time_ms + VERDICT_MS + AGGREGATE_MS)
        assert self.phase() in (RoundPhase.CLOSED, RoundPhase.FAILED, RoundPhase.AGGREGATE)
        self.openings.follow()

    def phase(self) -> RoundPhase:
        """The first round's."""
        return self.chain.get(Round, TASK, 1).phase


def code_of(call: Callable[[], object]) -> str:
    """The code with which a call is refused."""
    with pytest.raises(Refused) as refused:
        call()
    return refused.value.code

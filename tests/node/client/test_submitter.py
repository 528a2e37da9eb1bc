"""A member's pen: what it signs, until when it stands, and that no two are alike."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from node.client import submitter
from node.client.client import Client
from node.client.submitter import LIFETIME_BLOCKS, Submitter
from tests.harness import as_read, genesis_of, key_of
from vm.block import Header, Receipt, Result
from vm.record import Standing
from vm.refusal import Refused
from vm.registry import SetStanding
from vm.shape import pack
from vm.transaction import TX_LIFETIME_BLOCKS_MAX, Transaction, read

ADMIN = "hospital-1.admin"
CHAIN = genesis_of(4).chain
BODY = SetStanding("hospital-1.trainer", Standing.SUSPENDED)


class Node:
    """A client whose network is at a height, or says why it cannot tell."""

    chain = CHAIN

    def __init__(self, height: int | Refused) -> None:
        self.height = height
        self.sent: list[Transaction] = []
        self.proven = SimpleNamespace(height=0)
        self.asked = 0

    async def header(self) -> Header:
        """The newest certified header."""
        self.asked += 1
        if isinstance(self.height, Refused):
            raise self.height
        self.proven.height = self.height
        return Header(CHAIN, self.height, 0, *(bytes(32) for _ in range(6)))

    async def submit_and_wait(self, transaction: Transaction) -> Receipt:
        """Take it."""
        self.sent.append(transaction)
        return Receipt(transaction.id, 1, Result.APPLIED, "applied")


def submit(node: Node, times: int = 1) -> None:
    """Have the admin submit equal bodies."""

    async def scenario() -> None:
        pen = Submitter(cast(Client, node), ADMIN, key_of(ADMIN))
        for _ in range(times):
            await pen.submit("member.standing", BODY)

    asyncio.run(scenario())


def test_it_signs_for_its_member_until_some_heights_ahead() -> None:
    """What it makes is a transaction that every node reads."""
    node = Node(41)

    submit(node)

    (sent,) = node.sent
    assert read(pack(sent), CHAIN) == as_read(sent)
    assert (sent.intent.sender, sent.intent.kind) == (ADMIN, "member.standing")
    assert sent.intent.body == pack(BODY)
    assert sent.intent.valid_until_height == 41 + LIFETIME_BLOCKS
    assert LIFETIME_BLOCKS < TX_LIFETIME_BLOCKS_MAX


def test_equal_bodies_are_different_transactions() -> None:
    """A nonce is never used twice, so that an intent can recur."""
    node = Node(1)

    submit(node, 3)

    assert len({sent.id for sent in node.sent}) == 3


def test_the_height_is_asked_for_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """In between, what was proven to the client since then tells it."""
    node, hasty = Node(41), Node(41)

    submit(node, 3)
    monkeypatch.setattr(submitter, "HEARD_S", 0)
    submit(hasty, 3)

    assert (node.asked, hasty.asked) == (1, 3)
    assert {sent.intent.valid_until_height for sent in node.sent} == {41 + LIFETIME_BLOCKS}


def test_the_first_transaction_of_a_chain_counts_from_genesis() -> None:
    """Before the first block nothing is certified."""
    node = Node(Refused("node.not_ready", "expected a certified block, found none yet"))

    submit(node)

    assert node.sent[0].intent.valid_until_height == LIFETIME_BLOCKS


def test_other_trouble_is_not_taken_for_a_fresh_chain() -> None:
    """A node that cannot be reached does not make transactions expire early."""
    node = Node(Refused("http.unreachable", "expected an answer, found none"))

    with pytest.raises(Refused, match=r"http\.unreachable"):
        submit(node)
    assert node.sent == []

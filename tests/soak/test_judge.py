"""The judge of a soak goes red: a check that cannot fail would be worth nothing."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.network.running import Running, until
from tests.soak.judge import forked, lost
from tests.soak.soak import Soak
from vm.block import Header, Receipt, Result
from vm.shape import Digest

ACKNOWLEDGED = [Receipt(bytes([i]) * 32, i, Result.APPLIED, "applied") for i in range(1, 6)]
ALL = {receipt.transaction: receipt for receipt in ACKNOWLEDGED}


def header(state: Digest) -> Header:
    """A header of height 5 with this state root."""
    zero = bytes(32)
    return Header(zero, 5, 0, zero, zero, state, zero, zero, zero)


def test_nothing_is_lost_where_every_node_shows_every_receipt() -> None:
    """Whatever else it shows."""
    more = ALL | {bytes(32): None}

    assert lost(ACKNOWLEDGED, {1: ALL, 2: more}) == []


@pytest.mark.parametrize("receipt", ACKNOWLEDGED, ids=lambda receipt: str(receipt.height))
def test_one_acknowledged_transaction_that_one_node_lacks_is_found(receipt: Receipt) -> None:
    """Unknown there, or pending again: named with the node."""
    for gone in ({}, {receipt.transaction: None}):
        shown = {id: item for id, item in ALL.items() if id != receipt.transaction} | gone

        (broken,) = lost(ACKNOWLEDGED, {1: ALL, 2: shown, 3: ALL})

        assert broken.startswith("validator 2 shows None")


def test_another_receipt_than_the_acknowledged_one_is_found() -> None:
    """The transaction is there, in another block or with another outcome."""
    first = ACKNOWLEDGED[0]
    for other in (replace(first, height=9), replace(first, result=Result.FAILED)):
        assert lost(ACKNOWLEDGED, {1: ALL | {first.transaction: other}})


def test_two_headers_of_one_height_are_a_fork() -> None:
    """The node that differs is named."""
    one, other = header(b"\1" * 32), header(b"\2" * 32)

    assert forked({1: one, 2: one, 3: one}) == []
    (broken,) = forked({1: one, 2: other, 3: one})
    assert broken.startswith("validator 2 has header")


@pytest.mark.network
def test_a_real_network_that_lacks_one_transaction_is_judged_so(tmp_path: Path) -> None:
    """What it did acknowledge it shows; what it never saw is missed on all four."""

    async def run() -> Soak:
        work = Soak(Running(tmp_path / "net"))
        try:
            await work.open()
            async with work.load():
                await asyncio.to_thread(until, lambda: len(work.acknowledged) >= 8, "a load")
            work.acknowledged.append(Receipt(bytes(32), 1, Result.APPLIED, "applied"))
            await work.judge()
        finally:
            await work.close()
        return work

    work = asyncio.run(run())

    assert [broken.split(" where ")[0] for broken in work.broken] == [
        f"validator {number} shows None" for number in range(1, 5)
    ]

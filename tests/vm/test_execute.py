"""Execution of a block: hooks, checks in order, receipts, and nothing left of what failed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from tests.harness import Chain, Item, key_of
from tests.vm.registrar import ADMIN, PROGRAM, chain, dataset, enrol, stand
from vm.access import ACCESS, Access
from vm.block import Receipt, Result
from vm.execute import BlockContext, Context, Kind, Program
from vm.record import Dataset, Member, Organisation, Role, Standing
from vm.refusal import Refused
from vm.state import State
from vm.transaction import (
    TX_LIFETIME_BLOCKS_MAX,
    Intent,
    Transaction,
    transaction_id,
)


def changed(chain: Chain, item: Item, change: Callable[[Intent], Intent]) -> Transaction:
    """A transaction whose intent was changed before its sender signed it."""
    intent = change(chain.sign(item).intent)
    return Transaction(intent, key_of(item[0]).sign(transaction_id(intent)))


def test_each_transaction_gets_a_receipt_in_order() -> None:
    """A block's receipts name its transactions, its height and what became of each."""
    network = chain()
    good, bad = network.sign(enrol("zoe")), network.sign(enrol("zoe"))

    network.execute([good, bad])

    assert network.receipts == (
        Receipt(good.id, 1, Result.APPLIED, "applied"),
        Receipt(bad.id, 1, Result.FAILED, "member.exists"),
    )


@pytest.mark.parametrize(
    ("item", "change", "code"),
    [
        (enrol("zoe"), lambda i: replace(i, valid_until_height=0), "transaction.expired"),
        (
            enrol("zoe"),
            lambda i: replace(i, valid_until_height=1 + TX_LIFETIME_BLOCKS_MAX),
            "transaction.lifetime",
        ),
        (enrol("zoe"), lambda i: replace(i, kind="member.erase"), "transaction.kind"),
        (enrol("zoe"), lambda i: replace(i, sender="nobody"), "access.unknown_member"),
        (enrol("zoe"), lambda i: replace(i, sender="hospital-2.admin"), "access.wrong_key"),
        (enrol("zoe", admin="hospital-1.trainer"), lambda i: i, "access.role"),
        (enrol("zoe"), lambda i: replace(i, body=b"\xc0"), "transaction.body"),
        (enrol("zoe"), lambda i: replace(i, body=i.body + b"\x00"), "transaction.body"),
        (enrol("zoe"), lambda i: replace(i, kind="member.standing"), "transaction.body"),
    ],
)
def test_a_transaction_out_of_rule_fails_with_a_code_and_writes_nothing(
    item: Item, change: Callable[[Intent], Intent], code: str
) -> None:
    """Whatever a colluding primary orders, execution itself refuses, and the block goes on."""
    network = chain()
    attack = changed(network, item, change)

    codes = network.execute([attack, network.sign(enrol("yan"))])

    assert codes == [code, "applied"]
    assert {key for key in network.writes if b"zoe" in key} == set()
    assert network.get(Member, "yan").role is Role.AUDITOR


@pytest.mark.parametrize("standing", [Standing.SUSPENDED, Standing.REVOKED])
def test_a_member_loses_its_right_within_the_block(standing: Standing) -> None:
    """What stands behind a suspension in the same block already fails."""
    network = chain()

    codes = network.block([stand("hospital-1.steward", standing), dataset()])

    assert codes == ["applied", "access.standing"]
    assert network.state.get(Dataset, "births") is None


def test_a_member_enrolled_in_a_block_may_send_later_in_it() -> None:
    """Transactions see what those before them wrote."""
    network = chain()
    key = key_of("second")
    body = enrol("second", Role.ADMIN, public_key=key.public)

    codes = network.block([body, enrol("zoe", admin="second")])

    assert codes == ["applied", "applied"]


@dataclass(frozen=True, slots=True)
class Rename:
    """A body for kinds that only these tests have."""

    VERSION: ClassVar[int] = 1

    fail: bool


def rename(state: State, context: Context, body: Rename) -> None:
    """Write twice, then fail if told to."""
    organisation = state.require(Organisation, context.sender.organisation)
    state.put(replace(organisation, title="Half done"))
    state.put(replace(context.sender, changed_height=context.block.height))
    if body.fail:
        raise Refused("rename.late", "expected success, found a late refusal")


def renaming(monkeypatch: pytest.MonkeyPatch) -> Chain:
    """A chain that knows `rename`."""
    monkeypatch.setitem(ACCESS, "rename", Access(frozenset({Role.ADMIN}), restricted=False))
    kinds = {**PROGRAM.kinds, "rename": Kind("rename", Rename, rename)}
    return Chain(Program(kinds, ()))


def test_a_transaction_that_fails_late_leaves_no_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own writes are undone; those of the transactions around it stay."""
    network = renaming(monkeypatch)
    before = dict(network.stored)

    codes = network.block([enrol("yan"), (ADMIN, "rename", Rename(True)), enrol("zoe")])

    assert codes == ["applied", "rename.late", "applied"]
    changed = {key for key in network.stored if network.stored[key] != before.get(key)}
    assert changed == {
        name
        for name, value in network.stored.items()
        if any(id in name or id in value for id in (b"yan", b"zoe"))
    }
    assert network.writes.keys() == changed


def test_a_handler_that_fails_by_our_own_bug_stops_execution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only a refusal is a failed receipt: a bug must not be ordered away."""
    network = renaming(monkeypatch)

    def broken(state: State, context: Context, body: Rename) -> None:
        raise AssertionError("our own bug")

    network.program = Program({"rename": Kind("rename", Rename, broken)}, ())
    with pytest.raises(AssertionError, match="our own bug"):
        network.block([(ADMIN, "rename", Rename(False))])


def test_hooks_run_before_the_transactions_and_outlive_their_failure() -> None:
    """What a due deadline writes is there for the first transaction, and stays if that fails."""

    def close(state: State, block: BlockContext) -> None:
        steward = state.require(Member, "hospital-1.steward")
        state.put(replace(steward, standing=Standing.SUSPENDED, changed_height=block.height))

    network = chain(close)

    assert network.block([dataset()]) == ["access.standing"]
    assert network.get(Member, "hospital-1.steward").changed_height == 1


def test_a_repeat_is_skipped_without_a_receipt() -> None:
    """Who sends somebody's old transaction again changes nothing and gets no receipt."""
    network = chain()
    suspend = network.sign(stand("hospital-1.steward", Standing.SUSPENDED))
    network.execute([suspend])
    network.applied([stand("hospital-1.steward", Standing.ENROLLED)])

    assert network.execute([suspend]) == []

    assert network.get(Member, "hospital-1.steward").standing is Standing.ENROLLED


def test_a_failed_transaction_is_remembered_too() -> None:
    """What failed once cannot be sent again when it would succeed."""
    network = chain()
    early = network.sign(stand("zoe", Standing.SUSPENDED))
    assert network.execute([early]) == ["state.missing"]
    network.applied([enrol("zoe")])

    assert network.execute([early]) == []

    assert network.get(Member, "zoe").standing is Standing.ENROLLED


def test_the_context_is_the_block_and_the_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler sees its block, the sender's record as it stands and the transaction's id."""
    network = renaming(monkeypatch)
    seen: list[Context] = []
    network.program = Program(
        {"rename": Kind("rename", Rename, lambda state, context, body: seen.append(context))}, ()
    )
    transaction = network.sign((ADMIN, "rename", Rename(False)))
    parent = network.parent

    network.execute([transaction], time_ms=1_234)

    block = BlockContext(network.genesis.chain, 1, 1_234, parent, network.validators)
    assert seen == [
        Context(block, network.get(Member, ADMIN), transaction.id, transaction.signature)
    ]

"""Certified blocks from newest to oldest, and their transactions: what lists are made of."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.api.context import ApiContext
from node.api.cursor import read_cursor, write_cursor
from node.api.filters import Matcher
from node.api.times import write_time
from node.api.views import BlockSummary, ListQuery, TransactionSummary
from node.audit.prove import executed, newest, whole_row
from vm.access import ACCESS
from vm.block import Receipt
from vm.refusal import Refused
from vm.shape import unpack
from vm.transaction import TRANSACTION_BYTES_MAX, Transaction

if TYPE_CHECKING:
    from node.validator.chain import Chain
    from node.validator.store import BlockRow

SCAN_BLOCKS_MAX = 1_000  # looked at for one page, however few of them hold what is listed
SCAN_TRANSACTIONS_MAX = 2_000  # beyond these no further block is looked at: 0.1 s of a core
HEIGHT_BYTES = 8


def rows_down(chain: "Chain", first: int, last: int) -> Iterator["BlockRow"]:
    """Certified blocks from `first` down to `last`, within the bounds of one page."""
    looked = 0
    for number in range(first, max(last, first - SCAN_BLOCKS_MAX + 1) - 1, -1):
        row = whole_row(chain, number)
        if row is None:
            return  # pruned from here down
        yield row
        looked += len(row.receipts)
        if looked >= SCAN_TRANSACTIONS_MAX:
            return


def blocks_down(context: ApiContext, first: int, last: int) -> Iterator[BlockSummary]:
    """As `rows_down`, in one line each; what was read before is not read again."""
    store, recent = context.chain.store, context.recent
    whole = max(store.base(), store.kept().below)  # from here on all blocks are here
    for number in range(first, max(last, first - SCAN_BLOCKS_MAX + 1) - 1, -1):
        item = recent.get(number) if number >= whole else None
        if item is None:
            row = whole_row(context.chain, number)
            if row is None:
                return
            item = summarize(row)
            recent.put(item)
        yield item


def require_kept(chain: "Chain", height: int) -> None:
    """Raise `Refused("block.pruned")` for a block that was certified and is here no more."""
    if height <= newest(chain).height and whole_row(chain, height) is None:
        raise Refused(
            "block.pruned",
            f"expected block {height} within what this node keeps, found it pruned: ask a "
            "validator that keeps all blocks ([store] retain_blocks = 0)",
        )


def start(list_name: str, query: ListQuery, first: int) -> int:
    """The height at which a page begins: below the cursor's, or `first`."""
    if query.cursor is None:
        return first
    key = read_cursor(list_name, query.cursor)
    if len(key) != HEIGHT_BYTES:
        raise Refused("cursor.invalid", "expected a cursor of this list, found another")
    return min(first, int.from_bytes(key, "big") - 1)


def cursor_below(list_name: str, height: int) -> str:
    """The cursor of the page below `height`."""
    return write_cursor(list_name, height.to_bytes(HEIGHT_BYTES, "big"))


def summaries(chain: "Chain", row: "BlockRow") -> list[TransactionSummary]:
    """The transactions of a block with what became of them."""
    return [
        summary(transaction, row, index) for index, transaction in enumerate(opened(chain, row))
    ]


def matching(chain: "Chain", row: "BlockRow", matcher: Matcher) -> list[TransactionSummary]:
    """The transactions of a block that match, in order of execution."""
    if not any(matcher.receipt(receipt) for receipt in row.receipts):
        return []
    return [
        summary(transaction, row, index)
        for index, transaction in enumerate(opened(chain, row))
        if matcher.receipt(row.receipts[index]) and matcher.intent(transaction.intent)
    ]


def opened(chain: "Chain", row: "BlockRow") -> Iterator[Transaction]:
    """The transactions of a block, in step with its receipts."""
    return (unpack(Transaction, item, TRANSACTION_BYTES_MAX) for item in executed(chain, row))


def summary(transaction: Transaction, row: "BlockRow", index: int) -> TransactionSummary:
    """One transaction with what became of it, for everybody.

    Of a restricted one without the message, which quotes its body and the records that it met.
    """
    receipt: Receipt = row.receipts[index]
    access = ACCESS.get(transaction.intent.kind)
    return TransactionSummary(
        id=receipt.transaction.hex(),
        height=receipt.height,
        time_ms=row.header.time_ms,
        time=write_time(row.header.time_ms),
        kind=transaction.intent.kind,
        sender=transaction.intent.sender,
        result=receipt.result.value,
        code=receipt.code,
        message="" if access is not None and access.restricted else row.messages[index],
    )


def summarize(row: "BlockRow") -> BlockSummary:
    """A block in one line."""
    return BlockSummary(
        height=row.header.height,
        digest=row.header.digest.hex(),
        time_ms=row.header.time_ms,
        time=write_time(row.header.time_ms),
        state=row.header.state.hex(),
        transactions=len(row.receipts),
    )

"""Blocks and checkpoints: final, so clients may keep them for ever."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from node.api.answer import Answer, Path, Read, problem
from node.api.context import ApiContext
from node.api.cursor import read_cursor, write_cursor
from node.api.proofs import block_under
from node.api.resource import parse_number
from node.api.views import (
    BlockAnswer,
    BlockPage,
    BlockSummary,
    CheckpointAnswer,
    CheckpointPage,
    ListQuery,
    NoQuery,
    TransactionSummary,
    UnderQuery,
    base64_text,
    checkpoint_view,
)
from node.audit.prove import certified_row, executed, newest, prove_header, whole_row
from vm.block import Receipt
from vm.inclusion import CertifiedHeader
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.transaction import TRANSACTION_BYTES_MAX, Transaction

if TYPE_CHECKING:
    from node.validator.chain import Chain
    from node.validator.store import BlockRow

BLOCKS = "/v1/blocks"
CHECKPOINTS = "/v1/checkpoints"
SCAN_BLOCKS_MAX = 1_000  # looked at for one page, however few of them hold what is listed


def rows_down(chain: "Chain", height: int) -> Iterator["BlockRow"]:
    """Certified blocks from `height` down to genesis, at most SCAN_BLOCKS_MAX of them."""
    for number in range(height, max(-1, height - SCAN_BLOCKS_MAX), -1):
        row = whole_row(chain, number)
        if row is None:
            return  # pruned from here down
        yield row


def require_kept(chain: "Chain", height: int) -> None:
    """Raise `Refused("block.pruned")` for a block that was certified and is here no more."""
    if height <= newest(chain).height and whole_row(chain, height) is None:
        raise Refused(
            "block.pruned",
            f"expected block {height} within what this node keeps, found it pruned: ask a "
            "validator that keeps all blocks ([store] retain_blocks = 0)",
        )


def top(context: ApiContext, path: str, query: ListQuery) -> int:
    """The height at which a page begins: below the cursor's, or the newest certified."""
    newest_height = newest(context.chain).height
    if query.cursor is None:
        return newest_height
    key = read_cursor(path, query.cursor)
    if len(key) != 8:
        raise Refused("cursor.invalid", "expected a cursor of this list, found another")
    return min(newest_height, int.from_bytes(key, "big") - 1)


def cursor_below(path: str, height: int) -> str | None:
    """The cursor of the page below `height`; None at genesis."""
    return write_cursor(path, height.to_bytes(8, "big")) if height else None


def summaries(chain: "Chain", row: "BlockRow") -> list[TransactionSummary]:
    """The transactions of a block with what became of them."""
    return [
        summary(unpack(Transaction, packed, TRANSACTION_BYTES_MAX), receipt, message)
        for packed, receipt, message in zip(
            executed(chain, row), row.receipts, row.messages, strict=True
        )
    ]


def summary(transaction: Transaction, receipt: Receipt, message: str) -> TransactionSummary:
    """One transaction with what became of it."""
    return TransactionSummary(
        id=receipt.transaction.hex(),
        height=receipt.height,
        kind=transaction.intent.kind,
        sender=transaction.intent.sender,
        result=receipt.result.value,
        code=receipt.code,
        message=message,
    )


def _read_blocks(context: ApiContext, _: Path, query: ListQuery) -> Answer:
    items = [
        BlockSummary(
            height=row.header.height,
            digest=row.header.digest.hex(),
            time_ms=row.header.time_ms,
            state=row.header.state.hex(),
            transactions=len(row.receipts),
        )
        for row in islice(rows_down(context.chain, top(context, BLOCKS, query)), query.limit)
    ]
    return Answer(
        BlockPage(items=items, next=cursor_below(BLOCKS, items[-1].height) if items else None)
    )


def _read_block(context: ApiContext, path: Path, query: UnderQuery) -> Answer:
    height = parse_number("height", path["height"])
    if query.under is not None:
        return block_under(context, height, query.under)
    row = certified_row(context.chain, height)
    if row is None:
        require_kept(context.chain, height)
        return problem("block.missing", f"expected a certified block {height}, found none")
    certified = prove_header(context.chain, row.header)
    answer = BlockAnswer(
        checkpoint=checkpoint_view(certified),
        transactions=summaries(context.chain, row),
        proof=base64_text(pack(certified)),
    )
    return Answer(answer, final=certified.later is None)


def _read_checkpoints(context: ApiContext, _: Path, query: ListQuery) -> Answer:
    items: list[CheckpointAnswer] = []
    height = top(context, CHECKPOINTS, query)
    while height >= 0 and len(items) < query.limit:
        certificate = context.chain.store.certified(height)
        header = None if certificate is None else context.chain.store.header(certificate.height)
        if certificate is None or header is None:
            return Answer(CheckpointPage(items=items, next=None))
        items.append(_checkpoint(CertifiedHeader(header, certificate, None)))
        height = certificate.height - 1
    return Answer(CheckpointPage(items=items, next=cursor_below(CHECKPOINTS, height + 1)))


def _read_checkpoint(context: ApiContext, path: Path, _: NoQuery) -> Answer:
    height = parse_number("height", path["height"])
    certificate = context.chain.store.certificate(height)
    header = context.chain.store.header(height)
    if header is None or certificate is None or height > newest(context.chain).height:
        return problem("checkpoint.missing", f"expected a certificate of {height}, found none")
    return Answer(_checkpoint(CertifiedHeader(header, certificate, None)), final=True)


def _checkpoint(certified: CertifiedHeader) -> CheckpointAnswer:
    return CheckpointAnswer(
        checkpoint=checkpoint_view(certified), proof=base64_text(pack(certified))
    )


READS = (
    Read(BLOCKS, ListQuery, _read_blocks),
    Read(BLOCKS + "/{height}", UnderQuery, _read_block),
    Read(CHECKPOINTS, ListQuery, _read_checkpoints),
    Read(CHECKPOINTS + "/{height}", NoQuery, _read_checkpoint),
)

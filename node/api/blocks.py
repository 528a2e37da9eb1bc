"""Blocks and checkpoints: final, so clients may keep them for ever."""

from collections.abc import Iterator

from node.api.answer import BUSY, Answer, Path, Read, problem
from node.api.context import ApiContext
from node.api.filters import BlocksQuery, Matcher, SpanQuery, named, span
from node.api.proofs import block_under
from node.api.resource import parse_number
from node.api.scan import (
    blocks_down,
    cursor_below,
    matching,
    require_kept,
    rows_down,
    start,
    summaries,
    summarize,
)
from node.api.views import (
    BlockAnswer,
    BlockPage,
    BlockSummary,
    CheckpointAnswer,
    CheckpointPage,
    HeaderView,
    NoQuery,
    UnderQuery,
    base64_text,
    checkpoint_view,
)
from node.audit.prove import certified_row, newest, prove_header
from vm.inclusion import CertifiedHeader
from vm.shape import pack
from vm.state import State

BLOCKS = "/v1/blocks"
CHECKPOINTS = "/v1/checkpoints"


def _read_blocks(context: ApiContext, _: Path, query: BlocksQuery) -> Answer:
    """Newest first, through no more blocks than `rows_down` gives."""
    view = newest(context.chain)
    name = named(BLOCKS, query)
    last, first = span(context.chain.store, query, view.height)
    matcher = Matcher(context, State(view.read), query)
    items: list[BlockSummary] = []
    reached = last
    for height, item in _candidates(context, matcher, start(name, query, first), last):
        reached = height
        if item is not None and item.digest.startswith(query.digest or ""):
            items.append(item)
        if len(items) == query.limit:
            break
    following = cursor_below(name, reached) if reached > last else None
    return Answer(BlockPage(items=items, next=following))


def _candidates(
    context: ApiContext, matcher: Matcher, first: int, last: int
) -> Iterator[tuple[int, BlockSummary | None]]:
    """Heights downward, each with its block if that holds a transaction that matches."""
    if not matcher.asks:
        for item in blocks_down(context, first, last):
            yield item.height, item
        return
    for row in rows_down(context.chain, first, last):
        found = matching(context.chain, row, matcher)
        yield row.header.height, summarize(row) if found else None


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


def _read_checkpoints(context: ApiContext, _: Path, query: SpanQuery) -> Answer:
    store, name = context.chain.store, named(CHECKPOINTS, query)
    last, first = span(store, query, newest(context.chain).height)
    height = start(name, query, first)
    items: list[CheckpointAnswer] = []
    while len(items) < query.limit:
        certificate = store.certified(height) if height >= last else None
        header = None if certificate is None else store.header(certificate.height)
        if certificate is None or header is None or certificate.height < last:
            return Answer(CheckpointPage(items=items, next=None))
        items.append(_checkpoint(CertifiedHeader(header, certificate, None)))
        height = certificate.height - 1
    following = cursor_below(name, height + 1) if height >= last else None
    return Answer(CheckpointPage(items=items, next=following))


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
    Read(
        BLOCKS,
        BlocksQuery,
        _read_blocks,
        "Certified blocks, newest first",
        BlockPage,
        ("cursor.invalid", *BUSY),
        columns=tuple(BlockSummary.model_fields),
    ),
    Read(
        BLOCKS + "/{height}",
        UnderQuery,
        _read_block,
        "A certified block with its transactions; under a named checkpoint, its proof alone",
        BlockAnswer,
        ("id.invalid", "block.missing", "block.pruned", "checkpoint.missing", *BUSY),
    ),
    Read(
        CHECKPOINTS,
        SpanQuery,
        _read_checkpoints,
        "Headers with certificates of their own, newest first",
        CheckpointPage,
        ("cursor.invalid", *BUSY),
        columns=tuple(HeaderView.model_fields),
    ),
    Read(
        CHECKPOINTS + "/{height}",
        NoQuery,
        _read_checkpoint,
        "The certificate of a height with its header",
        CheckpointAnswer,
        ("id.invalid", "checkpoint.missing", *BUSY),
    ),
)

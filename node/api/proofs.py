"""What ties checkpoints together: two of one history, and a block under a named one."""

from collections.abc import Callable
from typing import TypeVar

from node.api.answer import BUSY, HEIGHT, Answer, Path, Read
from node.api.context import ApiContext
from node.api.views import (
    AtQuery,
    BetweenQuery,
    BlockAnswer,
    ConsistencyAnswer,
    base64_text,
    checkpoint_view,
)
from node.audit.prove import prove_block, prove_consistency, pruned
from vm.shape import pack
from vm.sparse import DamagedNode

Q = TypeVar("Q", bound=AtQuery)

CONSISTENCY = "/v1/consistency"


def block_under(context: ApiContext, height: int, under: int) -> Answer:
    """The block at `height` under the checkpoint at `under`; final, for both are named."""
    proof = prove_block(context.chain, height, under)
    answer = BlockAnswer(
        checkpoint=checkpoint_view(proof.certified),
        transactions=None,
        proof=base64_text(pack(proof)),
    )
    return Answer(answer, final=True)


def if_kept(
    read: Callable[[ApiContext, Path, Q], Answer],
) -> Callable[[ApiContext, Path, Q], Answer]:
    """`read`, refused with `height.pruned` where pruning went past its height while it ran."""

    def answer(context: ApiContext, path: Path, query: Q) -> Answer:
        try:
            return read(context, path, query)
        except DamagedNode:
            if query.at is None or context.chain.store.block(query.at) is not None:
                raise
            raise pruned(query.at) from None

    return answer


def _read_consistency(context: ApiContext, _: Path, query: BetweenQuery) -> Answer:
    proof = prove_consistency(context.chain, query.older, query.newer)
    answer = ConsistencyAnswer(
        older=checkpoint_view(proof.older),
        newer=checkpoint_view(proof.newer),
        proof=base64_text(pack(proof)),
    )
    return Answer(answer, final=True)


READS = (
    Read(
        CONSISTENCY,
        BetweenQuery,
        _read_consistency,
        "That the headers of two heights are of one history",
        ConsistencyAnswer,
        ("heights.order", "checkpoint.missing", *HEIGHT, *BUSY),
    ),
)

"""What begins with a few characters: transactions, blocks, keys, addresses of weights."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from node.api.answer import BUSY, Answer, Path, Read
from node.api.blocks import BLOCKS
from node.api.context import ApiContext
from node.api.resource import BY_RECORD
from node.api.transactions import TRANSACTIONS
from node.api.views import NoQuery, SearchAnswer, SearchItem
from node.audit.prove import newest
from vm.encoding import encode
from vm.record import KeyOwner, Member, Model
from vm.shape import unpack
from vm.sparse import VALUE_BYTES_MAX

if TYPE_CHECKING:
    from node.validator.view import View

SEARCH = "/v1/search"
FOUND_MAX = 50  # of one answer; who sees more types on
SCAN_MODELS_MAX = 2_000  # model versions looked at: their addresses have no index
HEX = frozenset("0123456789abcdef")
HEX_CHARACTERS = 64


class SearchQuery(NoQuery):
    """The first characters of a digest in hexadecimal, or of an address in base32."""

    prefix: Annotated[
        str,
        Field(
            pattern="^(?:[0-9a-f]{4,64}|b[a-z2-7]{3,60})$",
            description="How a transaction's id, a block's digest, a key or the address of a "
            "model's weights begins",
        ),
    ]


def _search(context: ApiContext, _: Path, query: SearchQuery) -> Answer:
    view = newest(context.chain)
    found = list(islice(_found(context, view, query.prefix), FOUND_MAX + 1))
    return Answer(SearchAnswer(items=found[:FOUND_MAX], more=len(found) > FOUND_MAX))


def _found(context: ApiContext, view: "View", prefix: str) -> Iterator[SearchItem]:
    if HEX.issuperset(prefix) and len(prefix) <= HEX_CHARACTERS:
        yield from _transactions(context, view, prefix)
        yield from _blocks(context, view, prefix)
        yield from _keys(context, view, prefix)
    if prefix.startswith("b"):
        yield from _models(view, prefix)


def _transactions(context: ApiContext, view: "View", prefix: str) -> Iterator[SearchItem]:
    for id, place in context.chain.store.places(prefix):
        if place.height <= view.height:
            yield SearchItem(kind="transaction", value=id.hex(), path=f"{TRANSACTIONS}/{id.hex()}")


def _blocks(context: ApiContext, view: "View", prefix: str) -> Iterator[SearchItem]:
    for digest, height in context.chain.store.heights(prefix):
        if height <= view.height:
            yield SearchItem(kind="block", value=digest.hex(), path=f"{BLOCKS}/{height}")


def _keys(context: ApiContext, view: "View", prefix: str) -> Iterator[SearchItem]:
    begins = encode("0" * HEX_CHARACTERS)[:-HEX_CHARACTERS] + prefix.encode()
    for key in context.chain.store.keys(KeyOwner.KIND, (), 1, begins):
        if (data := view.read(key)) is not None:  # else written by a block not certified yet
            owner = unpack(KeyOwner, data, VALUE_BYTES_MAX)
            path = BY_RECORD[Member].item((owner.member,))
            yield SearchItem(kind="key", value=owner.digits, path=path)


def _models(view: "View", prefix: str) -> Iterator[SearchItem]:
    for model in islice(view.list(Model, (), 2), SCAN_MODELS_MAX):
        if model.weights.startswith(prefix):
            path = BY_RECORD[Model].item(model.key)
            yield SearchItem(kind="model", value=model.weights, path=path)


READS = (
    Read(
        SEARCH,
        SearchQuery,
        _search,
        "What begins so: ids, digests, keys, addresses of weights",
        SearchAnswer,
        BUSY,
    ),
)

"""Filters of lists: by whom, of what kind, about what, and when.

None of them needs to be believed: what a filter leaves out, a reader finds in the list without it.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

from pydantic import Field, create_model

from node.api.context import ApiContext
from node.api.resource import NAME
from node.api.times import Instant, Moment
from node.api.views import ListQuery, RecordsQuery
from vm.access import ACCESS
from vm.block import Receipt, Result
from vm.learning import Task
from vm.record import Member
from vm.refusal import Refused
from vm.shape import CODE_BYTES_MAX, NAME_BYTES_MAX, unpack
from vm.state import Record, State
from vm.transaction import BODY_BYTES_MAX, Intent

if TYPE_CHECKING:
    from node.validator.store import Store

LABELS = ("dataset", "model", "organisation")  # what a record or a body may be about
SUBJECTS = {"dataset.register": "dataset", "model.register": "model"}  # their `id` is one of these
PAGING = {"limit", "cursor", "format"}  # parameters that say how much of a list, and not of what
Mention = tuple[str, str]  # a label and an id

Id = Annotated[str, Field(max_length=NAME_BYTES_MAX, pattern=f"^{NAME.pattern}$")]
Code = Annotated[str, Field(max_length=CODE_BYTES_MAX, pattern=r"^[a-z0-9_]+(?:\.[a-z0-9_]+)*$")]
Prefix = Annotated[str, Field(pattern="^[0-9a-f]{1,64}$")]


class SpanQuery(ListQuery):
    """The first and the last block to show, both included."""

    since: Moment | None = Field(None, description="The first height, or the earliest time")
    until: Moment | None = Field(None, description="The last height, or the latest time")


class AboutQuery(SpanQuery):
    """Transactions of one sender, kind or result, or about a dataset, model or organisation."""

    sender: Id | None = Field(None, description="The member who signed")
    kind: Code | None = Field(None, description="The kind of transaction")
    result: Result | None = Field(None, description="Whether it took effect")
    dataset: Id | None = Field(None, description="A dataset that the body names")
    model: Id | None = Field(None, description="A model that the body names, or its task trains")
    organisation: Id | None = Field(
        None, description="An organisation that the body names, or the sender's own"
    )


class TransactionsQuery(AboutQuery):
    """Which transactions to list."""

    id: Prefix | None = Field(None, description="How the transaction's id begins")


class BlocksQuery(AboutQuery):
    """Which blocks to list: those that hold such a transaction, where one is described."""

    digest: Prefix | None = Field(None, description="How the block's digest begins")


def named(path: str, query: ListQuery) -> str:
    """A list's name for its cursors: its path and filters."""
    chosen = query.model_dump(mode="json", exclude=PAGING, exclude_none=True)
    return path + "".join(f"&{name}={chosen[name]}" for name in sorted(chosen))


# When


def span(store: "Store", query: SpanQuery, newest: int) -> tuple[int, int]:
    """The heights from which and up to which to list; the first may be above the last."""
    first = 0 if query.since is None else _height(store, query.since, newest)
    if query.until is None:
        return first, newest
    if isinstance(query.until, Instant):  # the last block that is not later
        return first, _height(store, Instant(query.until.ms + 1), newest) - 1
    return first, min(query.until, newest)


def _height(store: "Store", moment: int | Instant, newest: int) -> int:
    """A height as it is; of a time, the first block that is not earlier, or newest + 1."""
    if isinstance(moment, int):
        return moment
    low, high = 0, newest + 1
    while low < high:  # block times rise, and headers are never pruned; one not here is older
        middle = (low + high) // 2
        header = store.header(middle)
        if header is None or header.time_ms < moment.ms:
            low = middle + 1
        else:
            high = middle
    return low


# About what


def mentions(item: object) -> Iterator[Mention]:
    """The datasets, models and organisations that a record or body names, however deep."""
    if isinstance(item, tuple):
        for part in item:
            yield from mentions(part)
    elif is_dataclass(item):
        for field in fields(item):
            value, label = getattr(item, field.name), field.name.rpartition("_")[2]
            if label in LABELS and isinstance(value, str):
                yield label, value
            else:
                yield from mentions(value)


@cache
def labels(cls: Any) -> frozenset[str]:
    """What `mentions` can find in a record of this class."""
    if not (isinstance(cls, type) and is_dataclass(cls)):
        return frozenset[str]().union(*(labels(part) for part in get_args(cls)))
    found: set[str] = set()
    for name, hint in get_type_hints(cls, include_extras=True).items():
        label = name.rpartition("_")[2]
        found |= {label} if label in LABELS else labels(hint)
    return frozenset(found)


@cache
def query_of(record: type[Record]) -> type[RecordsQuery]:
    """The parameters of a list of such records: the labels that they may have."""
    chosen: dict[str, Any] = {
        label: (Id | None, Field(None, description=f"The {label} that the record names"))
        for label in sorted(labels(record))
    }
    name = f"{record.__name__}sQuery"
    return create_model(name, __base__=RecordsQuery, __doc__=RecordsQuery.__doc__, **chosen)


def about(query: ListQuery) -> frozenset[Mention]:
    """What a query asks for, to be mentioned all together."""
    asked = ((label, getattr(query, label, None)) for label in LABELS)
    return frozenset((label, value) for label, value in asked if value is not None)


class Matcher:
    """Whether transactions are what a query asks for; made for one page of a list.

    Bodies of restricted kinds are not looked into: whether they match would tell what they name.
    """

    def __init__(self, context: ApiContext, state: State, query: AboutQuery) -> None:
        self._kinds = context.kinds
        self._query = query
        self._id = query.id if isinstance(query, TransactionsQuery) and query.id else ""
        self._asked = about(query)
        self._organisation = cache(partial(_organisation, state))
        self._model = cache(partial(_model, state))

    @property
    def asks(self) -> bool:
        """Whether it leaves anything out."""
        query = self._query
        return bool(self._id or query.result or query.sender or query.kind or self._asked)

    def receipt(self, receipt: Receipt) -> bool:
        """Whether a transaction with this receipt can match."""
        result = self._query.result
        return result in (None, receipt.result) and receipt.transaction.hex().startswith(self._id)

    def intent(self, intent: Intent) -> bool:
        """Whether what was signed matches."""
        query = self._query
        if query.sender not in (None, intent.sender) or query.kind not in (None, intent.kind):
            return False
        if not all(self._may_mention(intent, label, value) for label, value in self._asked):
            return False
        return self._asked <= self._mentioned(intent) if self._asked else True

    def _may_mention(self, intent: Intent, label: str, value: str) -> bool:
        """Whether it is worth a look: a body holds names as they are, in UTF-8."""
        kind = self._kinds.get(intent.kind)
        return (
            value.encode() in intent.body
            or (label == "model" and kind is not None and hasattr(kind.body, "task"))
            or (label == "organisation" and self._organisation(intent.sender) == value)
        )

    def _mentioned(self, intent: Intent) -> set[Mention]:
        """What a body names, the model of its task, and its sender's organisation."""
        found = {("organisation", self._organisation(intent.sender))}
        kind = self._kinds.get(intent.kind)
        if kind is None or ACCESS[intent.kind].restricted:
            return found
        try:
            body: Any = unpack(kind.body, intent.body, BODY_BYTES_MAX)
        except Refused:
            return found  # the receipt says so
        found.update(mentions(body))
        if intent.kind in SUBJECTS:
            found.add((SUBJECTS[intent.kind], body.id))
        if hasattr(body, "task"):
            found.add(("model", self._model(body.task)))
        return found


def _organisation(state: State, member: str) -> str:
    """Whose a member is, which never changes; "" if there is none."""
    found = state.get(Member, member)
    return "" if found is None else found.organisation


def _model(state: State, task: str) -> str:
    """Which model a task trains, which never changes; "" if there is none."""
    found = state.get(Task, task)
    return "" if found is None else found.terms.model

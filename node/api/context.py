"""What the HTTP interface needs of the node around it."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from node.api.admission import Admission
from node.api.feed import Feed
from node.api.recent import Recent
from node.readers.desk import Desk
from vm.execute import Kind
from vm.shape import Digest

if TYPE_CHECKING:
    from node.validator.chain import Chain


Part = Literal["voting", "observing", "suspended"]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node's own word on how it is; nothing here is certified.

    `role` is the node's part in consensus in the `epoch` under way: without a seat, or with a key
    that may not vote, it observes.
    `state_root` is that of `certified_height`. `peers` and `pending` are counts: connected
    validators, and transactions that wait for a block.
    """

    name: str
    version: str
    chain: Digest
    epoch: int
    role: Part
    view: int
    primary: str
    changing_view: bool
    executed_height: int
    certified_height: int
    state_root: Digest
    peers: int
    pending: int


@dataclass(frozen=True, slots=True)
class ApiContext:
    """Everything that a request can reach.

    `submit` takes packed transactions and answers for each in order; `pending` tells whether the
    transaction with this id waits for a block; `ready` says whether the node should be sent
    requests, and why not; `kinds` are those of the program, to show bodies to people; `desk` knows
    readers and notes what they are shown; `cpu_s` gives the seconds of processor that the calling
    thread has had.
    The chain is read in threads and so is `pending`, which only looks an id up; the others run on
    the event loop.
    """

    chain: "Chain"
    feed: Feed
    kinds: Mapping[str, Kind]
    submit: Callable[[Sequence[bytes]], Awaitable[Sequence[Admission]]]
    pending: Callable[[bytes], bool]
    status: Callable[[], NodeStatus]
    ready: Callable[[], tuple[bool, str]]
    desk: Desk
    cpu_s: Callable[[], float] = time.thread_time
    recent: Recent = field(default_factory=Recent)

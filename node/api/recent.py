"""Blocks in one line, kept once read: many readers ask for the same newest ones again and again."""

from collections import OrderedDict
from threading import Lock

from node.api.views import BlockSummary

RECENT_MAX = 4_096  # blocks; about 1 KiB each


class Recent:
    """What was summarized last, by height; used from any thread.

    A certified block never changes.
    """

    def __init__(self) -> None:
        self._items: OrderedDict[int, BlockSummary] = OrderedDict()
        self._lock = Lock()

    def get(self, height: int) -> BlockSummary | None:
        """The block of this height, if it is kept."""
        return self._items.get(height)

    def put(self, item: BlockSummary) -> None:
        """Keep a block, and forget the one that was put first if there are too many."""
        with self._lock:
            self._items[item.height] = item
            if len(self._items) > RECENT_MAX:
                self._items.popitem(last=False)

"""A real mempool in a script: `submit mallory 4001`, `draw`."""

from collections import Counter
from collections.abc import Callable
from itertools import groupby

from node.validator.mempool import Mempool
from tests.harness import as_read
from vm.refusal import Refused
from vm.transaction import Intent, Transaction

HEIGHT = 1  # of the next block


class Pool:
    """Transactions that wait, and the block that is drawn from them."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._pool = Mempool()
        self._serial = 0
        self.commands: dict[str, Callable[[list[str]], None]] = {
            "submit": self._submit,
            "draw": self._draw,
        }

    def _submit(self, words: list[str]) -> None:
        sender, count = words
        answers: Counter[str] = Counter()
        for _ in range(int(count)):
            item = self._transaction(sender)
            try:
                answers["admitted" if self._pool.admit(as_read(item), HEIGHT) else "repeat"] += 1
            except Refused as refused:
                answers[refused.code] += 1
        for answer, number in answers.items():
            self._tell(f"{sender}: {number} {answer}")

    def _draw(self, _words: list[str]) -> None:
        drawn = [self._pool.by_bytes[packed].intent.sender for packed in self._pool.draw(HEIGHT)]
        block = ", ".join(f"{len(list(group))} of {sender}" for sender, group in groupby(drawn))
        self._tell(f"the next block holds {block or 'nothing'}")

    def _transaction(self, sender: str) -> Transaction:
        """One of many; its signature was checked before the pool, so here it need not be one."""
        self._serial += 1
        nonce = self._serial.to_bytes(16, "big")
        return Transaction(
            Intent(bytes(32), "kind", sender, bytes(32), b"x", HEIGHT, nonce), bytes(64)
        )

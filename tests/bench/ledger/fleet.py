"""Four validators as processes, what they say of themselves, and what they have executed."""

import signal
from collections import Counter
from pathlib import Path

from node.validator.store import FOLDER, Store
from tests.bench.ledger import machine
from tests.network.running import Running
from vm.block import Result

STORE = Path("store")  # in a validator's home


class Fleet(Running):
    """A network whose processes are measured."""

    def pid(self, number: int) -> int:
        """The process id of a validator."""
        return self._processes[self.home(number)].pid

    @property
    def pids(self) -> list[int]:
        """Those of all validators."""
        return [self.pid(number) for number in self.numbers]

    @property
    def stewards(self) -> list[Path]:
        """Homes of those whose transactions are sent."""
        return [self.home(number, "steward") for number in self.numbers]

    def rss_mib(self) -> list[float]:
        """Memory of each validator now."""
        return [machine.rss_mib(pid) for pid in self.pids]

    def own_mib(self) -> list[float]:
        """The same without pages of files."""
        return [machine.own_mib(pid) for pid in self.pids]

    def stop_all(self) -> None:
        """End all validators in order: their stores can be opened here then."""
        for number in self.numbers:
            code = self.signal(self.home(number), signal.SIGTERM)
            assert code == 0, f"validator {number} ended with {code}, see its log"

    def chain(self, number: int) -> Path:
        """The folder of a validator's LevelDB."""
        return self.home(number) / STORE / FOLDER

    def applied(self, number: int) -> Counter[int]:
        """By height, how many transactions have an applied receipt in a stopped validator."""
        store, found = Store(self.chain(number)), Counter[int]()
        try:
            head = store.head()
            assert head is not None, "it has executed something"
            for height in range(1, head.height + 1):
                row = store.row(height)
                assert row is not None, f"block {height} is kept"
                results = [receipt.result for receipt in row.receipts]
                found[height] = results.count(Result.APPLIED)
            return found
        finally:
            store.close()

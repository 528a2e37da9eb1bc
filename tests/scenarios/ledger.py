"""A real chain on LevelDB in a script: `chain 30`, `prune 6`, `read 5 16 30`."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from node.validator.prune import Pruner
from tests.node.network import Network, open_network
from vm.record import Member, Role, Standing
from vm.registry import EnrolMember, SetStanding
from vm.sparse import DamagedNode, prove, verify
from vm.state import state_key

SNAPSHOT_BLOCKS = 8  # between two snapshots
WINDOW = 4  # blocks in which repeats are looked for
KEY = state_key(Member.KIND, ("hospital-1.trainer",))  # written in every block


class Ledger:
    """One node's chain, which can be long and pruned."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._stack = ExitStack()
        self._network: Network | None = None
        self.commands: dict[str, Callable[[list[str]], None]] = {
            "chain": self._grow,
            "prune": self._prune,
            "read": self._read,
        }

    def close(self) -> None:
        """Close the store and remove it."""
        self._stack.close()

    @property
    def network(self) -> Network:
        """The chain, made when it is first asked for."""
        if self._network is None:
            folder = self._stack.enter_context(TemporaryDirectory())
            self._network = self._stack.enter_context(open_network(Path(folder)))
        return self._network

    def _grow(self, words: list[str]) -> None:
        """`chain 30`: so many more blocks, each of which enrols somebody and rewrites a record."""
        for _ in range(int(words[0])):
            height = self.network.chain.head.height + 1
            standing = Standing.ENROLLED if height % 2 else Standing.SUSPENDED
            newcomer = EnrolMember(
                f"auditor-{height}", Role.AUDITOR, bytes(31) + bytes([height]), None
            )
            self.network.block(
                self.network.sign(
                    "hospital-1.admin",
                    "member.standing",
                    SetStanding("hospital-1.trainer", standing),
                ),
                self.network.sign("hospital-2.admin", "member.enrol", newcomer),
            )
        self._tell(f"the chain is at {self.network.chain.head.height}")

    def _prune(self, words: list[str]) -> None:
        """`prune 6`: keep the last 6 blocks, the last two snapshots, and what is never pruned."""
        pruner = Pruner(self.network.chain.store, SNAPSHOT_BLOCKS, WINDOW)
        target = pruner.target(int(words[0]))
        before = self._rows()
        steps = sum(1 for _ in pruner.steps(target))
        snapshots = " ".join(map(str, target.snapshots)) or "none"
        change = "fewer rows" if self._rows() < before else "rows as before"
        self._tell(f"blocks from {target.below} on, snapshots {snapshots}; {steps} steps, {change}")

    def _read(self, words: list[str]) -> None:
        """`read 5 16`: what there still is of these heights."""
        store = self.network.chain.store
        for height in map(int, words):
            row = store.row(height)
            there = {
                "header": store.header(height) is not None,
                "block": store.block(height) is not None,
                "receipts": row is not None and row.receipts != (),
                "proven state": row is not None and self._proves(height),
            }
            found = ", ".join(what for what, here in there.items() if here)
            self._tell(f"{height}: {found or 'nothing'}")

    def _proves(self, height: int) -> bool:
        store = self.network.chain.store
        row = store.row(height)
        assert row is not None, "looked up before"
        try:
            path, value = prove(store.node, row.root, KEY), store.read(row.root, KEY)
        except DamagedNode:  # it is not there any more
            return False
        verify(path, row.header.state, KEY, value)
        return True

    def _rows(self) -> int:
        with self.network.chain.store.database.iterator(include_value=False) as rows:
            return sum(1 for _ in rows)

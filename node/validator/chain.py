"""The chain as one validator holds it: checks proposals, executes blocks, builds headers."""

from collections.abc import Mapping

from consensus.message import Block, CommitCertificate
from node.validator.nodes import Nodes
from node.validator.store import BlockRow, Head, Store
from node.validator.view import View
from vm import sparse, tree
from vm.block import Header, check_payload, receipts_root, transactions_root
from vm.epoch import epochs, ruling, scheduled
from vm.execute import BlockContext, Program, execute_block
from vm.genesis import Genesis, check_genesis, genesis_writes
from vm.quorum import Epoch
from vm.refusal import Refused
from vm.shape import NOTE_BYTES_MAX, Digest
from vm.state import State
from vm.transaction import TX_LIFETIME_BLOCKS_MAX, Verified

ROWS_MAX = 8  # executed last that stay decoded: each is read at once, and again once certified
CLOCK_SKEW_MS_MAX = 30_000  # a fresh proposal's time may lie that far ahead of a backup's clock


class Chain:
    """The state machine over its store.

    `known` maps packed transactions to what this node found when it verified them before (its
    mempool's), so that a signature is verified once. `epochs` are all that the executed state
    has, by number; the last ones may not have begun. `scheduled` is the one among them that came
    with the newest block, if one did.
    """

    def __init__(
        self,
        store: Store,
        genesis: Genesis,
        program: Program,
        known: Mapping[bytes, Verified],
    ) -> None:
        self.id: Digest = genesis.chain
        self.epochs: tuple[Epoch, ...] = (check_genesis(genesis),)
        self.store = store
        self._known = known
        self._program = program
        self._rows: dict[int, BlockRow] = {}
        self._nodes = Nodes(store.node)
        head = store.head()
        self.head = self._write_genesis(genesis) if head is None else head
        if self.head.chain != self.id:
            raise Refused(
                "genesis.mismatch",
                f"expected a store of chain {self.id.hex()}, found one of {self.head.chain.hex()}; "
                "use the genesis file that this home was made with, or another data folder",
            )
        self.epochs = epochs(self.state())
        self.scheduled: Epoch | None = scheduled(self.state(), self.head.height)

    def epoch_at(self, height: int) -> Epoch:
        """The epoch that rules a height, up to window + 1 above the newest executed one."""
        return ruling(self.epochs, height)

    @property
    def epoch(self) -> Epoch:
        """The epoch that rules the next height to execute."""
        return self.epoch_at(self.head.height + 1)

    def check(self, height: int, payload: bytes, now_ms: int) -> None:
        """What a backup checks of a fresh proposal; raises `Refused`.

        Its bytes and height as `vm.block.check_payload` says, and that its time is not ahead of
        `now_ms`, the backup's clock, by more than `CLOCK_SKEW_MS_MAX`.
        """
        proposal, _ = check_payload(payload, height, self.id, self._known)
        if proposal.time_ms > now_ms + CLOCK_SKEW_MS_MAX:
            raise Refused(
                "payload.time",
                f"expected at most {CLOCK_SKEW_MS_MAX} ms ahead of {now_ms}, "
                f"found {proposal.time_ms}",
            )

    def execute(self, height: int, payload: bytes, certificate: CommitCertificate) -> Header:
        """Execute what consensus delivered and write all of it; heights come in order.

        `payload` b"" is the null request: an empty block a millisecond after the last.
        """
        head = self.head
        assert height == head.height + 1, f"expected height {head.height + 1}, found {height}"
        time_ms = head.time_ms + 1
        transactions: tuple[Verified, ...] = ()
        if payload:
            proposal, transactions = check_payload(payload, height, self.id, self._known)
            time_ms = max(proposal.time_ms, time_ms)
        ruled_by = self.epoch
        block = BlockContext(self.id, height, time_ms, head.header, ruled_by.validators)
        done = execute_block(
            lambda key: self.store.read(head.root, key),
            block,
            transactions,
            _Remembered(self.store, height),
            self._program,
        )
        update = sparse.update(self._nodes.get, head.root, height, done.writes)
        header = Header(
            chain=self.id,
            height=height,
            time_ms=time_ms,
            transactions=transactions_root(tuple(item.packed for item in done.transactions)),
            receipts=receipts_root(done.receipts),
            state=update.root.digest,
            history=head.frontier.root,
            validators=ruled_by.digest,
            next_validators=self.epoch_at(height + 1).digest,
        )
        executed = {item.id for item in done.transactions}
        row = BlockRow(
            header=header,
            root=update.root,
            positions=tuple(i for i, item in enumerate(transactions) if item.id in executed),
            receipts=done.receipts,
            messages=tuple(_note(message) for message in done.messages),
            writes=tuple(sorted(done.writes)),
        )
        self._write(header, row, Block(payload, certificate), update)
        self.scheduled = scheduled(self.state(), height)
        if self.scheduled is not None:
            self.epochs = (*self.epochs, self.scheduled)
        return header

    def row(self, height: int) -> BlockRow | None:
        """What execution made of a block; of the newest ones nothing is read for it."""
        return self._rows.get(height) or self.store.row(height)

    def state(self) -> State:
        """A fresh overlay on the newest executed state, certified or not."""
        root = self.head.root
        return State(lambda key: self.store.read(root, key))

    def view(self, height: int | None = None) -> View | None:
        """The newest certified state, or that of a certified height; None if there is none."""
        if height is None:
            certificate, read = self.store.certified(self.head.height), self.row
        else:
            certificate, read = self.store.certificate(height), self.store.row
        if certificate is None:
            return None
        row = read(certificate.height)
        return None if row is None else View(self.store, certificate, row)

    def _write_genesis(self, genesis: Genesis) -> Head:
        writes = genesis_writes(genesis)
        update = sparse.update(self.store.node, sparse.EMPTY, 0, writes)
        empty = transactions_root(())
        header = Header(
            chain=self.id,
            height=0,
            time_ms=genesis.time_ms,
            transactions=empty,
            receipts=empty,
            state=update.root.digest,
            history=tree.EMPTY_ROOT,
            validators=self.epochs[0].digest,
            next_validators=self.epochs[0].digest,
        )
        row = BlockRow(header, update.root, (), (), (), tuple(sorted(writes)))
        self.head = Head(self.id, 0, header.digest, 0, update.root, tree.EMPTY)
        self._write(header, row, None, update)
        self.store.sync()
        return self.head

    def _write(
        self, header: Header, row: BlockRow, decided: Block | None, update: sparse.Update
    ) -> None:
        digest = header.digest
        frontier, nodes = tree.append(self.head.frontier, digest)
        head = Head(self.id, header.height, digest, header.time_ms, update.root, frontier)
        self.store.write_block(head, row, decided, update, nodes)
        self._nodes.follow(update)
        self._rows.pop(header.height - ROWS_MAX, None)
        self._rows[header.height] = row
        self.head = head


def _note(message: str) -> str:
    """A sentence as a note: printable, cut to its bound."""
    clean = "".join(char if char.isprintable() else "?" for char in message)
    return clean.encode("utf-8", "replace")[:NOTE_BYTES_MAX].decode("utf-8", "ignore")


class _Remembered:
    """The ids of the `TX_LIFETIME_BLOCKS_MAX` blocks before `height`, as a collection.

    An install that was cut off leaves places of later blocks, which are yet to come. It is done
    again before a block is executed; but to take one of them for a repeat would be a fork.
    """

    __slots__ = ("_height", "_store")

    def __init__(self, store: Store, height: int) -> None:
        self._store = store
        self._height = height

    def __contains__(self, transaction: object) -> bool:
        assert isinstance(transaction, bytes)
        place = self._store.place(transaction)
        if place is None:
            return False
        return self._height - TX_LIFETIME_BLOCKS_MAX <= place.height < self._height

"""A chain on a dict for tests: real keys, real signed transactions, `execute_block`, no network.

Four organisations by default, each with a validator, trainer, verifier, steward and admin, all
enrolled by genesis.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from vm import digest, transaction
from vm.block import Receipt, Result
from vm.epoch import epochs, ruling
from vm.execute import BlockContext, Program, execute_block
from vm.genesis import PROTOCOL, Genesis, check_genesis, genesis_writes
from vm.keys import SigningKey
from vm.quorum import Epoch
from vm.record import Member, Organisation, Role, Sanction, Standing
from vm.shape import pack
from vm.state import Record, State

R = TypeVar("R", bound=Record)
Item = tuple[str, str, object]  # sender's id, kind, body

ROLES = (Role.VALIDATOR, Role.TRAINER, Role.VERIFIER, Role.STEWARD, Role.ADMIN)
START_MS = 1_700_000_000_000  # any fixed time
BLOCK_MS = 1_000
LIFETIME_BLOCKS = 100


_signers: dict[bytes, SigningKey] = {}  # every key that was asked for, by its public half


def key_of(member: str) -> SigningKey:
    """The member's key, from its id."""
    key = SigningKey(hashlib.sha256(member.encode()).digest())
    return _signers.setdefault(key.public, key)


def signer_of(public: bytes) -> SigningKey:
    """The key of `key_of` with this public half."""
    return _signers[public]


def organisation(number: int) -> str:
    """The id of the organisation with this number, from 1."""
    return f"hospital-{number}"


def genesis_of(organisations: int) -> Genesis:
    """A genesis in which every organisation has one member of each role."""
    names = [organisation(number + 1) for number in range(organisations)]
    return Genesis(
        title="Test consortium",
        protocol=PROTOCOL,
        time_ms=START_MS,
        window=8,
        rotation=0,
        equivocation=Sanction.SUSPEND,
        public=True,
        organisations=tuple(
            Organisation(name, name.title(), "NL", Standing.ENROLLED) for name in names
        ),
        members=tuple(
            Member(
                id=f"{name}.{role.value}",
                organisation=name,
                role=role,
                public_key=key_of(f"{name}.{role.value}").public,
                transport=None,
                standing=Standing.ENROLLED,
                enrolled_height=0,
                changed_height=0,
            )
            for name in names
            for role in ROLES
        ),
    )


def as_read(item: transaction.Transaction) -> transaction.Verified:
    """A transaction as if it had been read and its signature found good."""
    return transaction.Verified(item.intent, item.id, pack(item))


class Chain:
    """The state after each block; `block` executes the next one and gives receipts' codes."""

    def __init__(self, program: Program, organisations: int = 4) -> None:
        self.genesis = genesis_of(organisations)
        self.epoch = check_genesis(self.genesis)
        self.validators = self.epoch.validators
        self.program = program
        self.stored = genesis_writes(self.genesis)
        self.writes: dict[bytes, bytes] = {}  # of the last block
        self.receipts: tuple[Receipt, ...] = ()  # of the last block
        self.height = 0
        self.time_ms = START_MS
        self.parent = digest.digest(digest.HEADER, b"genesis")
        self.remembered: set[bytes] = set()
        self._nonce = 0

    @property
    def state(self) -> State:
        """A fresh view of the stored state."""
        return State(self.stored.get)

    def get(self, cls: type[R], *key: str | int) -> R:
        """The stored record, which must be there."""
        return self.state.require(cls, *key)

    def epoch_at(self, height: int) -> Epoch:
        """The epoch that rules a height up to window + 1 above the newest."""
        return ruling(epochs(self.state), height)

    def sign(self, item: Item) -> transaction.Transaction:
        """A transaction by the sender's own key, with a nonce never used before."""
        sender, kind, body = item
        self._nonce += 1
        return transaction.sign(
            key_of(sender),
            chain=self.genesis.chain,
            kind=kind,
            sender=sender,
            body=body,
            valid_until_height=self.height + LIFETIME_BLOCKS,
            nonce=self._nonce.to_bytes(transaction.NONCE_BYTES, "big"),
        )

    def block(self, items: Sequence[Item] = (), *, time_ms: int | None = None) -> list[str]:
        """Execute the next block with `items` in order; the codes of their receipts."""
        return self.execute([self.sign(item) for item in items], time_ms=time_ms)

    def execute(
        self, transactions: Sequence[transaction.Transaction], *, time_ms: int | None = None
    ) -> list[str]:
        """Execute the next block, BLOCK_MS later unless `time_ms` says when."""
        return self.apply([as_read(item) for item in transactions], time_ms=time_ms)

    def apply(
        self, transactions: Sequence[transaction.Verified], *, time_ms: int | None = None
    ) -> list[str]:
        """`execute` of what was read from the wire."""
        self.height += 1
        self.time_ms = self.time_ms + BLOCK_MS if time_ms is None else time_ms
        validators = self.epoch_at(self.height).validators
        context = BlockContext(
            self.genesis.chain, self.height, self.time_ms, self.parent, validators
        )
        executed = execute_block(
            self.stored.get, context, transactions, self.remembered, self.program
        )
        self.writes, self.receipts = executed.writes, executed.receipts
        self.stored |= executed.writes
        self.remembered |= {item.id for item in executed.transactions}
        self.parent = digest.digest(digest.HEADER, self.parent)  # stands in for the header
        return [receipt.code for receipt in executed.receipts]

    def applied(self, items: Sequence[Item] = (), *, time_ms: int | None = None) -> None:
        """Execute the next block and demand that every item takes effect."""
        self.block(items, time_ms=time_ms)
        failed = [r for r in self.receipts if r.result is not Result.APPLIED]
        assert not failed, failed

    def refused(self, item: Item, *, time_ms: int | None = None) -> str:
        """The code with which `item` fails, alone in the next block."""
        (code,) = self.block([item], time_ms=time_ms)
        assert self.receipts[0].result is Result.FAILED, code
        return code

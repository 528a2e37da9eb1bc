"""Execution of a block: the whole state transition reads from `execute_block`.

Pure: equal state, block and kinds give equal bytes on every machine.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vm.access import check_access
from vm.block import Receipt, Result
from vm.digest import BLIND, digest
from vm.quorum import ValidatorSet
from vm.record import Member
from vm.refusal import Refused
from vm.shape import Digest, Signature, unpack
from vm.state import Record, State, state_key
from vm.transaction import BODY_BYTES_MAX, Verified, check_lifetime


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What execution may know of the block, beside the state.

    `parent` is the digest of the header before; `time_ms` is the block's agreed time.
    """

    chain: Digest
    height: int
    time_ms: int
    parent: Digest
    validators: ValidatorSet


@dataclass(frozen=True, slots=True)
class Context:
    """A transaction's surroundings: its block, the sender's record, its id and its signature."""

    block: BlockContext
    sender: Member
    transaction: Digest
    signature: Signature

    def blind(self, kind: type[Record], *key: str | int, before: Digest = b"") -> Digest:
        """The field `blind` of a restricted record that a restricted transaction writes.

        Proofs of other records hold this one's digest. Whoever has not been shown the signature,
        which none but the sender could have made, cannot try out which record has that digest.
        `before` is the blind of the record that it takes the place of, whose content it keeps.
        """
        return digest(BLIND, before + self.signature + state_key(kind.KIND, key))


@dataclass(frozen=True, slots=True)
class Kind:
    """A built-in kind of transaction: the body's class and the handler that applies it.

    `apply(state, context, body)` raises `Refused` to fail; what it wrote is then undone.
    """

    name: str
    body: type
    apply: Callable[[State, Context, Any], None]


Hook = Callable[[State, BlockContext], None]


@dataclass(frozen=True, slots=True)
class Program:
    """Everything that can change the state: kinds by name, and hooks run at each block's start."""

    kinds: Mapping[str, Kind]
    hooks: tuple[Hook, ...]


@dataclass(frozen=True, slots=True)
class Executed:
    """What a block came to. `transactions` are those that were not repeats, in order.

    `messages` explain the receipts one by one, for people; no root covers them.
    """

    transactions: tuple[Verified, ...]
    receipts: tuple[Receipt, ...]
    messages: tuple[str, ...]
    writes: dict[bytes, bytes]


def execute_block(
    read: Callable[[bytes], bytes | None],
    block: BlockContext,
    transactions: Sequence[Verified],
    remembered: Container[bytes],
    program: Program,
) -> Executed:
    """Run hooks, then every transaction that `remembered` (ids of recent blocks) lacks."""
    state = State(read)
    for hook in program.hooks:
        hook(state, block)
    state.mark()
    fresh = tuple(item for item in transactions if item.id not in remembered)
    found = [_receipt(state, block, item, program.kinds) for item in fresh]
    receipts = tuple(receipt for receipt, _ in found)
    messages = tuple(message for _, message in found)
    return Executed(fresh, receipts, messages, state.writes)


def _receipt(
    state: State, block: BlockContext, transaction: Verified, kinds: Mapping[str, Kind]
) -> tuple[Receipt, str]:
    try:
        _apply(state, block, transaction, kinds)
    except Refused as refused:
        state.rewind()
        receipt = Receipt(transaction.id, block.height, Result.FAILED, refused.code)
        return receipt, refused.message
    state.mark()
    return Receipt(transaction.id, block.height, Result.APPLIED, "applied"), ""


def _apply(
    state: State, block: BlockContext, transaction: Verified, kinds: Mapping[str, Kind]
) -> None:
    intent = transaction.intent
    # 1. the transaction is alive at this height
    check_lifetime(intent, block.height)
    # 2. the kind is built in
    kind = kinds.get(intent.kind)
    if kind is None:
        raise Refused("transaction.kind", f"expected a built-in kind, found {intent.kind}")
    # 3. the sender is enrolled with this key, active, and has the role
    member = state.get(Member, intent.sender)
    sender = check_access(intent.kind, member, intent.sender, intent.public_key)
    # 4. the body is one of this kind
    body = _read_body(kind, intent.body)
    # 5. the kind's own numbered checks, then its writes
    kind.apply(state, Context(block, sender, transaction.id, transaction.signature), body)


def _read_body(kind: Kind, data: bytes) -> Any:
    """One code for every fault: which of several the decoder meets first is no part of protocol."""
    try:
        return unpack(kind.body, data, BODY_BYTES_MAX)
    except Refused as refused:
        raise Refused("transaction.body", f"{refused.code}: {refused.message}") from refused

"""The way in for transactions: decode, verify once off the event loop, check access, admit."""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from node.chain import Chain
from node.mempool import Mempool
from vm.access import ACCESS, check_access
from vm.record import Member
from vm.refusal import Refused
from vm.transaction import Transaction, read

SUBMIT_MAX = 100  # transactions of one request
DISK_FREE_BYTES_MIN = 64 * 1024 * 1024  # below it nothing is admitted: the journal needs room


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of one submitted transaction; `code` is `admitted`, or a refusal's."""

    id: bytes
    code: str
    message: str


class Intake:
    """Admits transactions of clients and of the other validators to the mempool."""

    def __init__(
        self,
        chain: Chain,
        mempool: Mempool,
        folder: Path,
        admitted: Callable[[Sequence[bytes]], None],
    ) -> None:
        """`admitted` is told of packed transactions that are new here."""
        self._chain = chain
        self._mempool = mempool
        self._folder = folder
        self._admitted = admitted

    async def submit(self, packed: Sequence[bytes]) -> list[Admission]:
        """Judge each transaction of a request; those that pass wait to be ordered."""
        assert len(packed) <= SUBMIT_MAX, "the caller bounds a request"
        judged = await asyncio.to_thread(self._verify, packed)
        fresh: list[bytes] = []
        answers = []
        for data, (transaction, refused) in zip(packed, judged, strict=True):
            if transaction is not None and refused is None:
                refused = self._admit(transaction, data, fresh)
            id = transaction.id if transaction is not None else b""
            answers.append(
                Admission(id, "admitted", "")
                if refused is None
                else Admission(id, refused.code, refused.message)
            )
        if fresh:
            self._admitted(fresh)
        return answers

    def _verify(self, packed: Sequence[bytes]) -> list[tuple[Transaction | None, Refused | None]]:
        judged: list[tuple[Transaction | None, Refused | None]] = []
        for data in packed:
            known = self._mempool.by_bytes.get(data)
            try:
                judged.append((known or read(data, self._chain.id), None))
            except Refused as refused:
                judged.append((None, refused))
        return judged

    def _admit(self, transaction: Transaction, data: bytes, fresh: list[bytes]) -> Refused | None:
        intent = transaction.intent
        try:
            self._check_disk()
            if self._chain.store.place(transaction.id) is not None:
                return None  # executed before; its receipt says how
            if intent.kind not in ACCESS:
                raise Refused("transaction.kind", f"expected a built-in kind, found {intent.kind}")
            member = self._chain.state().get(Member, intent.sender)
            check_access(intent.kind, member, intent.sender, intent.public_key)
            if self._mempool.admit(transaction, data, self._chain.head.height + 1):
                fresh.append(data)
        except Refused as refused:
            return refused
        return None

    def _check_disk(self) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < DISK_FREE_BYTES_MIN:
            raise Refused(
                "disk.full",
                f"expected {DISK_FREE_BYTES_MIN} bytes free on this validator, found {free}; "
                "send to another",
            )

"""The way in for transactions: decode, verify once (many off the loop), check access, admit."""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from node.api.admission import ADMITTED, ON_LOOP_BYTES_MAX, SUBMIT_MAX, Admission
from node.validator.chain import Chain
from node.validator.mempool import Mempool
from node.wire.disk import DISK_FREE_BYTES_MIN
from vm.access import ACCESS, check_access
from vm.record import Member
from vm.refusal import Refused
from vm.state import State
from vm.transaction import Intent, Verified, read


class Intake:
    """Admits transactions of clients and of the other validators to the mempool."""

    def __init__(
        self,
        chain: Chain,
        mempool: Mempool,
        folder: Path,
        wake: Callable[[], None],
    ) -> None:
        """`wake` is called when something new waits to be ordered."""
        self._chain = chain
        self._mempool = mempool
        self._folder = folder
        self._wake = wake

    async def submit(self, packed: Sequence[bytes]) -> list[Admission]:
        """Judge each transaction of a request; those that pass wait to be ordered."""
        assert len(packed) <= SUBMIT_MAX, "the caller bounds a request"
        few = len(packed) == 1 and len(packed[0]) <= ON_LOOP_BYTES_MAX
        judged = self._verify(packed) if few else await asyncio.to_thread(self._verify, packed)
        before, state = len(self._mempool), self._chain.state()
        full = self._disk_full()
        answers = []
        for found in judged:
            if isinstance(found, Refused):
                answers.append(Admission(b"", found.code, found.message))
                continue
            refused = full or self._admit(found, state)
            code, message = (refused.code, refused.message) if refused else (ADMITTED, "")
            answers.append(Admission(found.id, code, message))
        if len(self._mempool) > before:
            self._wake()
        return answers

    def recheck(self) -> None:
        """Forget what its sender may no longer send; call it after a block that changed a member.

        It would wait for ever where no block comes, and each backup would time the primary for it.
        """
        state = self._chain.state()
        known: dict[tuple[str, str, bytes], bool] = {}  # of many transactions, few senders

        def allowed(transaction: Verified) -> bool:
            intent = transaction.intent
            who = (intent.kind, intent.sender, intent.public_key)
            if who not in known:
                known[who] = self._may_send(intent, state)
            return known[who]

        self._mempool.recheck(allowed)

    def _may_send(self, intent: Intent, state: State) -> bool:
        try:
            _check_access(intent, state)
        except Refused:
            return False
        return True

    def _verify(self, packed: Sequence[bytes]) -> list[Verified | Refused]:
        judged: list[Verified | Refused] = []
        for data in packed:
            known = self._mempool.by_bytes.get(data)
            try:
                judged.append(known or read(data, self._chain.id))
            except Refused as refused:
                judged.append(refused)
        return judged

    def _admit(self, transaction: Verified, state: State) -> Refused | None:
        intent = transaction.intent
        try:
            if self._chain.store.place(transaction.id) is not None:
                return None  # executed before; its receipt says how
            if intent.kind not in ACCESS:
                raise Refused("transaction.kind", f"expected a built-in kind, found {intent.kind}")
            _check_access(intent, state)
            self._mempool.admit(transaction, self._chain.head.height + 1)
        except Refused as refused:
            return refused
        return None

    def _disk_full(self) -> Refused | None:
        free = shutil.disk_usage(self._folder).free
        if free >= DISK_FREE_BYTES_MIN:
            return None
        return Refused(
            "disk.full",
            f"expected {DISK_FREE_BYTES_MIN} bytes free on this validator, found {free}; "
            "send to another",
        )


def _check_access(intent: Intent, state: State) -> None:
    member = state.get(Member, intent.sender)
    check_access(intent.kind, member, intent.sender, intent.public_key)

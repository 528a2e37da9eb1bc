"""Brings a journal's uses to the chain: each batch once, whatever is killed on the way.

A batch is signed and kept before it is sent, so that after a crash the same transaction goes out
again. One that has expired is signed anew only after it is proven that the chain has no batch of
this root: at a height past its last, no block can hold it any more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from node.client.submitter import Submitter
from node.usage.journal import Batch, Journal
from vm.block import Result
from vm.record import Member, Model
from vm.refusal import Refused
from vm.transaction import Transaction
from vm.usage import ModelUsage, UseBatchRecord

KIND = "model.use"
EXPIRED = "transaction.expired"
OLD = "use.old"

OnBatch: TypeAlias = Callable[[int, int], None]  # uses that are settled, and uses in all


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of waiting uses: a batch with its number on the chain, or why there is none.

    `batch` is None where nothing was bound, as the chain lacks the model version.
    """

    batch: int | None
    model: str
    version: int
    entries: int
    number: int | None
    code: str | None
    reason: str


class Sender:
    """One member's pen, and the journal that it writes from."""

    def __init__(self, submitter: Submitter, journal: Journal) -> None:
        self._submitter = submitter
        self._client = submitter.client
        self._journal = journal

    async def send(self, now_ms: int, on_batch: OnBatch = lambda done, total: None) -> list[Sent]:
        """Bind and send all that waits; one batch that the chain refuses holds up no other.

        Raises `Refused` if nobody answers, or with what every node refuses the transaction for:
        call again later.
        """
        found = await self._bind(now_ms)
        organisation = await self._organisation()
        unsent = self._journal.unrecorded()
        found += await self._send_all(unsent, organisation, on_batch)
        if any(sent.code == OLD for sent in found):
            await self._bind(now_ms)  # one old use took younger ones with it
            tried = max(batch.id for batch in unsent)
            again = [batch for batch in self._journal.unrecorded() if batch.id > tried]
            found += await self._send_all(again, organisation, on_batch)
        return found

    async def _send_all(
        self, unsent: list[Batch], organisation: str, on_batch: OnBatch
    ) -> list[Sent]:
        found: list[Sent] = []
        total, done = sum(batch.body.entries for batch in unsent), 0
        for batch in unsent:
            on_batch(done, total)
            found.append(await self._send(batch, organisation))
            done += batch.body.entries
        on_batch(done, total)
        return found

    async def _bind(self, now_ms: int) -> list[Sent]:
        """Bind what waits; what speaks of a version that the chain lacks goes on waiting."""
        unknown = []
        for subject in self._journal.waiting(now_ms):
            if await self._client.record(Model, subject.model, subject.version) is not None:
                self._journal.bind(subject, now_ms)
                continue
            why = f"expected version {subject.version} of model {subject.model}, found none"
            said = (subject.model, subject.version, subject.waiting)
            unknown.append(Sent(None, *said, None, "model.missing", why))
        return unknown

    async def _organisation(self) -> str:
        member = await self._client.record(Member, self._submitter.member)
        if member is None:
            raise Refused(
                "access.unknown_member",
                f"expected an enrolled member, found {self._submitter.member}",
            )
        return member.organisation

    async def _send(self, batch: Batch, organisation: str) -> Sent:
        while True:
            signed, transaction = await self._signed(batch, organisation)
            try:
                await self._client.submit_and_wait(transaction)
            except Refused as refused:
                number = await self._after(signed, transaction, organisation, refused)
                if number is None and refused.code != EXPIRED:
                    return _sent(batch, None, refused.code, refused.message)
            else:
                number, _ = await self._find(signed, organisation)
                if number is None:
                    raise Refused(
                        "use.unseen",
                        f"expected batch {batch.id}, whose receipt is certified, among those of "
                        f"{organisation}, found none: send again",
                    )
            if number is not None:
                self._journal.recorded(batch, number)
                return _sent(batch, number, None, "")
            batch = self._journal.batch(batch.id)

    async def _signed(self, batch: Batch, organisation: str) -> tuple[Batch, Transaction]:
        """The batch and its transaction: as it was kept, or made and kept now."""
        if batch.signed is None:
            before, _ = await self._recorded(batch, organisation)
            made = await self._submitter.sign(KIND, batch.body)
            batch = self._journal.sign(batch, made, before)
        assert batch.signed is not None, "kept just now"
        return batch, batch.signed

    async def _after(
        self, batch: Batch, transaction: Transaction, organisation: str, refused: Refused
    ) -> int | None:
        """The batch's number if it is on the chain after all; None once another may be signed.

        A batch with a use that is too old is given up, for the younger ones in it to be bound anew.
        Raises `refused` again where neither is proven: the same transaction may still apply.
        """
        if refused.code == EXPIRED:
            number, height = await self._find(batch, organisation)
            settled = number is not None or height > transaction.intent.valid_until_height
        else:
            receipt = await self._client.receipt(transaction.id)
            number, settled = None, receipt is not None and receipt.result is Result.FAILED
        if not settled:
            raise refused
        if number is None and refused.code == OLD:
            self._journal.unbind(batch)
        elif number is None:
            self._journal.refused(batch, refused.code)
        return number

    async def _find(self, batch: Batch, organisation: str) -> tuple[int | None, int]:
        """The number of the batch with this root on the chain, if any, by a proven height."""
        last, height = await self._recorded(batch, organisation)
        for number in range((batch.before or 0) + 1, last + 1):
            key = (batch.body.model, organisation, number)
            found = await self._client.record(UseBatchRecord, *key)
            if found is not None and found.root == batch.body.root:
                return number, height
        return None, height

    async def _recorded(self, batch: Batch, organisation: str) -> tuple[int, int]:
        """How many batches of the model the organisation has recorded, and at which height."""
        usage, header = await self._client.record_at(ModelUsage, batch.body.model)
        return 0 if usage is None else usage.of(organisation).batches, header.height


def _sent(batch: Batch, number: int | None, code: str | None, reason: str) -> Sent:
    body = batch.body
    return Sent(batch.id, body.model, body.version, body.entries, number, code, reason)

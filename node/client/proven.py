"""What nodes have proven to a client: who rules, and how high the chain is at least."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar

from node.api.resource import Key
from node.api.views import read_base64
from node.client.reply import PageBody
from vm.block import Header, Receipt
from vm.inclusion import (
    CertifiedHeader,
    RecordProof,
    TransactionProof,
    expect_height,
    expect_key,
    read_multiproof,
    read_record,
    verify_header,
    verify_record,
    verify_records,
    verify_transaction,
)
from vm.quorum import Epoch
from vm.refusal import Refused
from vm.shape import Digest, unpack
from vm.sparse import VALUE_BYTES_MAX
from vm.state import Record, state_key
from vm.succession import Step
from vm.trust import Pin, Trust, advance

R = TypeVar("R", bound=Record)

Asked: TypeAlias = tuple[type[Record], Key]  # a record, by its class and key


class Proven:
    """Checks proofs, as base64, against genesis or a pin and the epochs followed from there.

    Each method raises `Refused` with `audit.*`, `succession.*` or what the decoder says.
    `audit.validators` may be our own delay: the proof is of an epoch that was not followed yet.
    `trust` is where `steps` have led; `height` is the highest that was proven, `written` that of
    the newest receipt. `floor` is the newest header that was followed, else the pin: what is
    certified below it is refused with `audit.before_pin`, unless a later checkpoint's history holds
    it, and another header in its place with `pin.header`.
    """

    def __init__(
        self, trust: Trust, steps: tuple[Step, ...] = (), newest: Header | None = None
    ) -> None:
        self.trust = trust
        self.steps = steps
        self.floor = trust.pin if newest is None else Pin(newest.height, newest.digest)
        self.height = 0 if self.floor is None else self.floor.height
        self.written = 0

    @property
    def chain(self) -> Digest:
        """The chain's id."""
        return self.trust.chain

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        """The epochs that were followed, in order of number."""
        return self.trust.epochs

    def step(self, proof: str) -> None:
        """Take a step to the epoch after the newest; `history.full` where no more are taken."""
        step, known = unpack(Step, read_base64(proof)), self.epochs[-1]
        if step.epoch.number <= known.number:
            return  # another call has come so far in the meantime
        self.trust = advance(self.trust, step)
        self.steps = (*self.steps, step)

    def certified(self, proof: str) -> CertifiedHeader:
        """A header with what certifies it."""
        found = unpack(CertifiedHeader, read_base64(proof))
        verify_header(found, self.chain, self.epochs)
        self.see(found)
        return found

    def header(self, proof: str) -> Header:
        """A certified header."""
        return self.certified(proof).header

    def header_at(self, proof: str, height: int) -> Header:
        """The certified header of this height."""
        header = self.header(proof)
        expect_height(header, height)
        return header

    def record(self, proof: str, cls: type[R], key: Key) -> tuple[R | None, Header]:
        """The record under `key`, None if it is proven that there is none, and the header."""
        found = unpack(RecordProof, read_base64(proof))
        record = read_record(found, cls, key, self.chain, self.epochs)
        return record, self.see(found.certified)

    def together(self, proof: str, asked: Sequence[Asked]) -> tuple[list[Record | None], Header]:
        """The records that were asked for, None where one is absent, all under one header."""
        found = read_multiproof(read_base64(proof))
        names = [state_key(cls.KIND, key) for cls, key in asked]
        values = verify_records(found, names, self.chain, self.epochs)
        records: list[Record | None] = []
        for (cls, _), name in zip(asked, names, strict=True):
            value = values[name]
            records.append(None if value is None else unpack(cls, value, VALUE_BYTES_MAX))
        return records, self.see(found.certified)

    def records(
        self, page: PageBody, cls: type[R], prefix: Key, after: bytes, at: CertifiedHeader | None
    ) -> tuple[list[R], bytes]:
        """The records of a page, in order of key beyond `after`, and the last key.

        They stand under the header `at`, which was proven, or each under its own if None.
        """
        records, last = [], after
        for item in page.items:
            proof = unpack(RecordProof, read_base64(item.proof))
            proof = proof if at is None else replace(proof, certified=at)
            verify_record(proof, self.chain, self.epochs)
            record = unpack(cls, proof.value or b"", VALUE_BYTES_MAX)
            expect_key(proof.key, state_key(cls.KIND, (*prefix, record.key[-1])))
            if proof.key <= last:
                raise Refused("audit.key", "expected records in order of key, found a repeat")
            records.append(record)
            last = proof.key
            self.see(proof.certified)
        return records, last

    def receipt(self, proof: str, id: bytes) -> Receipt:
        """The receipt of the transaction with this id."""
        found = unpack(TransactionProof, read_base64(proof))
        expect_key(verify_transaction(found, self.chain, self.epochs).id, id)
        self.see(found.certified)
        self.written = max(self.written, found.receipt.height)
        return found.receipt

    def is_below(self, certified: CertifiedHeader) -> bool:
        """Whether what certifies a header is older than the floor: it counts for nothing."""
        return self.floor is not None and certified.certificate.height < self.floor.height

    def see(self, certified: CertifiedHeader) -> Header:
        """Take note of a header that was verified; raises `Refused` if the floor contradicts it."""
        newest = (certified.later or certified).header
        floor = self.floor
        if floor is not None and newest.height < floor.height:
            raise Refused(
                "audit.before_pin",
                f"expected a certificate of height {floor.height}, which is pinned or was followed "
                f"already, or later, found one of {newest.height}: ask for it under a later "
                "checkpoint",
            )
        if floor is not None and newest.height == floor.height and newest.digest != floor.header:
            raise Refused(
                "pin.header",
                f"expected the header {floor.header.hex()} at height {floor.height}, which is "
                f"pinned or was followed already, found {newest.digest.hex()}",
            )
        self.height = max(self.height, newest.height)
        return certified.header

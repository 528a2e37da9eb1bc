"""Vectors of the chain itself: genesis, transactions, blocks and the records that they write."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from fl.body import DecideModel
from node.program import program
from tests.fl import dialogue
from tests.harness import START_MS, Chain, Item, key_of
from tests.vectors.spelling import code_of, hexes
from tests.vm import uses
from vm import sparse, tree
from vm import transaction as transactions
from vm.accesslog import DigestLog
from vm.block import Header, Payload, Receipt, check_payload, receipts_root, transactions_root
from vm.certificate import CheckpointCertificate, Vote, checkpoint_digest
from vm.conduct import AuditOutcome, MarkDecision
from vm.digest import STATE_KEY, digest
from vm.encoding import decode
from vm.record import Role, Standing
from vm.registry import EnrolMember, SetStanding
from vm.shape import Digest, pack
from vm.terms import Evidence
from vm.transaction import Transaction, Verified

STRANGER = "nobody"


@dataclass(frozen=True)
class Made:
    """A block, its header and all that it wrote."""

    payload: bytes
    transactions: tuple[Verified, ...]
    header: Header
    root: sparse.Root
    receipts: tuple[Receipt, ...]
    writes: dict[bytes, bytes]


class Ledger(Chain):
    """A chain with real payloads and headers, held in memory."""

    def __init__(self) -> None:
        super().__init__(program())
        self.nodes: dict[sparse.NodeKey, bytes] = {}
        self.frontier = tree.EMPTY
        self.blocks: list[Made] = []
        self.writes, self.time_ms = dict(self.stored), self.genesis.time_ms
        self._append(b"", ())

    def execute(
        self, transactions: Sequence[Transaction], *, time_ms: int | None = None
    ) -> list[str]:
        """Order `transactions` at the proposed time, a second later than the last if None."""
        return self.order([pack(item) for item in transactions], time_ms=time_ms)

    def order(self, packed: Sequence[bytes], *, time_ms: int | None = None) -> list[str]:
        """`execute` of packed transactions."""
        proposed = self.time_ms + 1_000 if time_ms is None else time_ms
        return self.deliver(pack(Payload(proposed, tuple(packed))))

    def deliver(self, payload: bytes) -> list[str]:
        """Execute what consensus ordered; b"" is the null request."""
        time_ms, found = self.time_ms + 1, tuple[Verified, ...]()
        if payload:
            proposal, found = check_payload(payload, self.height + 1, self.genesis.chain, {})
            time_ms = max(proposal.time_ms, time_ms)
        codes = super().apply(found, time_ms=time_ms)
        executed = {receipt.transaction for receipt in self.receipts}
        self._append(payload, tuple(item for item in found if item.id in executed))
        return codes

    def header_digests(self) -> list[Digest]:
        """The leaves of the history."""
        return [made.header.digest for made in self.blocks]

    def certify(self, header: Header, seats: int = 3) -> CheckpointCertificate:
        """The first `seats` validators' certificate of a header."""
        message = checkpoint_digest(self.genesis.chain, header.height, header.digest)
        votes = (
            Vote(seat.id, key_of(seat.id).sign(message))
            for seat in self.validators.validators[:seats]
        )
        return CheckpointCertificate(header.height, header.digest, tuple(votes))

    def _append(self, payload: bytes, executed: tuple[Verified, ...]) -> None:
        before = self.blocks[-1].root if self.blocks else sparse.EMPTY
        update = sparse.update(self.nodes.__getitem__, before, self.height, self.writes)
        header = Header(
            chain=self.genesis.chain,
            height=self.height,
            time_ms=self.time_ms,
            transactions=transactions_root(tuple(item.packed for item in executed)),
            receipts=receipts_root(self.receipts),
            state=update.root.digest,
            history=self.frontier.root,
            validators=self.epoch_at(self.height).digest,
            next_validators=self.epoch_at(self.height + 1).digest,
        )
        self.nodes |= update.nodes
        self.parent = header.digest
        self.frontier, _ = tree.append(self.frontier, header.digest)
        made = Made(payload, executed, header, update.root, self.receipts, dict(self.writes))
        self.blocks.append(made)


@cache
def story() -> Ledger:
    """A task of two rounds on four sites, with every kind of transaction and of ending."""
    chain = Ledger()
    chain.applied([*(dialogue.dataset(number) for number in (1, 2, 3, 4)), dialogue.model()])
    chain.deliver(b"")
    enrolled = EnrolMember("hospital-2.reader", Role.AUDITOR, key_of(STRANGER).public, bytes(32))
    chain.applied([("hospital-2.admin", "member.enrol", enrolled)])
    suspended = SetStanding("hospital-2.reader", Standing.SUSPENDED)
    chain.applied([("hospital-2.admin", "member.standing", suspended)])
    chain.applied([dialogue.opening()], time_ms=chain.time_ms - 5_000)  # not before its parent
    chain.applied(dialogue.approvals())
    chain.applied([dialogue.withdrawal(4)])
    _fail_round_by_deadline(chain)
    _close_round_with_a_rejection(chain, 2)
    _close_round_with_a_rerun(chain, 3)
    _mark_the_model(chain)
    _publish_access_logs(chain)
    chain.applied([dialogue.opening("again"), dialogue.closing(task="again")])
    chain.applied(uses.stories())
    chain.order(_refused(chain))
    return chain


def _fail_round_by_deadline(chain: Ledger) -> None:
    """Two updates of three that are needed; the block that is late enough fails round 1."""
    chain.applied([dialogue.proof(1), dialogue.proof(2), dialogue.approval(4)])
    chain.block(time_ms=chain.time_ms + dialogue.SUBMIT_MS)


def _close_round_with_a_rejection(chain: Ledger, number: int) -> None:
    """Four updates: one is failed by a majority, one verifier is silent to the deadline."""
    dialogue.submitted(chain, number)
    failing = dialogue.failing("update.norm_bound", "expected less")
    said = {(judge, 4): failing for judge in (1, 2)}
    dialogue.speak(chain, said, judges=(1, 2, 3), round_number=number)
    chain.applied([dialogue.aggregate(chain, judge, number) for judge in (1, 2, 3)])


def _close_round_with_a_rerun(chain: Ledger, number: int) -> None:
    """One site declines; a segment that one verifier fails is re-run by the two others."""
    replayed = {"evidence": Evidence.REPLAYED}
    proofs = [
        dialogue.proof(site, number, base_version=1, **(replayed if site == 2 else {}))
        for site in (1, 2, 3)
    ]
    declined = dialogue.decline(4, number)
    chain.applied([*proofs, declined, *dialogue.commits(number)])
    failing = dialogue.failing("replay.weights", "other weights") | {"segment": 2}
    dialogue.speak(chain, {(1, 2): failing}, round_number=number)
    chain.applied([dialogue.rerun(chain, judge, 2, number) for judge in (3, 4)])
    chain.applied([dialogue.aggregate(chain, site, number) for site in (1, 2, 3)])


def _mark_the_model(chain: Ledger) -> None:
    """An audit of the first version's training fails, and its steward keeps the model."""
    dialogue.with_auditors(chain)
    chain.applied([dialogue.visit(2, 1, 2)])
    chain.applied([dialogue.attestation(2, 1, AuditOutcome.FAILED, 2)])
    chain.applied([dialogue.attestation(1, 2, AuditOutcome.UNAVAILABLE, 2)])
    decided = DecideModel(dialogue.MODEL, MarkDecision.KEPT, "trained again elsewhere")
    chain.applied([("hospital-1.steward", "model.decide", decided)])


def _publish_access_logs(chain: Ledger) -> None:
    """A validator's log grows, and so does its digest on chain."""
    nodes: dict[tuple[int, int], Digest] = {}
    frontier = tree.EMPTY

    def read(level: int, index: int) -> Digest:
        return nodes[level, index]

    for line in range(8):
        before = frontier
        frontier, made = tree.append(frontier, bytes((line,)))
        nodes |= {(level, index): found for level, index, found in made}
        path = tree.consistency_path_at(read, before.size, frontier.size)
        digested = DigestLog(bytes(16), frontier.size, frontier.root, path)
        chain.applied([("hospital-1.validator", "access.digest", digested)])
    begun_anew = DigestLog(bytes(range(16)), 1, tree.root([b"anew"]), ())
    chain.applied([("hospital-2.validator", "access.digest", replace(begun_anew, log=bytes(16)))])
    chain.applied([("hospital-2.validator", "access.digest", begun_anew)])


def _refused(chain: Ledger) -> list[bytes]:
    """Transactions that fail in execution, and one that stood in an earlier block."""
    items: list[Item] = [
        (STRANGER, "task.open", Vote("a", bytes(64))),
        ("hospital-1.trainer", "task.open", Vote("a", bytes(64))),
        ("hospital-1.steward", "task.open", Vote("a", bytes(64))),
        ("hospital-1.steward", "no.such.kind", Vote("a", bytes(64))),
        dialogue.dataset(1),
        dialogue.proof(1, 3, base_version=1),
        dialogue.proof(1, 9),
        ("hospital-1.validator", "access.digest", DigestLog(bytes(16), 8, bytes(32), ())),
        ("hospital-1.validator", "access.digest", DigestLog(bytes(16), 9, bytes(32), (bytes(32),))),
    ]
    return [*(pack(chain.sign(item)) for item in items), chain.blocks[-1].transactions[0].packed]


def genesis() -> dict[str, Any]:
    """The document of a test consortium, its id and block 0."""
    made = story().blocks[0]
    return {
        "genesis": pack(story().genesis).hex(),
        "chain": story().genesis.chain.hex(),
        "epoch": pack(story().epoch).hex(),
        "epoch_digest": story().epoch.digest.hex(),
        "writes": _writes(made),
        "header": pack(made.header).hex(),
        "digest": made.header.digest.hex(),
        "state": made.header.state.hex(),
    }


def transaction() -> dict[str, Any]:
    """One transaction from its parts to its bytes, and bytes that are none of this chain."""
    chain, sender = story().genesis.chain, "hospital-1.admin"
    body = SetStanding("hospital-1.trainer", Standing.SUSPENDED)
    made = transactions.sign(
        key_of(sender),
        chain=chain,
        kind="member.standing",
        sender=sender,
        body=body,
        valid_until_height=1_030,
        nonce=bytes(range(16)),
    )
    packed = pack(made)
    other = replace(made, signature=bytes((made.signature[0] ^ 1,)) + made.signature[1:])
    attacks = {
        "a byte too many": packed + b"\x00",
        "the version in a longer form": packed[:1] + b"\xcc\x01" + packed[2:],
        "another version": packed[:1] + b"\x02" + packed[2:],
        "a signature with one bit turned": pack(other),
    }
    return {
        "chain": chain.hex(),
        "sender": sender,
        "kind": "member.standing",
        "body": pack(body).hex(),
        "public_key": key_of(sender).public.hex(),
        "valid_until_height": 1_030,
        "nonce": made.intent.nonce.hex(),
        "intent": pack(made.intent).hex(),
        "id": made.id.hex(),
        "signature": made.signature.hex(),
        "packed": packed.hex(),
        "refused": [
            *(
                {"why": why, "packed": data.hex(), "code": code_of(transactions.read, data, chain)}
                for why, data in attacks.items()
            ),
            {
                "why": "on another chain",
                "packed": packed.hex(),
                "chain": bytes(32).hex(),
                "code": code_of(transactions.read, packed, bytes(32)),
            },
        ],
        "stands_at_heights": [7, 1_030],
        "refused_at_heights": [
            {
                "height": height,
                "code": code_of(transactions.check_lifetime, made.intent, height),
            }
            for height in (6, 1_031)
        ],
    }


def block() -> dict[str, Any]:
    """Every block of the story: payload, receipts, writes and header."""
    chain = story()
    return {
        "story": "block 0 is in genesis.json; execute the payloads in order",
        "blocks": blocks(chain),
        "refused_payloads": _refused_payloads(chain),
    }


def blocks(chain: Ledger) -> list[dict[str, Any]]:
    """Every block above genesis as a chain has it."""
    return [
        {
            "height": made.header.height,
            "payload": made.payload.hex(),
            "time_ms": made.header.time_ms,
            "executed": hexes(item.id for item in made.transactions),
            "codes": [receipt.code for receipt in made.receipts],
            "receipts": hexes(pack(receipt) for receipt in made.receipts),
            "writes": _writes(made),
            "header": pack(made.header).hex(),
            "digest": made.header.digest.hex(),
        }
        for made in chain.blocks[1:]
    ]


def _refused_payloads(chain: Ledger) -> list[dict[str, Any]]:
    """Proposals that bytes and height alone rule out."""
    height = chain.height + 1
    good = chain.blocks[1].transactions[0].packed
    twice = Payload(START_MS, (good, good))
    cases = {
        "no payload": b"\x90",
        "a byte too many": pack(Payload(START_MS, ())) + b"\x00",
        "one transaction twice": pack(twice),
        "no transaction": pack(Payload(START_MS, (b"\xc0",))),
    }
    expired = {"an expired transaction": pack(Payload(START_MS, (good,)))}
    return [
        {
            "why": why,
            "payload": payload.hex(),
            "height": at,
            "code": code_of(check_payload, payload, at, chain.genesis.chain, {}),
        }
        for at, some in ((height, cases), (height + 1_000, expired))
        for why, payload in some.items()
    ]


def record() -> dict[str, Any]:
    """The last record of each kind that the story wrote, with its state key and place."""
    chain = story()
    newest: dict[str, bytes] = {}
    for key in chain.stored:
        parts = decode(key)
        assert isinstance(parts, tuple)
        newest[str(parts[0])] = key
    return {
        "root": chain.blocks[-1].header.state.hex(),
        "records": [
            {
                "kind": kind,
                "key": key.hex(),
                "place": digest(STATE_KEY, key).hex(),
                "value": chain.stored[key].hex(),
            }
            for kind, key in sorted(newest.items())
        ],
    }


def _writes(made: Made) -> list[dict[str, str]]:
    return [{"key": key.hex(), "value": value.hex()} for key, value in sorted(made.writes.items())]

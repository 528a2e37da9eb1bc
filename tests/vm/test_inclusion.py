"""Inclusion proofs against a malicious server: each forgery is refused with the step that failed.

The proofs are built here from in-memory trees, so that what `vm.inclusion` verifies is made by no
code of the node's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import as_read, genesis_of, key_of
from vm import sparse, tree
from vm.block import Header, Receipt, Result, receipts_root, transactions_root
from vm.certificate import CheckpointCertificate, Vote, checkpoint_digest
from vm.genesis import check_genesis, genesis_writes
from vm.inclusion import (
    CertifiedHeader,
    Later,
    RecordProof,
    TransactionProof,
    read_record,
    verify_header,
    verify_record,
    verify_transaction,
)
from vm.record import Member
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.state import state_key
from vm.transaction import Transaction, sign

GENESIS = genesis_of(4)
CHAIN = GENESIS.chain
EPOCH = check_genesis(GENESIS)
EPOCHS = (EPOCH,)
HOSPITALS = tuple(f"hospital-{number}" for number in range(1, 5))
KEY = ("hospital-1.trainer",)
NEIGHBOUR = ("hospital-2.trainer",)


class Tree:
    """A state tree in memory at height 5, and the nodes that hold it."""

    def __init__(self, writes: dict[bytes, bytes]) -> None:
        update = sparse.update(self.read, sparse.EMPTY, 5, writes)
        self.root, self.nodes = update.root, update.nodes

    def read(self, key: sparse.NodeKey) -> bytes:
        """A stored node."""
        return self.nodes[key]

    def proof(self, key: bytes, certified: CertifiedHeader) -> RecordProof:
        """The proof of a key, present or absent."""
        value = sparse.get(self.read, self.root, key)
        return RecordProof(key, value, sparse.prove(self.read, self.root, key), certified)


def transaction(nonce: int) -> Transaction:
    """Some signed transaction; bodies are not read here."""
    return sign(
        key_of("hospital-1.steward"),
        chain=CHAIN,
        kind="dataset.register",
        sender="hospital-1.steward",
        body=Vote("a", bytes(64)),
        valid_until_height=10,
        nonce=nonce.to_bytes(16, "big"),
    )


STATE = Tree(genesis_writes(GENESIS))
TRANSACTIONS = tuple(transaction(nonce) for nonce in range(5))
PACKED = tuple(pack(item) for item in TRANSACTIONS)
RECEIPTS = tuple(Receipt(item.id, 5, Result.APPLIED, "applied") for item in TRANSACTIONS)
HISTORY = [bytes((number,)) * 32 for number in range(5)]  # digests of headers 0 to 4
HEADER = Header(
    chain=CHAIN,
    height=5,
    time_ms=1_000,
    transactions=transactions_root(PACKED),
    receipts=receipts_root(RECEIPTS),
    state=STATE.root.digest,
    history=tree.root(HISTORY),
    validators=EPOCH.digest,
    next_validators=EPOCH.digest,
)
ALL_HEADERS = [*HISTORY, HEADER.digest, b"\x66" * 32, b"\x77" * 32]
LATER_HEADER = replace(
    HEADER, height=8, time_ms=9_000, state=bytes(32), history=tree.root(ALL_HEADERS)
)


def tree_nodes(leaves: Sequence[bytes]) -> tree.ReadNode:
    """The complete nodes of a history, as a store reads them."""
    frontier, nodes = tree.EMPTY, dict[tuple[int, int], bytes]()
    for leaf in leaves:
        frontier, made = tree.append(frontier, leaf)
        nodes |= {(level, index): digest for level, index, digest in made}
    return lambda level, index: nodes[level, index]


def certify(
    header: Header, names: Sequence[str] = HOSPITALS[:3], chain: bytes = CHAIN
) -> CheckpointCertificate:
    """A certificate by these organisations' validators."""
    message = checkpoint_digest(chain, header.height, header.digest)
    votes = [Vote(f"{name}.validator", key_of(f"{name}.validator").sign(message)) for name in names]
    return CheckpointCertificate(header.height, header.digest, tuple(votes))


OWN = CertifiedHeader(HEADER, certify(HEADER), None)
UNDER_LATER = CertifiedHeader(
    HEADER, certify(LATER_HEADER), Later(LATER_HEADER, tree.inclusion_path(ALL_HEADERS, 5))
)
RECORD = STATE.proof(state_key(Member.KIND, KEY), OWN)
ABSENCE = STATE.proof(state_key(Member.KIND, ("nobody",)), OWN)
TRANSACTION = TransactionProof(
    transaction=PACKED[2],
    receipt=RECEIPTS[2],
    index=2,
    size=5,
    transaction_path=tree.inclusion_path(PACKED, 2),
    receipt_path=tree.inclusion_path([pack(receipt) for receipt in RECEIPTS], 2),
    certified=OWN,
)


def refusal(check: Callable[[], object]) -> str:
    """The code with which `check` refuses."""
    with pytest.raises(Refused) as caught:
        check()
    return caught.value.code


# What holds


@pytest.mark.parametrize("certified", [OWN, UNDER_LATER], ids=["own", "later"])
def test_a_header_holds_by_its_own_certificate_or_a_later_one(certified: CertifiedHeader) -> None:
    """Either is enough."""
    verify_header(certified, CHAIN, EPOCHS)


def test_a_record_reads_as_it_is_in_the_state() -> None:
    """A proof gives the record, or None where it shows that there is none."""
    found = read_record(RECORD, Member, KEY, CHAIN, EPOCHS)
    assert found is not None
    assert found.id == "hospital-1.trainer"
    assert read_record(ABSENCE, Member, ("nobody",), CHAIN, EPOCHS) is None


def test_a_transaction_holds_with_its_receipt() -> None:
    """The transaction is returned once all of it is verified."""
    assert verify_transaction(TRANSACTION, CHAIN, EPOCHS) == as_read(TRANSACTIONS[2])


@pytest.mark.parametrize(
    "proof", [RECORD, ABSENCE, TRANSACTION, replace(RECORD, certified=UNDER_LATER)]
)
def test_a_proof_survives_its_encoding(proof: RecordProof | TransactionProof) -> None:
    """What a client decodes is what the node had."""
    assert unpack(type(proof), pack(proof)) == proof


# The header and its certificate


def forged_header(**changes: object) -> CertifiedHeader:
    """The header with changes, and a certificate of the header without them."""
    return replace(OWN, header=replace(HEADER, **changes))  # type: ignore[arg-type]


def certified_by(names: Sequence[str]) -> CertifiedHeader:
    """The header with a certificate by these validators."""
    return replace(OWN, certificate=certify(HEADER, names))


def foreign_votes(how: str) -> CertifiedHeader:
    """A certificate in which something about the signers is wrong."""
    votes = list(OWN.certificate.votes)
    message = checkpoint_digest(CHAIN, HEADER.height, HEADER.digest)
    match how:
        case "stranger":
            votes[2] = Vote("hospital-5.validator", key_of("hospital-5.validator").sign(message))
        case "stranger's key":
            votes[2] = Vote("hospital-3.validator", key_of("hospital-5.validator").sign(message))
        case "trainer":
            votes[2] = Vote("hospital-3.trainer", key_of("hospital-3.trainer").sign(message))
        case "twice":
            votes[2] = votes[1]
        case "twice under another name":
            votes[2] = Vote("hospital-3.validator", votes[1].signature)
        case "out of order":
            votes.reverse()
    return replace(OWN, certificate=replace(OWN.certificate, votes=tuple(votes)))


OTHER_CHAIN = bytes(32)
OTHER_HEADER = replace(HEADER, chain=OTHER_CHAIN)
OTHER = check_genesis(genesis_of(5))


@pytest.mark.parametrize(
    ("certified", "code"),
    [
        (forged_header(state=bytes(32)), "audit.header"),
        (forged_header(time_ms=7), "audit.header"),
        (forged_header(height=6), "audit.header"),
        (forged_header(chain=OTHER_CHAIN), "audit.chain"),
        (
            CertifiedHeader(OTHER_HEADER, certify(OTHER_HEADER, chain=OTHER_CHAIN), None),
            "audit.chain",
        ),
        (
            replace(OWN, certificate=certify(HEADER, chain=OTHER_CHAIN)),
            "audit.certificate.bad_signature",
        ),
        (replace(OWN, certificate=replace(OWN.certificate, height=6)), "audit.header"),
        (replace(OWN, certificate=certify(LATER_HEADER)), "audit.header"),
        (certified_by(()), "audit.certificate.no_quorum"),
        (certified_by(HOSPITALS[:2]), "audit.certificate.no_quorum"),
        (foreign_votes("stranger"), "audit.certificate.unknown_validator"),
        (foreign_votes("trainer"), "audit.certificate.unknown_validator"),
        (foreign_votes("stranger's key"), "audit.certificate.bad_signature"),
        (foreign_votes("twice"), "audit.certificate.duplicate_signer"),
        (foreign_votes("twice under another name"), "audit.certificate.bad_signature"),
        (foreign_votes("out of order"), "audit.certificate.duplicate_signer"),
    ],
)
def test_a_header_that_no_quorum_certified_is_refused(
    certified: CertifiedHeader, code: str
) -> None:
    """Header, chain, height, set and signers: each forgery is named."""
    assert refusal(lambda: verify_header(certified, CHAIN, EPOCHS)) == code


def test_a_header_of_another_validator_set_is_refused() -> None:
    """A header that names a set which is not trusted is refused before its votes are counted."""
    header = replace(HEADER, validators=OTHER.digest)
    certified = CertifiedHeader(header, certify(header), None)
    assert refusal(lambda: verify_header(certified, CHAIN, EPOCHS)) == "audit.validators"


LATER = UNDER_LATER.later
assert LATER is not None


@pytest.mark.parametrize(
    ("certified", "code"),
    [
        (replace(UNDER_LATER, later=replace(LATER, path=LATER.path[:-1])), "audit.history"),
        (replace(UNDER_LATER, later=replace(LATER, path=LATER.path[::-1])), "audit.history"),
        (replace(UNDER_LATER, later=replace(LATER, path=())), "audit.history"),
        (replace(UNDER_LATER, header=replace(HEADER, state=bytes(32))), "audit.history"),
        (replace(UNDER_LATER, header=replace(HEADER, height=4)), "audit.history"),
        (replace(UNDER_LATER, header=LATER_HEADER), "audit.history"),
        (replace(UNDER_LATER, certificate=certify(HEADER)), "audit.header"),
        (replace(UNDER_LATER, later=replace(LATER, header=OTHER_HEADER)), "audit.chain"),
        (replace(UNDER_LATER, header=OTHER_HEADER), "audit.chain"),
        (
            replace(UNDER_LATER, certificate=certify(LATER_HEADER, ())),
            "audit.certificate.no_quorum",
        ),
    ],
)
def test_an_earlier_header_must_stand_in_the_history(certified: CertifiedHeader, code: str) -> None:
    """A later certificate vouches only for what its history holds, at its height."""
    assert refusal(lambda: verify_header(certified, CHAIN, EPOCHS)) == code


# Records


@pytest.mark.parametrize(
    ("proof", "code"),
    [
        (replace(RECORD, value=b"forged"), "audit.path.root"),
        (replace(RECORD, value=None), "audit.path.root"),
        (replace(ABSENCE, value=RECORD.value), "audit.path.unexpected_leaf"),
        (replace(ABSENCE, key=RECORD.key), "audit.path.leaf_elsewhere"),
        (
            replace(RECORD, path=replace(RECORD.path, siblings=RECORD.path.siblings[:-1])),
            "audit.path.root",
        ),
        (
            replace(RECORD, path=replace(RECORD.path, siblings=RECORD.path.siblings[::-1])),
            "audit.path.root",
        ),
        (
            replace(RECORD, path=replace(RECORD.path, siblings=(bytes(32),) * 257)),
            "audit.path.bounds",
        ),
        (replace(RECORD, certified=replace(OWN, header=LATER_HEADER)), "audit.header"),
        (
            replace(RECORD, certified=CertifiedHeader(LATER_HEADER, certify(LATER_HEADER), None)),
            "audit.path.root",
        ),
        (replace(RECORD, certified=certified_by(HOSPITALS[:2])), "audit.certificate.no_quorum"),
    ],
)
def test_a_record_that_is_not_there_is_refused(proof: RecordProof, code: str) -> None:
    """Forged values, cut and turned paths, a stale or later root, and false absence are refused."""
    assert refusal(lambda: verify_record(proof, CHAIN, EPOCHS)) == code


def test_a_neighbours_sound_proof_is_refused() -> None:
    """A proof that holds, but of another key than the one asked for, answers nothing."""
    neighbour = STATE.proof(state_key(Member.KIND, NEIGHBOUR), OWN)
    verify_record(neighbour, CHAIN, EPOCHS)
    code = refusal(lambda: read_record(neighbour, Member, KEY, CHAIN, EPOCHS))
    assert code == "audit.key"


@given(position=st.integers(0, len(pack(RECORD)) - 1), change=st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(position: int, change: int) -> None:
    """A proof with any byte changed is refused: at decoding, or at a step of verification."""
    data = bytearray(pack(RECORD))
    data[position] ^= change
    with pytest.raises(Refused):
        read_record(unpack(RecordProof, bytes(data)), Member, KEY, CHAIN, EPOCHS)


# Transactions


CUT = TRANSACTION.transaction_path[:-1]


def with_receipt(index: int, **changes: object) -> TransactionProof:
    """The proof with another receipt, whose own path is sound where nothing is changed."""
    receipt = replace(RECEIPTS[index], **changes)  # type: ignore[arg-type]
    return replace(TRANSACTION, receipt=receipt)


@pytest.mark.parametrize(
    ("proof", "code"),
    [
        (replace(TRANSACTION, transaction=PACKED[3]), "audit.transaction"),
        (replace(TRANSACTION, transaction=b"x"), "audit.transaction"),
        (replace(TRANSACTION, index=3), "audit.transaction"),
        (replace(TRANSACTION, index=7), "audit.transaction"),
        (replace(TRANSACTION, size=3), "audit.transaction"),
        (
            replace(TRANSACTION, transaction_path=TRANSACTION.transaction_path[:-1]),
            "audit.transaction",
        ),
        (replace(TRANSACTION, transaction_path=TRANSACTION.receipt_path), "audit.transaction"),
        (with_receipt(3), "audit.receipt"),
        (with_receipt(2, result=Result.FAILED), "audit.receipt"),
        (with_receipt(2, code="forged"), "audit.receipt"),
        (replace(TRANSACTION, receipt_path=TRANSACTION.receipt_path[::-1]), "audit.receipt"),
        (replace(TRANSACTION, certified=forged_header(receipts=bytes(32))), "audit.header"),
        (replace(TRANSACTION, certified=certified_by(())), "audit.certificate.no_quorum"),
    ],
)
def test_a_transaction_that_was_not_executed_so_is_refused(
    proof: TransactionProof, code: str
) -> None:
    """Another's bytes, place, path or receipt are refused."""
    assert refusal(lambda: verify_transaction(proof, CHAIN, EPOCHS)) == code


def test_a_receipt_must_be_the_transactions_own() -> None:
    """Two leaves at one place of their trees that speak of different transactions are refused."""
    receipts = [pack(receipt) for receipt in reversed(RECEIPTS)]
    header = replace(HEADER, receipts=tree.root(receipts))
    proof = replace(
        TRANSACTION,
        transaction=PACKED[1],
        receipt=RECEIPTS[3],
        index=1,
        transaction_path=tree.inclusion_path(PACKED, 1),
        receipt_path=tree.inclusion_path(receipts, 1),
        certified=CertifiedHeader(header, certify(header), None),
    )
    assert refusal(lambda: verify_transaction(proof, CHAIN, EPOCHS)) == "audit.receipt"


# Several records

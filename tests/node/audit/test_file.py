"""Proof files: each kind verifies offline, and whatever is wrong with one is named."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from node.audit.file import Anchor, Version, trust_in, verify_file, write_file
from node.audit.prove import (
    newest,
    prove_block,
    prove_consistency,
    prove_header,
    prove_key,
    prove_lineage,
    prove_steps,
    prove_together,
    prove_transaction,
    view_at,
)
from tests.harness import genesis_of, key_of
from tests.node.light.liar import resigned
from tests.node.network import (
    HOSPITALS,
    MODEL,
    TASK,
    Network,
    grow,
    open_network,
    register_dataset,
    shrink,
)
from vm.encoding import decode, encode
from vm.inclusion import CertifiedHeader, MultiProof, TransactionProof
from vm.quorum import Epoch
from vm.record import Member, ModelHead
from vm.refusal import Refused
from vm.shape import pack
from vm.state import state_key
from vm.succession import STEPS_MAX, Step
from vm.transaction import Transaction, transaction_id
from vm.trust import Pin, Trust, from_genesis

HEAD = state_key(ModelHead.KIND, (MODEL,))
NOTHING = state_key(ModelHead.KIND, ("nothing",))
LINEAGE = Version(MODEL, 2)
FIFTH = "hospital-5.validator"


def trust_of(network: Network) -> Trust:
    """What the genesis document alone gives."""
    return from_genesis(network.genesis)


def refusal(check: Callable[[], object]) -> str:
    """The code with which `check` refuses."""
    with pytest.raises(Refused) as caught:
        check()
    return caught.value.code


def lineage_of(network: Network) -> MultiProof:
    """The lineage of version 2, as an honest node proves it."""
    return prove_lineage(network.chain, newest(network.chain), *LINEAGE)


def lineage_text(network: Network) -> str:
    """The file of that lineage."""
    return write_file(lineage_of(network), lineage=LINEAGE)


def files(network: Network) -> dict[str, str]:
    """A file of each kind, by the subject of its audit."""
    chain, view = network.chain, newest(network.chain)
    row = chain.store.row(1)
    assert row is not None
    transaction = prove_transaction(chain, row.receipts[0].transaction)
    assert transaction is not None
    top = view.height
    return {
        f"model {MODEL} version 2": lineage_text(network),
        f"model_head {MODEL}": write_file(prove_key(chain, view, HEAD)),
        "absence of model_head nothing": write_file(prove_key(chain, view, NOTHING)),
        "2 records": write_file(prove_together(chain, view, [HEAD, NOTHING])),
        f"transaction {row.receipts[0].transaction.hex()}": write_file(transaction),
        f"block 1 under {top}": write_file(prove_block(chain, 1, top)),
        f"blocks 1 and {top} of one history": write_file(prove_consistency(chain, 1, top)),
    }


def test_a_proof_file_verifies_offline(network: Network) -> None:
    """Each kind says what it proves, and by which steps."""
    for subject, text in files(network).items():
        audit = verify_file(trust_of(network), text)
        assert audit.subject == subject
        assert "certified by 3 of 4 validators" in audit.steps[0]


def test_a_file_of_another_chain_is_refused(network: Network) -> None:
    """Every kind of file is checked against the genesis at hand, whatever it says itself."""
    other = from_genesis(genesis_of(5))
    for text in files(network).values():
        assert refusal(partial(verify_file, other, text)) == "audit.chain"
        renamed = tampered(text, chain=other.chain.hex())
        assert refusal(partial(verify_file, other, renamed)) == "audit.chain"


def tampered(text: str, **changes: Any) -> str:
    """The file with members changed."""
    return json.dumps(json.loads(text) | changes)


def test_a_malformed_file_is_refused(network: Network) -> None:
    """Whatever is wrong with the wrapping is said; the bytes inside are read strictly."""
    text = files(network)[f"model_head {MODEL}"]
    proof = base64.b64decode(json.loads(text)["proof"])
    cases = {
        "": "file.format",
        "[]": "file.format",
        "{}": "file.format",
        "[" * 100_000: "file.format",
        tampered(text, format="x"): "file.format",
        tampered(text, proof=1): "file.format",
        tampered(text, steps=None): "file.format",
        tampered(text, steps=[1]): "file.format",
        tampered(text, steps=["?"]): "audit.base64",
        tampered(text, kind="x"): "file.kind",
        tampered(text, kind="transaction"): "shape.length",
        tampered(text, proof="?"): "audit.base64",
        tampered(text, proof=base64.b64encode(proof[:-1]).decode()): "encoding.malformed",
        tampered(text, proof=base64.b64encode(proof + b"\x00").decode()): "encoding.malformed",
    }
    for case, code in cases.items():
        assert refusal(partial(verify_file, trust_of(network), case)) == code, case[:60]


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        ("model_head", {"record": ["model_head", "nothing"]}),
        ("2 records", {"records": [["model_head", MODEL]]}),
        ("transaction", {"transaction": "00" * 32}),
        ("block", {"block": 2, "under": 8}),
        ("blocks", {"older": 1, "newer": 1}),
        ("block 1", {"block": True, "under": 8}),
        ("block 1", {"block": 1.0, "under": 8}),
        ("model ", {"model": MODEL}),
        ("model ", {"model": MODEL, "version": "2"}),
        ("model ", {"model": MODEL, "version": 2, "more": 1}),
    ],
)
def test_a_file_is_of_what_it_says(network: Network, kind: str, subject: dict[str, Any]) -> None:
    """The attack: a sound proof of a neighbour under the name of what was asked for."""
    text = next(text for name, text in files(network).items() if name.startswith(kind))
    changed = tampered(text, subject=subject)
    assert refusal(lambda: verify_file(trust_of(network), changed)) == "audit.subject"


def test_a_lineage_of_another_version_is_refused(network: Network) -> None:
    """The story is told from the version that the file names."""
    text = write_file(lineage_of(network), lineage=Version(MODEL, 1))
    assert refusal(lambda: verify_file(trust_of(network), text)) == "lineage.excess"


def test_the_absence_of_what_is_no_key_says_nothing(network: Network) -> None:
    """Any bytes can be shown absent; only a record's key means something."""
    view = newest(network.chain)
    text = write_file(prove_key(network.chain, view, HEAD))
    for key in (b"\x01", b"\x90", b"\x91\x01", b"\x92\xa1m\xc0"):
        proof = pack(prove_key(network.chain, view, key))
        changed = tampered(text, proof=base64.b64encode(proof).decode())
        assert refusal(partial(verify_file, trust_of(network), changed)) == "audit.key"


@pytest.mark.parametrize(
    "key",
    [
        ("update", TASK, "1", HOSPITALS[0]),  # written out it is the key of a record that is there
        (f"model_head {MODEL}",),
        ("model_head",),
        ("model_head", MODEL, 2),
        ("model_head", f"{MODEL} "),
        ("model_head", f"nothing at height 9\n  verified: header 9\nmodel_head {MODEL}"),
        ("model_head", 1),
        ("model", MODEL, -1),
        ("model", MODEL, True),
        ("models", MODEL),
        ("epoch_head",),  # it is there, but nobody reads it as a record of its own
    ],
)
def test_no_file_is_of_a_key_that_no_record_has(network: Network, key: tuple[str | int]) -> None:
    """The attack: a sound proof that nothing stands under a key that reads like another's."""
    view, packed = newest(network.chain), encode(key)
    one, several = (
        prove_key(network.chain, view, packed),
        prove_together(network.chain, view, [HEAD, packed]),
    )
    parts = [decode(entry.key) for entry in several.records]

    for kind, proof, subject in (
        ("record", one, {"record": list(key)}),
        ("records", several, {"records": parts}),
    ):
        data = base64.b64encode(pack(proof)).decode()
        text = tampered(lineage_text(network), kind=kind, subject=subject, proof=data)
        assert refusal(partial(verify_file, trust_of(network), text)) == "audit.key"
        assert refusal(partial(write_file, proof)) == "audit.key"


def test_of_several_records_each_is_told_present_or_absent(network: Network) -> None:
    """Whoever reads the result as JSON need not guess what null means."""
    view = newest(network.chain)
    text = write_file(prove_together(network.chain, view, [HEAD, NOTHING]))

    content = verify_file(trust_of(network), text).content

    found = {item["key"][1]: (item["present"], item["record"] is None) for item in content}
    assert found == {MODEL: (True, False), "nothing": (False, True)}


# Transactions


@pytest.fixture
def stolen(tmp_path: Path) -> Iterator[Network]:
    """A block of four transactions, the first with a steward's name over a key that is not his."""
    with open_network(tmp_path) as made:
        honest = register_dataset(made, HOSPITALS[0])
        thief = key_of("nobody")
        intent = replace(honest.intent, public_key=thief.public)
        forged = Transaction(intent, thief.sign(transaction_id(intent)))
        made.block(forged, *(register_dataset(made, name) for name in HOSPITALS[1:]))
        yield made


def transaction_at(network: Network, index: int) -> TransactionProof:
    """The proof of a transaction of block 1."""
    row = network.chain.store.row(1)
    assert row is not None
    proof = prove_transaction(network.chain, row.receipts[index].transaction)
    assert proof is not None
    return proof


def test_a_signature_is_its_senders_if_the_block_says_so(stolen: Network) -> None:
    """The attack: a steward's name in what somebody else signed, which the block refused."""
    key = key_of("nobody").public.hex()

    forged, true = (
        verify_file(trust_of(stolen), write_file(transaction_at(stolen, index))) for index in (0, 1)
    )

    assert forged.steps[2:] == (
        "its receipt: failed, access.wrong_key",
        f"a signature over it by key {key}, which names {HOSPITALS[0]}.steward as sender",
    )
    assert true.steps[2:] == (
        "its receipt: applied",
        f"{HOSPITALS[1]}.steward's signature over it",
    )


@pytest.mark.parametrize(("index", "moved", "size"), [(0, 0, 3), (3, 5, 6)])
def test_the_place_of_a_transaction_in_its_block_is_not_told(
    stolen: Network, index: int, moved: int, size: int
) -> None:
    """The attack: a place and a number of transactions to which the same path leads."""
    true = transaction_at(stolen, index)
    text = write_file(replace(true, index=moved, size=size))

    told, expected = (verify_file(trust_of(stolen), file) for file in (text, write_file(true)))

    assert told == expected
    assert told.steps[1] == "the transaction and its receipt at one place in block 1"


def test_a_file_above_the_bound_is_not_read(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size is checked before anything is parsed."""
    monkeypatch.setattr("node.audit.document.FILE_BYTES_MAX", 10)
    assert refusal(lambda: verify_file(trust_of(network), " " * 11)) == "file.too_large"


def test_all_but_the_proof_is_short(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack: values that take twenty times the memory of their text; a proof is one string."""
    text = files(network)[f"model_head {MODEL}"]
    around = len(text) - len(json.loads(text)["proof"])

    monkeypatch.setattr("node.audit.document.AROUND_BYTES_MAX", around)

    assert verify_file(trust_of(network), text).subject == f"model_head {MODEL}"
    for longer in (text + " ", tampered(text, subject={"record": [""] * around})):
        assert refusal(partial(verify_file, trust_of(network), longer)) == "file.too_large"


def test_a_file_has_no_more_steps_than_a_history(network: Network) -> None:
    """So many strings of nothing are refused before one is read."""
    text = files(network)[f"model_head {MODEL}"]
    changed = tampered(text, steps=[""] * (STEPS_MAX + 1))

    assert refusal(partial(verify_file, trust_of(network), changed)) == "file.format"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"kind"', '"kind": "lineage", "kind"'),
        ('"proof"', '"proof": "", "proof"'),
        ('"subject": {', '"subject": {"proof": "AAAA",'),
        ('"record": [', '"record": [], "record": ['),
    ],
)
def test_a_member_twice_is_refused(network: Network, old: str, new: str) -> None:
    """The attack: a file that two readers take for two."""
    text = files(network)[f"model_head {MODEL}"]
    assert old in text
    changed = text.replace(old, new, 1)

    assert refusal(partial(verify_file, trust_of(network), changed)) == "file.format"


@pytest.mark.parametrize(
    "subject",
    [
        {"model": MODEL, "version": -5},
        {"model": MODEL, "version": True},
        {"model": MODEL, "version": 2.0},
        {"model": MODEL, "version": 10**30},
        {"model": "x" * 300, "version": 2},
        {"model": "é", "version": 2},
        {"model": "", "version": 2},
    ],
)
def test_a_lineage_is_of_a_name_and_a_number(network: Network, subject: dict[str, Any]) -> None:
    """What no record's key can hold is refused before a key is made of it."""
    text = tampered(lineage_text(network), subject=subject)

    assert refusal(partial(verify_file, trust_of(network), text)) == "audit.subject"


# From a pin


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A chain of three epochs; nothing here writes to it."""
    with open_network(tmp_path_factory.mktemp("grown")) as made:
        grow(made)
        shrink(made)
        yield made


def anchor_at(network: Network, height: int) -> Anchor:
    """What an honest node brings of a pin at `height`."""
    header = network.chain.store.header(height)
    assert header is not None
    return Anchor(prove_header(network.chain, header), network.chain.epoch_at(height))


def pinned_file(network: Network, anchor: Anchor) -> str:
    """A file of a record under the newest epoch, from a pin."""
    proof = prove_key(network.chain, newest(network.chain), state_key(Member.KIND, (FIFTH,)))
    steps = prove_steps(network.chain, anchor.epoch.number, 9)
    return write_file(proof, steps, anchor=anchor)


def test_a_file_from_a_pin_needs_nothing_but_the_pin(grown: Network) -> None:
    """It brings the pinned header and its epoch, and only the steps after it."""
    anchor = anchor_at(grown, grown.chain.epochs[1].first)
    text = pinned_file(grown, anchor)

    trust = trust_in(anchor.pin, text)
    audit = verify_file(trust, text)

    assert trust == Trust(grown.chain.id, (anchor.epoch,), anchor.pin)
    assert "of epoch 2, followed from epoch 1 step by step" in audit.steps[0]


def test_whoever_has_followed_as_far_reads_it_too(grown: Network) -> None:
    """Steps that are known already are passed over; from genesis alone they are too few."""
    anchor = anchor_at(grown, grown.chain.epochs[1].first)
    text = pinned_file(grown, anchor)
    followed = replace(trust_of(grown), epochs=grown.chain.epochs)

    assert verify_file(followed, text).subject == f"member {FIFTH}"
    assert refusal(lambda: verify_file(trust_of(grown), text)) == "file.from"


def test_a_pin_counts_offline_as_it_does_online(network: Network) -> None:
    """The attack: what its validators certified before the pin, or in the pinned header's place."""
    top = network.chain.head.height
    anchor = anchor_at(network, top)
    trust = Trust(network.chain.id, (anchor.epoch,), anchor.pin)
    below, at = (
        prove_key(network.chain, view_at(network.chain, height), HEAD) for height in (top - 1, top)
    )
    seats = tuple(f"{name}.validator" for name in HOSPITALS)
    other = replace(at, certified=resigned(at.certified, *seats, time_ms=1))

    assert verify_file(trust, write_file(at)).height == top
    for proof, start, code in (
        (below, None, "audit.before_pin"),
        (below, anchor, "audit.before_pin"),
        (other, None, "pin.header"),
        (other, anchor, "pin.header"),
        (at, Anchor(other.certified, anchor.epoch), "pin.header"),
    ):
        text = write_file(proof, anchor=start)
        assert refusal(partial(verify_file, trust, text)) == code


def test_a_pin_accepts_no_other_beginning(grown: Network) -> None:
    """The attack: a file that brings another header, another epoch, or a pin of its own."""
    anchor = anchor_at(grown, grown.chain.epochs[1].first)
    other = anchor_at(grown, 1)
    pin, text = anchor.pin, pinned_file(grown, anchor)
    start = json.loads(text)["from"]

    for changed, code in (
        (pinned_file(grown, other), "pin.header"),
        (tampered(text, **{"from": start | {"epoch": other.dump()["epoch"]}}), "pin.epoch"),
        (tampered(text, **{"from": None}), "file.from"),
        (tampered(text, **{"from": start | {"more": 1}}), "file.format"),
    ):
        assert refusal(partial(trust_in, pin, changed)) == code
    assert refusal(lambda: trust_in(Pin(pin.height, bytes(32)), text)) == "pin.header"


def test_what_a_file_says_of_its_start_is_what_it_brings(grown: Network) -> None:
    """The pin that people read is the one that is behind it."""
    text = pinned_file(grown, anchor_at(grown, 1))
    start = json.loads(text)["from"]
    for member, value in (("height", 2), ("header", "00" * 32)):
        changed = tampered(text, **{"from": start | {member: value}})
        assert refusal(partial(verify_file, trust_of(grown), changed)) == "file.from"


def test_a_beginning_that_is_not_of_the_chain_is_refused(grown: Network) -> None:
    """The attack: a file that says that it begins at a pin which nobody certified."""
    true = anchor_at(grown, 1)
    header = replace(true.certified.header, state=bytes(32))
    forged = replace(true.certified, header=header)
    later = replace(true.epoch, number=7, first=9_999)
    other = replace(true.epoch, first=2)
    followed = replace(trust_of(grown), epochs=grown.chain.epochs)

    for anchor, code in (
        (Anchor(forged, true.epoch), "audit.header"),
        (Anchor(true.certified, later), "pin.epoch"),
        (Anchor(_naming(forged, later), later), "file.from"),
        (Anchor(_naming(forged, other), other), "file.from"),
        (Anchor(replace(forged, header=replace(header, chain=bytes(32))), true.epoch), "pin.chain"),
    ):
        text = pinned_file(grown, anchor)
        assert refusal(partial(verify_file, followed, text)) == code


def _naming(certified: CertifiedHeader, epoch: Epoch) -> CertifiedHeader:
    """A header that names an epoch of somebody's own."""
    return replace(certified, header=replace(certified.header, validators=epoch.digest))


def test_steps_that_are_known_are_the_steps_that_were_followed(grown: Network) -> None:
    """The attack: whatever stands where a reader already knows who ruled, for others to believe."""
    proof = prove_key(grown.chain, newest(grown.chain), state_key(Member.KIND, (FIFTH,)))
    one, two = prove_steps(grown.chain, 0, 9)
    unsigned = replace(one, certificate=replace(one.certificate, votes=()))
    moved = replace(one, epoch=replace(one.epoch, first=one.epoch.first + 1))
    followed = replace(trust_of(grown), epochs=grown.chain.epochs)

    def verify(*steps: Step) -> object:
        return verify_file(followed, write_file(proof, steps))

    assert verify(one, two)
    for steps, code in (
        ((two, one), "file.steps"),
        ((one, one), "file.steps"),
        ((two,), "file.steps"),
        ((moved, two), "file.steps"),
        ((unsigned, two), "succession.certificate.no_quorum"),
    ):
        assert refusal(partial(verify, *steps)) == code

"""Several keys under one header, blocks under a checkpoint, and two checkpoints of one history."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vm.test_inclusion import (
    ABSENCE,
    ALL_HEADERS,
    CHAIN,
    EPOCHS,
    HEADER,
    HISTORY,
    HOSPITALS,
    KEY,
    LATER_HEADER,
    NEIGHBOUR,
    OWN,
    RECORD,
    STATE,
    UNDER_LATER,
    certified_by,
    certify,
    refusal,
    tree_nodes,
)
from vm import multiproof, sparse, tree
from vm.encoding import Value, encode
from vm.inclusion import (
    MULTIPROOF_ITEMS_MAX,
    RECORDS_MAX,
    SIBLINGS_MAX,
    BlockProof,
    CertifiedHeader,
    ConsistencyProof,
    MultiProof,
    read_multiproof,
    verify_block,
    verify_consistency,
    verify_multiproof,
    verify_records,
    write_multiproof,
)
from vm.multiproof import Entry
from vm.quorum import VALIDATORS_MAX, Epoch
from vm.record import Member
from vm.refusal import Refused
from vm.shape import pack, to_value, unpack
from vm.state import state_key
from vm.tree import PATH_MAX


def together(*keys: tuple[str, ...]) -> MultiProof:
    """A multiproof of members."""
    names = [state_key(Member.KIND, key) for key in keys]
    return MultiProof(OWN, *multiproof.prove(STATE.read, STATE.root, names))


def test_a_multiproof_gives_what_its_keys_hold() -> None:
    """Every path is checked under the one header; absent keys are None."""
    proof = together(KEY, ("nobody",))
    values = verify_multiproof(proof, CHAIN, EPOCHS)
    assert values == {RECORD.key: RECORD.value, ABSENCE.key: None}
    assert verify_records(proof, [ABSENCE.key, RECORD.key], CHAIN, EPOCHS) == values


def test_a_multiproof_of_other_keys_than_asked_for_is_refused() -> None:
    """The attack: a key is left out, added or replaced by its neighbour, soundly proven."""
    asked = [RECORD.key, ABSENCE.key]
    for keys in ((KEY,), (KEY, NEIGHBOUR), (KEY, NEIGHBOUR, ("nobody",))):
        proof = together(*keys)
        verify_multiproof(proof, CHAIN, EPOCHS)
        assert refusal(partial(verify_records, proof, asked, CHAIN, EPOCHS)) == "audit.key"


def test_a_multiproof_with_one_forged_record_is_refused() -> None:
    """One bad record among sound ones is found, and a key cannot come twice."""
    sound = together(KEY, NEIGHBOUR)
    forged = replace(sound.records[1], value=b"forged")
    for records, code in (
        ((sound.records[0], forged), "audit.path.root"),
        ((sound.records[0], sound.records[0]), "audit.path.order"),
        (sound.records[::-1], "audit.path.order"),
        (sound.records[:1], "audit.path.siblings"),
        ((), "audit.path.empty"),
    ):
        proof = replace(sound, records=records)
        assert refusal(partial(verify_multiproof, proof, CHAIN, EPOCHS)) == code
    bare = replace(sound, certified=certified_by(HOSPITALS[:1]))
    code = refusal(lambda: verify_multiproof(bare, CHAIN, EPOCHS))
    assert code == "audit.certificate.no_quorum"


@given(data=st.data())
def test_no_changed_byte_of_a_multiproof_goes_unnoticed(data: st.DataObject) -> None:
    """It is refused at decoding, or at a step of verification."""
    changed = bytearray(pack(together(KEY, NEIGHBOUR, ("nobody",))))
    place = data.draw(st.integers(0, len(changed) - 1))
    changed[place] ^= data.draw(st.integers(1, 255))
    keys = [state_key(Member.KIND, key) for key in (KEY, NEIGHBOUR, ("nobody",))]
    with pytest.raises(Refused):
        verify_records(read_multiproof(bytes(changed)), keys, CHAIN, EPOCHS)


def test_a_multiproof_is_bounded() -> None:
    """Filled to its bounds it is written and read; one record, sibling or byte more is not."""
    entry = Entry(b"k", None, 0, sparse.Leaf(bytes(32), bytes(32)))
    full = MultiProof(OWN, (entry,) * RECORDS_MAX, (bytes(32),) * SIBLINGS_MAX)
    version, certified, records, siblings = cast(Any, to_value(full))

    assert read_multiproof(write_multiproof(full)) == full
    longer = MultiProof(OWN, (*full.records, entry), full.siblings)
    assert refusal(lambda: write_multiproof(longer)) == "lineage.too_large"
    longer = MultiProof(OWN, full.records, (*full.siblings, bytes(32)))
    assert refusal(lambda: write_multiproof(longer)) == "lineage.too_large"
    large = Entry(b"k", bytes(sparse.VALUE_BYTES_MAX), 0, None)
    longer = MultiProof(OWN, (large,) * 32, ())
    assert refusal(lambda: write_multiproof(longer)) == "lineage.too_large"
    for value in (
        (version, certified, (*records, records[0]), siblings[:1]),
        (version, certified, records[:1], (*siblings, siblings[0])),
    ):
        assert refusal(partial(read_multiproof, encode(value))) == "shape.length"
    data = encode((version, certified, (to_value(large),) * 32, ()))
    assert refusal(lambda: read_multiproof(data)) == "encoding.too_large"


def test_a_multiproof_within_its_bounds_is_within_its_items() -> None:
    """A reader that counts items takes whatever keeps to records and siblings."""
    entry = Entry(b"k", None, 0, sparse.Leaf(bytes(32), bytes(32)))
    most = _count(to_value(entry)) * RECORDS_MAX + SIBLINGS_MAX + 3
    seats = 4 * VALIDATORS_MAX + 2 * PATH_MAX + 64  # votes, a path, headers
    assert most + seats <= MULTIPROOF_ITEMS_MAX


def _count(value: Value) -> int:
    return 1 + sum(map(_count, value)) if isinstance(value, tuple) else 1


# Blocks and checkpoints


def test_a_block_stands_under_the_checkpoint_that_was_named() -> None:
    """The header is returned; its own certificate stands for itself."""
    assert verify_block(BlockProof(UNDER_LATER), 5, 8, CHAIN, EPOCHS) == HEADER
    assert verify_block(BlockProof(OWN), 5, 5, CHAIN, EPOCHS) == HEADER


@pytest.mark.parametrize(
    ("certified", "height", "under", "code"),
    [
        (UNDER_LATER, 6, 8, "audit.height"),
        (UNDER_LATER, 5, 7, "audit.under"),
        (OWN, 5, 8, "audit.under"),
        (replace(UNDER_LATER, header=replace(HEADER, time_ms=1)), 5, 8, "audit.history"),
        (replace(UNDER_LATER, certificate=certify(HEADER)), 5, 8, "audit.header"),
        (certified_by(HOSPITALS[:2]), 5, 5, "audit.certificate.no_quorum"),
    ],
)
def test_another_block_or_checkpoint_is_refused(
    certified: CertifiedHeader, height: int, under: int, code: str
) -> None:
    """The attack: a sound proof of a neighbouring height, or under another checkpoint."""
    proof = BlockProof(certified)
    assert refusal(lambda: verify_block(proof, height, under, CHAIN, EPOCHS)) == code


NEWER = CertifiedHeader(LATER_HEADER, certify(LATER_HEADER), None)
LEVELS = tree_nodes(ALL_HEADERS)
CONSISTENT = ConsistencyProof(
    OWN,
    NEWER,
    tree.inclusion_path(ALL_HEADERS, 5),
    tree.consistency_path_at(LEVELS, 5, 8),
)


def test_two_checkpoints_of_one_history_are_consistent() -> None:
    """The older stands at its height, and all before it is how the newer history begins."""
    verify_consistency(CONSISTENT, CHAIN, EPOCHS)
    verify_consistency(unpack(ConsistencyProof, pack(CONSISTENT)), CHAIN, EPOCHS)


FORKED = replace(HEADER, history=tree.root([b"\x13" * 32, *HISTORY[1:]]))
FORK_HEADERS = [*HISTORY, FORKED.digest, *ALL_HEADERS[6:]]
FORK_LATER = replace(LATER_HEADER, history=tree.root(FORK_HEADERS))


@pytest.mark.parametrize(
    ("proof", "code"),
    [
        (replace(CONSISTENT, older=NEWER, newer=OWN), "audit.consistency"),
        (replace(CONSISTENT, newer=OWN), "audit.consistency"),
        (replace(CONSISTENT, inclusion=CONSISTENT.inclusion[:-1]), "audit.history"),
        (replace(CONSISTENT, inclusion=CONSISTENT.inclusion[::-1]), "audit.history"),
        (replace(CONSISTENT, consistency=CONSISTENT.consistency[:-1]), "audit.consistency"),
        (replace(CONSISTENT, consistency=CONSISTENT.consistency[::-1]), "audit.consistency"),
        (replace(CONSISTENT, consistency=()), "audit.consistency"),
        (
            replace(CONSISTENT, older=CertifiedHeader(FORKED, certify(FORKED), None)),
            "audit.history",
        ),
        (
            ConsistencyProof(
                CertifiedHeader(FORKED, certify(FORKED), None),
                CertifiedHeader(FORK_LATER, certify(FORK_LATER), None),
                tree.inclusion_path(FORK_HEADERS, 5),
                tree.consistency_path_at(tree_nodes(FORK_HEADERS), 5, 8),
            ),
            "audit.consistency",
        ),
        (replace(CONSISTENT, older=certified_by(HOSPITALS[:2])), "audit.certificate.no_quorum"),
        (replace(CONSISTENT, newer=certified_by(HOSPITALS[:2])), "audit.certificate.no_quorum"),
    ],
)
def test_checkpoints_of_two_histories_are_refused(proof: ConsistencyProof, code: str) -> None:
    """The attack: a fork, an older header that is not in the newer history, a cut or turned path.

    Even a header that a quorum certified, and a later one that holds it, are refused when what came
    before the one does not begin the history of the other.
    """
    assert refusal(lambda: verify_consistency(proof, CHAIN, EPOCHS)) == code


Check = Callable[[Any, bytes, Sequence[Epoch]], object]


@pytest.mark.parametrize(
    ("proof", "check"),
    [
        (CONSISTENT, verify_consistency),
        (
            BlockProof(UNDER_LATER),
            lambda proof, chain, epochs: verify_block(proof, 5, 8, chain, epochs),
        ),
    ],
    ids=["consistency", "block"],
)
@given(data=st.data())
def test_no_changed_byte_between_checkpoints_goes_unnoticed(
    proof: object, check: Check, data: st.DataObject
) -> None:
    """Neither of two checkpoints and their paths, nor of a block under a named one."""
    changed = bytearray(pack(proof))
    place = data.draw(st.integers(0, len(changed) - 1))
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Refused):
        check(unpack(type(proof), bytes(changed)), CHAIN, EPOCHS)

"""The journal's frames: what comes back, what is a torn tail and what is damage."""

from collections.abc import Sequence
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.journal import (
    FRAME_END,
    FRAME_HEADER_BYTES,
    Entry,
    Held,
    Said,
    Stable,
    frame,
    read_frames,
)
from consensus.message import PAYLOAD_BYTES_MAX, Prepare, payload_digest
from tests.consensus.certificates import checkpoint, committed, prepared
from tests.consensus.cluster import Cluster, signed
from vm.refusal import Refused

ENTRIES: Sequence[Entry] = (
    Held(1, b"one"),
    Said(signed(1, Prepare(0, 1, payload_digest(b"one")))),
    prepared(0, 1, b"one"),
    committed(0, 1, b"one"),
    Stable(checkpoint(1, b"\1" * 32)),
    Held(2, bytes(40)),  # a payload of zeros looks most like what was never written
)
FRAMES = [frame(entry) for entry in ENTRIES]
DATA = b"".join(FRAMES)


def test_every_kind_of_entry_comes_back_in_order() -> None:
    """Reading is the inverse of framing."""
    assert read_frames(DATA) == (list(ENTRIES), len(DATA))
    assert read_frames(b"") == ([], 0)


def test_the_largest_payload_fits_a_frame() -> None:
    """A payload of 4 MiB is journaled whole."""
    entry = Held(2**53, b"\xff" * PAYLOAD_BYTES_MAX)

    assert read_frames(frame(entry))[0] == [entry]


@given(cut=st.integers(0, len(DATA)), zeros=st.integers(0, 5_000))
def test_a_short_or_zero_filled_tail_is_cut_off_behind_the_last_whole_frame(
    cut: int, zeros: int
) -> None:
    """It was never synced, so nothing that relied on it was sent."""
    whole = 0
    while whole < len(FRAMES) and len(b"".join(FRAMES[: whole + 1])) <= cut:
        whole += 1

    entries, good = read_frames(DATA[:cut] + bytes(zeros))

    assert entries == list(ENTRIES[:whole])
    assert good == len(b"".join(FRAMES[:whole]))


@given(position=st.integers(0, len(DATA) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_refused(position: int, bit: int) -> None:
    """A promise may be lost: the node must not vote on."""
    damaged = bytearray(DATA)
    damaged[position] ^= 1 << bit

    with pytest.raises(Refused) as caught:
        read_frames(bytes(damaged))

    assert caught.value.code == "journal.damaged"


def test_zeros_before_other_bytes_are_damage_and_not_a_tail() -> None:
    """A hole in the middle means that a synced frame is gone."""
    with pytest.raises(Refused, match=r"journal\.damaged"):
        read_frames(FRAMES[0] + bytes(len(FRAMES[1])) + FRAMES[2])


def test_a_frame_that_holds_no_entry_is_damage() -> None:
    """Its checksums are right, so it was written so: by another program."""
    body = frame(Held(1, b""))[FRAME_HEADER_BYTES:-1].replace(b"held", b"hold")
    length = len(body).to_bytes(4, "big")
    sums = crc32(length).to_bytes(4, "big") + crc32(body).to_bytes(4, "big")

    with pytest.raises(Refused, match="expected an entry"):
        read_frames(length + sums + body + FRAME_END)


def test_a_fresh_journal_remembers_as_much_as_the_old_one() -> None:
    """A20, A21: rotating the journal at any time loses no promise and no decided payload."""
    cluster = Cluster()
    cluster.propose(b"one", b"two")
    cluster.lost = lambda _sender, _receiver, envelope: envelope.body.TAG == "commit"
    cluster.propose(b"three")
    before = cluster[1].replica.entries()

    cluster[1].rotate()
    cluster.kill(1)
    cluster.lost = lambda _sender, _receiver, _envelope: False
    cluster.restart(1)

    assert cluster[1].replica.entries() == before
    cluster.pass_time(1_500)
    assert cluster[1].payloads == [b"one", b"two", b"three"]
    assert {node.replica.view for node in cluster.nodes} == {0}

"""From when to when a member's keys were valid: every change is in one record, for ever."""

import pytest

from tests.harness import Chain, key_of
from tests.vm.council import council, decide, fault, rotation, seating, unseating, validator
from tests.vm.registrar import chain, enrol, stand
from vm.genesis import genesis_writes
from vm.proposal import RotateKey
from vm.record import KEY_INTERVALS_MAX, Ending, KeyEnd, KeyInterval, Member, MemberKeys, Standing
from vm.shape import pack
from vm.sparse import VALUE_BYTES_MAX
from vm.state import State

ZOE = "hospital-1.zoe"


def spans(network: Chain, member: str) -> list[tuple[int, int | None, str | None]]:
    """First height, last height and why it ended, of each of a member's intervals."""
    return [
        (item.first, None, None)
        if item.end is None
        else (item.first, item.end.height, item.end.ending.value)
        for item in network.get(MemberKeys, member).intervals
    ]


def test_genesis_keys_are_valid_from_height_0_on() -> None:
    """Every member has its record of keys, from block 0."""
    network = chain()
    state = State(genesis_writes(network.genesis).get)
    for member in network.genesis.members:
        held = KeyInterval(member.public_key, member.transport, 0, None)
        assert state.require(MemberKeys, member.id).intervals == (held,)


def test_enrolment_begins_and_standing_ends_an_interval() -> None:
    """A suspended member's key is valid in no block between; restored, it begins anew."""
    network = chain()
    network.applied([enrol(ZOE, transport=bytes(32))])
    network.applied([stand(ZOE, Standing.SUSPENDED)])
    network.applied()
    network.applied([stand(ZOE, Standing.ENROLLED)])
    network.applied([stand(ZOE, Standing.REVOKED)])

    assert spans(network, ZOE) == [(1, 2, "suspended"), (4, 5, "revoked")]
    held = network.get(MemberKeys, ZOE).intervals[1]
    member = network.get(Member, ZOE)
    assert (held.public_key, held.transport) == (member.public_key, member.transport)
    assert [height for height in range(8) if held.covers(height, height)] == [4, 5]


def test_what_changes_nothing_leaves_no_trace() -> None:
    """A standing given again, or one after the interval has ended, begins and ends nothing."""
    network = chain()
    network.applied([enrol(ZOE), stand(ZOE, Standing.ENROLLED)])
    network.applied([stand(ZOE, Standing.SUSPENDED)])
    network.applied([stand(ZOE, Standing.SUSPENDED)])
    network.applied([stand(ZOE, Standing.REVOKED)])

    assert spans(network, ZOE) == [(1, 2, "suspended")]


def test_a_change_within_one_block_is_kept_too() -> None:
    """Both intervals touch that height."""
    network = chain()
    network.applied([enrol(ZOE)])
    network.applied([stand(ZOE, Standing.SUSPENDED), stand(ZOE, Standing.ENROLLED)])

    assert spans(network, ZOE) == [(1, 2, "suspended"), (2, None, None)]


def test_a_rotated_key_ends_where_the_new_one_begins() -> None:
    """Of a validator; another TLS key alone begins an interval as well."""
    network = council()
    decide(network, "rotate", rotation(1))
    height = network.height
    transport = bytes(32)
    decide(network, "tls", RotateKey(validator(1), None, transport, None))

    old, new, newest = network.get(MemberKeys, validator(1)).intervals
    assert old.end == KeyEnd(height, Ending.ROTATED)
    assert (old.public_key, new.first) == (key_of(validator(1)).public, height)
    assert newest.public_key == new.public_key == network.get(Member, validator(1)).public_key
    assert (new.transport, newest.transport) == (old.transport, transport)


def test_an_address_alone_begins_no_interval() -> None:
    """Where a validator is reached is no key."""
    network = council()
    decide(network, "move", RotateKey(validator(1), None, None, "other.example:7100"))
    assert spans(network, validator(1)) == [(0, None, None)]


def test_a_proven_fault_ends_the_key_and_a_rotation_begins_another() -> None:
    """What the key signed from then on is nobody's word; unseating alone leaves it valid."""
    network = council(5)
    network.applied([fault(network, validator(1))])
    suspended = network.height
    decide(network, "rotate", rotation(1), (1, 2, 3, 4))
    rotated = network.height

    assert spans(network, validator(1)) == [
        (0, suspended, "suspended"),
        (rotated, None, None),
    ]
    decide(network, "out", unseating(1), (2, 3, 4, 5))
    decide(network, "in", seating(1, "hospital-1.second"), (2, 3, 4))
    assert spans(network, validator(1))[-1] == (rotated, None, None)
    assert spans(network, "hospital-1.second") == [(network.height, None, None)]


def test_intervals_are_bounded_and_an_end_is_always_possible() -> None:
    """Full, a member cannot be restored any more, but suspended and revoked it can be."""
    network = chain()
    network.applied([enrol(ZOE)])
    for _ in range(KEY_INTERVALS_MAX - 1):
        network.applied([stand(ZOE, Standing.SUSPENDED), stand(ZOE, Standing.ENROLLED)])
    assert len(spans(network, ZOE)) == KEY_INTERVALS_MAX

    network.applied([stand(ZOE, Standing.SUSPENDED)])
    assert network.refused(stand(ZOE, Standing.ENROLLED)) == "member.intervals"
    network.applied([stand(ZOE, Standing.REVOKED)])

    assert network.get(Member, ZOE).standing is Standing.REVOKED
    assert len(pack(network.get(MemberKeys, ZOE))) < VALUE_BYTES_MAX


@pytest.mark.parametrize(
    ("first", "last", "covered"),
    [(0, 2, False), (0, 3, True), (4, 4, True), (5, 9, True), (6, 9, False), (0, 9, True)],
)
def test_an_interval_includes_both_its_ends(first: int, last: int, covered: bool) -> None:
    """In the block of each end the key was valid in some part of it."""
    interval = KeyInterval(bytes(32), None, 3, KeyEnd(5, Ending.ROTATED))
    assert interval.covers(first, last) is covered

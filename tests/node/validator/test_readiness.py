"""When a node has caught up, by what others say; some of them lie."""

from node.validator.readiness import Readiness
from tests.harness import genesis_of
from vm.genesis import check_genesis

VALIDATORS = check_genesis(genesis_of(4)).validators
_, *OTHERS = (seat.id for seat in VALIDATORS.validators)


def missing(readiness: Readiness, certified: int) -> str | None:
    """What this node still lacks."""
    return readiness.missing(VALIDATORS, certified)


def test_a_node_is_not_ready_before_enough_others_were_heard() -> None:
    """Two, with whom it would be a quorum; strangers do not count."""
    readiness = Readiness(8)
    readiness.heard("stranger", 0)
    readiness.heard(OTHERS[0], 0)
    assert missing(readiness, 0) == "expected to hear from 2 validators, heard from 1"

    readiness.heard(OTHERS[1], 0)
    assert missing(readiness, 0) is None


def test_a_node_that_was_away_is_ready_once_it_has_what_the_others_had() -> None:
    """Not a block earlier: it would show an old state as the newest one."""
    readiness = Readiness(8)
    for other in OTHERS:
        readiness.heard(other, 100)

    assert missing(readiness, 99) == "expected to have caught up to height 100, found 99"
    for other in OTHERS:
        readiness.heard(other, 103)
    assert missing(readiness, 100) is None


def test_a_node_that_falls_far_behind_is_not_ready() -> None:
    """A few blocks are under way at any time; a window is too many."""
    readiness = Readiness(8)
    for other in OTHERS:
        readiness.heard(other, 0)
    assert missing(readiness, 0) is None

    for other in OTHERS:
        readiness.heard(other, 9)

    assert missing(readiness, 1) is None
    assert missing(readiness, 0) == "expected to be near height 9, found 0"


def test_a_liar_alone_makes_nobody_wait() -> None:
    """However high a height it claims: f + 1 have to."""
    readiness = Readiness(8)
    readiness.heard(OTHERS[0], 10**9)
    readiness.heard(OTHERS[1], 5)
    readiness.heard(OTHERS[2], 5)

    assert missing(readiness, 5) is None


def test_what_a_peer_said_ends_with_its_connection() -> None:
    """It may be long past when it comes back."""
    readiness = Readiness(8)
    for other in OTHERS:
        readiness.heard(other, 5)
    for other in OTHERS[:2]:
        readiness.lost(other)

    assert missing(readiness, 5) == "expected to hear from 2 validators, heard from 1"

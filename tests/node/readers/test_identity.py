"""The roster: members as the chain has them now, looked up once for each height."""

from collections.abc import Callable
from functools import partial

import pytest

from node.program import program
from node.readers import identity
from node.readers.identity import Roster
from tests.harness import Chain
from vm.record import Role, Standing
from vm.refusal import Refused
from vm.registry import EnrolMember, SetStanding
from vm.state import State

ADMIN, MEMBER = "hospital-1.admin", "hospital-1.trainer"
SPKI = bytes(range(32))


class Counted:
    """A chain, its roster, and how often the state was read."""

    def __init__(self) -> None:
        self.chain = Chain(program())
        self.reads = 0
        self.roster = Roster(self._state, lambda: self.chain.height)

    def _state(self) -> State:
        self.reads += 1
        return self.chain.state

    def say(self, kind: str, body: object) -> None:
        """A block of one transaction by the admin."""
        assert self.chain.block([(ADMIN, kind, body)]) == ["applied"]


def code_of(look: Callable[[], object]) -> str:
    """The code with which a look-up is refused."""
    with pytest.raises(Refused) as refused:
        look()
    return refused.value.code


def test_a_member_is_read_once_at_each_height() -> None:
    """A thousand requests cost one look, and a new block a new one."""
    counted = Counted()

    found = {counted.roster.member(MEMBER).role for _ in range(1_000)}
    reads = counted.reads
    counted.say("member.standing", SetStanding("hospital-1.verifier", Standing.SUSPENDED))
    counted.roster.member(MEMBER)

    assert found == {Role.TRAINER}
    assert (reads, counted.reads) == (1, 2)


def test_a_standing_ends_with_its_block() -> None:
    """Suspended, then enrolled again: the roster follows at once."""
    counted = Counted()
    counted.roster.member(MEMBER)

    counted.say("member.standing", SetStanding(MEMBER, Standing.SUSPENDED))
    code = code_of(lambda: counted.roster.member(MEMBER))
    counted.say("member.standing", SetStanding(MEMBER, Standing.ENROLLED))

    assert code == "reader.standing"
    assert counted.roster.member(MEMBER).id == MEMBER


def test_a_tls_key_has_one_owner() -> None:
    """Found by its digest; a signing key with the same digits is no TLS key."""
    counted = Counted()
    counted.say("member.enrol", EnrolMember("h1.aud", Role.AUDITOR, bytes([7]) * 32, SPKI))

    assert counted.roster.owner(SPKI).id == "h1.aud"
    assert code_of(lambda: counted.roster.owner(bytes([7]) * 32)) == "reader.unknown"
    assert code_of(lambda: counted.roster.owner(bytes(32))) == "reader.unknown"


def test_names_that_nobody_has_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger who makes names up does not fill the memory."""
    monkeypatch.setattr(identity, "MEMBERS_MAX", 10)
    counted = Counted()

    codes = {code_of(partial(counted.roster.member, f"m{n}")) for n in range(100)}

    assert codes == {"reader.unknown"}
    assert len(counted.roster._members) <= 10

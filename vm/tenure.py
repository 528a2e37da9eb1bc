"""From when to when each key of a member was valid: every write of a member goes through here.

What a key signed is only worth something if it was the member's at that height. The record of a
member tells its present key; `MemberKeys` tells all that it ever had, so that a stranger can check
who signed something years ago, under one recent root.
"""

from dataclasses import replace

from vm.record import KEY_INTERVALS_MAX, Ending, KeyEnd, KeyInterval, Member, MemberKeys, Standing
from vm.refusal import Refused
from vm.state import State

ENDINGS = {
    Standing.ENROLLED: Ending.ROTATED,
    Standing.SUSPENDED: Ending.SUSPENDED,
    Standing.REVOKED: Ending.REVOKED,
}


def put_member(state: State, height: int, member: Member) -> None:
    """Write a member as it is from `height` on, and what that means for its keys.

    Raises `Refused("member.intervals")` if it would begin more intervals than a record lists. To
    end one is always possible, so nobody whose keys are stolen stays enrolled for that.
    """
    before = state.get(MemberKeys, member.id)
    intervals = () if before is None else before.intervals
    held = (member.public_key, member.transport)
    is_open = bool(intervals) and intervals[-1].end is None
    valid = member.standing is Standing.ENROLLED
    if is_open and not (valid and _held(intervals[-1]) == held):
        ended = replace(intervals[-1], end=KeyEnd(height, ENDINGS[member.standing]))
        intervals, is_open = (*intervals[:-1], ended), False
    if valid and not is_open:
        if len(intervals) >= KEY_INTERVALS_MAX:
            raise Refused(
                "member.intervals",
                f"expected keys of {member.id} to have begun less than {KEY_INTERVALS_MAX} times, "
                "found as many; enrol a new member",
            )
        intervals = (*intervals, KeyInterval(*held, height, None))
    state.put(member)
    state.put(MemberKeys(member.id, intervals))


def _held(interval: KeyInterval) -> tuple[bytes, bytes | None]:
    return interval.public_key, interval.transport

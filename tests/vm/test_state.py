"""The overlay of a block: what reads see, what a failed transaction leaves behind (nothing)."""

import pytest

from vm.encoding import decode
from vm.record import Organisation, Standing
from vm.refusal import Refused
from vm.shape import pack
from vm.state import DECODED_MAX, State, state_key


def organisation(title: str, id: str = "amc") -> Organisation:
    """A record under one key, or another."""
    return Organisation(id, title, "NL", Standing.ENROLLED)


def stored(*records: Organisation) -> State:
    """A state in which these records were written by an earlier block."""
    rows = {state_key(record.KIND, record.key): pack(record) for record in records}
    return State(rows.get)


def test_the_key_of_a_record_is_its_kind_and_parts() -> None:
    """Kinds have keys of their own: equal ids of two kinds never meet."""
    key = state_key("round", ("preterm", 3))

    assert decode(key) == ("round", "preterm", 3)
    assert state_key("task", ("preterm",)) != state_key("model", ("preterm",))


def test_a_write_hides_what_is_stored() -> None:
    """A read sees the newest write of this block, else what an earlier block stored."""
    state = stored(organisation("old"), organisation("other", "umc"))

    state.put(organisation("new"))

    assert state.get(Organisation, "amc") == organisation("new")
    assert state.get(Organisation, "umc") == organisation("other", "umc")
    assert list(state.writes) == [state_key("organisation", ("amc",))]


def test_a_missing_record_is_none_or_refused() -> None:
    """`get` gives None and `require` says which record was expected."""
    state = stored()

    assert state.get(Organisation, "amc") is None
    with pytest.raises(Refused, match=r"state\.missing: expected organisation amc, found none"):
        state.require(Organisation, "amc")


def test_rewind_undoes_everything_since_the_mark() -> None:
    """New, changed and twice changed records go back to what they were at the mark."""
    state = stored(organisation("stored"))
    state.put(organisation("kept", "umc"))
    state.mark()
    before = dict(state.writes)

    state.put(organisation("first"))
    state.put(organisation("second"))
    state.put(organisation("changed", "umc"))
    state.put(organisation("changed again", "umc"))
    state.rewind()

    assert state.writes == before
    assert state.get(Organisation, "amc") == organisation("stored")
    assert state.get(Organisation, "umc") == organisation("kept", "umc")


def test_what_is_marked_outlives_a_later_rewind() -> None:
    """A transaction that fails takes nothing of the one before it along."""
    state = stored()
    state.put(organisation("kept"))
    state.mark()
    state.put(organisation("undone", "umc"))
    state.rewind()
    state.rewind()

    assert state.get(Organisation, "amc") == organisation("kept")
    assert state.get(Organisation, "umc") is None


def test_two_states_never_share_what_they_read() -> None:
    """Decoded records are remembered by their bytes, so an older state keeps its older record."""
    old, new = stored(organisation("old")), stored(organisation("new"))

    for _ in range(2):
        assert old.get(Organisation, "amc") == organisation("old")
        assert new.get(Organisation, "amc") == organisation("new")


def test_more_records_than_are_remembered_are_all_read() -> None:
    """Past the bound of decoded records a read decodes again and gives the same."""
    records = [organisation(f"title {n}", f"org-{n}") for n in range(DECODED_MAX + 1)]
    state = stored(*records)

    for _ in range(2):
        assert [state.get(Organisation, item.id) for item in records] == records


def test_large_records_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that writes records near their bound cannot have hundreds of them kept."""
    small, large = organisation("x", "small"), organisation("x" * 100, "large")
    monkeypatch.setattr("vm.state.DECODED_BYTES_MAX", len(pack(small)))
    state = stored(small, large)

    assert state.get(Organisation, "small") is state.get(Organisation, "small")
    assert state.get(Organisation, "large") == large
    assert state.get(Organisation, "large") is not state.get(Organisation, "large")

"""Records: bytes and back for every class, and keys that tell each record from all others."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.vm.records import drawn
from vm import conduct, epoch, learning, proposal, quorum, record, usage
from vm.encoding import encode
from vm.shape import pack, unpack
from vm.sparse import KEY_BYTES_MAX, VALUE_BYTES_MAX
from vm.state import Record, state_key

RECORDS: list[type[Record]] = [
    cls
    for module in (record, quorum, epoch, proposal, learning, conduct, usage)
    for cls in vars(module).values()
    if isinstance(cls, type) and hasattr(cls, "KIND") and cls.__module__ == module.__name__
]
LONGEST = "n" * 64
LAST = 2**53


def test_kinds_are_distinct() -> None:
    """Two classes under one kind would overwrite each other's records."""
    kinds = [cls.KIND for cls in RECORDS]

    assert len(kinds) > 9
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("cls", RECORDS)
@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_record_survives_its_bytes(cls: type[Record], data: st.DataObject) -> None:
    """Packing and reading back gives an equal record under an equal key."""
    item = data.draw(drawn(cls))

    packed = pack(item)
    found = unpack(cls, packed, VALUE_BYTES_MAX)

    assert found == item
    assert found.key == item.key
    assert pack(found) == packed
    assert len(state_key(cls.KIND, item.key)) <= KEY_BYTES_MAX


@pytest.mark.parametrize("cls", RECORDS)
def test_the_longest_key_fits_the_state(cls: type[Record]) -> None:
    """However many names a key holds, each of them at its bound."""
    key = {
        "verdict": (LONGEST, LAST, LONGEST, LONGEST),
        "update": (LONGEST, LAST, LONGEST),
        "training_part": (LONGEST, LONGEST),
        "decline": (LONGEST, LAST, LONGEST),
        "commitment": (LONGEST, LAST, LONGEST),
        "audit": (LONGEST, LAST, LONGEST, LONGEST),
        "round": (LONGEST, LAST),
        "model": (LONGEST, LAST),
        "use_batch": (LONGEST, LONGEST, LAST),
        "chain": (),
        "open_tasks": (),
        "open_proposals": (),
        "epoch_head": (),
        "epoch": (LAST,),
    }.get(cls.KIND, (LONGEST,))

    assert len(encode((cls.KIND, *key))) <= KEY_BYTES_MAX

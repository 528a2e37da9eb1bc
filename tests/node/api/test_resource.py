"""Paths of records: every part of a key keeps its place in them."""

import pytest

from node.api.resource import BY_RECORD, NUMBERS, RESOURCES
from vm.record import Member, Model
from vm.refusal import Refused

ASTRAY = (
    "..",
    ".",
    "../members/reader",
    "a/b",
    "a?at=3",
    "a#b",
    "a%2fb",
    "%2e%2e",
    "a{id}",
    "a\r\nb",
    "",
)


@pytest.mark.parametrize("part", ASTRAY)
def test_no_part_of_a_key_leaves_its_place(part: str) -> None:
    """The attack: a node's word for an id had honest nodes asked for another record."""
    for resource in RESOURCES:
        good: list[str | int] = [1 if name in NUMBERS else "a" for name in resource.parts]
        for place in range(len(good)):
            key = (*good[:place], part, *good[place + 1 :])
            with pytest.raises(Refused, match=r"id\.invalid"):
                resource.item(key)
            if place < len(good) - 1:
                with pytest.raises(Refused, match=r"id\.invalid"):
                    resource.list(key[:-1])


def test_the_path_of_a_record_has_the_parts_of_its_key() -> None:
    """As the interface reads them."""
    assert BY_RECORD[Member].item(("hospital-1.opt",)) == "/v1/members/hospital-1.opt"
    assert BY_RECORD[Model].item(("risk", 0)) == "/v1/models/risk/versions/0"
    assert BY_RECORD[Model].list(("risk",)) == "/v1/models/risk/versions"

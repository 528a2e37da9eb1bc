"""What is derived, byte for byte: whoever changes one of these digests changes the format.

Then `node.case.contents.FORMAT` gets another number, and the changelog says with which release
older files verify. A new release of jinja2, prov or rfc8785 that writes the same changes none.
"""

from hashlib import sha256

import pytest
import rfc8785

from node.case.contents import FORMAT, Case, contents
from node.case.page import write_page
from node.case.prov import write_prov

GOLDEN = {
    "page": "c3febc7bb8663b78761482eb3f403f63e36d61bdc550c28fd3e958b9bf19cabc",
    "prov": "cd2781f5ecc04f4818f29b17aa2cf4bdc69bb01107eb52ad06374f7d06874ffb",
    "summary": "86d96dd357b5d6ef8c6c840920a7f8eeeacdcb68b5026566fb7c12702de5c918",
}


@pytest.mark.parametrize("part", GOLDEN)
def test_a_fixed_chain_gives_fixed_bytes(case: Case, part: str) -> None:
    """Template, style, words, mapping and three libraries' output in one digest each."""
    found = contents(case)
    parts = {
        "page": write_page(found),
        "prov": write_prov(case),
        "summary": rfc8785.dumps(found),
    }

    assert FORMAT == "concilium.case.v1"
    assert sha256(parts[part]).hexdigest() == GOLDEN[part]

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
    "page": "aa4e74832db4cb5cd46a446d8f8cc42704be8c7a2a5f47b1659277bec63bb31d",
    "prov": "cd2781f5ecc04f4818f29b17aa2cf4bdc69bb01107eb52ad06374f7d06874ffb",
    "summary": "ab821471182eba36c7d49612724b693dbc5d7f23ba0ffcc5c028a7da56b51cfc",
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

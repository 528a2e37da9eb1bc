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
    "page": "99057ea9635322cb30323cf309a702a4af88fbcd96942dd4f79bd996aba3ba0d",
    "prov": "cd2781f5ecc04f4818f29b17aa2cf4bdc69bb01107eb52ad06374f7d06874ffb",
    "summary": "7c306885acc5d15738cdef54862381e79abaade95954aa1215f96b07d2017c58",
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

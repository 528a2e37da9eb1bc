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
    "page": "47fdf30e798b2637a4339083f7c9411e0b03c5a6f13c59022ff82e6f933f4f04",
    "prov": "1a7bc1be66fca7bd273b10a70304d107eed50cb684fae9c1707501f099ac3072",
    "summary": "081ada5b6db3780e0d45fdb329dcc090b6416e2298187ced1528498c8621ccac",
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

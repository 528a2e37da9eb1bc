"""Golden vectors for a second implementation: each file follows from the code, and pins it.

`python -m tests.vectors` writes the files anew; tests/vm/test_vectors.py demands that they are as
they were. A difference is a change of protocol. Byte strings are in hex throughout, and each file
names the section of docs/protocol.md that it checks.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.vectors import (
    agreement,
    basics,
    content,
    files,
    inclusion,
    learning,
    ledger,
    reading,
    reign,
    uses,
)

FOLDER = Path(__file__).parent

# The file's name, the section that it checks, and what builds it.
BUILDERS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "encoding": ("Encoding", basics.encoding),
    "digest": ("Digests", basics.digest),
    "keys": ("Keys and signatures", basics.key),
    "tree": ("Merkle trees", basics.history),
    "sparse": ("State tree", basics.state),
    "range": ("State ranges", basics.ranges),
    "certificate": ("Checkpoint certificates", basics.certificate),
    "transaction": ("Transactions", ledger.transaction),
    "genesis": ("Genesis block", ledger.genesis),
    "block": ("Blocks", ledger.block),
    "record": ("State", ledger.record),
    "governance": ("Governance", reign.governance),
    "succession": ("Succession", reign.succession),
    "agreement": ("Consensus", agreement.messages),
    "inclusion": ("Inclusion proofs", inclusion.proofs),
    "file": ("Proof files", files.files),
    "use": ("Uses of models", uses.proofs),
    "learning": ("Learning in numbers", learning.numbers),
    "cid": ("Blobs", content.addresses),
    "reading": ("Reading", reading.requests),
}


def text_of(name: str) -> str:
    """The text of a vector file: JSON with a fixed layout."""
    section, build = BUILDERS[name]
    return json.dumps({"section": section, **build()}, indent=1) + "\n"

"""SHA-256 with domain separation: a digest of one kind of thing is never one of another."""

import hashlib
from collections.abc import Iterable
from functools import cache

# One tag for each kind of thing that is digested or signed. A tag never changes its meaning: a new
# layout gets a new version number.
GENESIS = "concilium.genesis.v1"
TRANSACTION = "concilium.transaction.v1"
PAYLOAD = "concilium.payload.v1"
HEADER = "concilium.header.v1"
CHECKPOINT = "concilium.checkpoint.v1"
MESSAGE = "concilium.message.v1"
EPOCH = "concilium.epoch.v1"
STATE_KEY = "concilium.state-key.v1"
STATE_VALUE = "concilium.state-value.v1"
BEACON = "concilium.beacon.v1"
ROW = "concilium.row.v1"
ORIGIN = "concilium.origin.v1"
SEGMENT = "concilium.segment.v1"
WEIGHTS = "concilium.weights.v1"
OPTIMIZER = "concilium.optimizer.v1"
BATCHES = "concilium.batches.v1"
PRF = "concilium.prf.v1"
SALT = "concilium.salt.v1"
PART = "concilium.part.v1"
SECRET = "concilium.secret.v1"  # noqa: S105 - a tag, no secret
COMMITMENT = "concilium.commitment.v1"
SEED = "concilium.seed.v1"
SEAL = "concilium.seal.v1"
ACCEPTED = "concilium.accepted.v1"
SLOW = "concilium.slow.v1"
HOLLOW = "concilium.hollow.v1"
TERMS = "concilium.terms.v1"
SCRIPT = "concilium.script.v1"
ENVIRONMENT = "concilium.environment.v1"
CASE = "concilium.case.v1"
USE_NOTE = "concilium.use-note.v1"
BLIND = "concilium.blind.v1"

DIGEST_BYTES = 32


def digest(tag: str, data: bytes) -> bytes:
    """SHA-256(length of tag as one byte || tag || data); 32 bytes."""
    return hashlib.sha256(_prefix(tag) + data).digest()


def digest_parts(tag: str, parts: Iterable[bytes | memoryview]) -> bytes:
    """`digest` of the parts joined, which are not copied: weights of a model may be large."""
    found = hashlib.sha256(_prefix(tag))
    for part in parts:
        found.update(part)
    return found.digest()


@cache
def _prefix(tag: str) -> bytes:
    name = tag.encode("ascii")
    assert len(name) < 256, "a tag's length is one byte"
    return bytes((len(name),)) + name

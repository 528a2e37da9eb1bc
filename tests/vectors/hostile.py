"""What an attacker sends: bytes, signatures, paths and certificates that must not pass."""

from collections.abc import Iterator
from dataclasses import replace

from tests.vm.edwards import B, L, T, add, challenge, compress, multiply, signature
from vm.certificate import CheckpointCertificate, Vote
from vm.digest import STATE_KEY, STATE_VALUE, digest
from vm.keys import SigningKey
from vm.range import StateRange
from vm.sparse import Leaf, StatePath

ENCODINGS = (
    ("nothing", ""),
    ("cut off", "92c0"),
    ("a byte too many", "c0c0"),
    ("reserved byte", "c1"),
    ("127 in two bytes", "cc7f"),
    ("0 as signed", "d000"),
    ("a text with a length byte it does not need", "d90161"),
    ("bytes with two length bytes they do not need", "c5000161"),
    ("an array with a length it does not need", "dc0000"),
    ("text that is not UTF-8", "a1ff"),
    ("half a surrogate pair", "a3eda080"),
    ("an empty map", "80"),
    ("a map", "81a16101"),
    ("1.0 in four bytes", "ca3f800000"),
    ("1.0 in eight bytes", "cb3ff0000000000000"),
    ("an extension", "d40500"),
    ("an empty extension", "c70005"),
    ("a timestamp", "d6ff00000000"),
    ("four billion items declared", "ddffffffff"),
    ("33 arrays deep", "91" * 33 + "c0"),
)

SECRET, NONCE = 3**150 % L, 5**100 % L


def signatures() -> Iterator[tuple[str, bytes, bytes, bytes]]:
    """Why, public key, message, signature: the kinds on which Ed25519 libraries disagree."""
    message = bytes(32)
    own = SigningKey(bytes(32))
    made = own.sign(message)
    s = int.from_bytes(made[32:], "little")
    yield "honest", own.public, message, made
    for times in (1, 14):
        yield f"S + {times} L", own.public, message, signature(made[:32], s + times * L)
    identity = compress((0, 1))
    yield "small-order key and R, S = 0", identity, message, signature(identity, 0)
    yield (
        "small-order key written with the other sign",
        identity[:31] + b"\x80",
        message,
        signature(compress(multiply(NONCE, B)), NONCE),
    )
    yield (
        "small-order key not reduced",
        compress((0, 1), excess=1),
        message,
        signature(compress(multiply(NONCE, B)), NONCE),
    )
    public = compress(multiply(SECRET, B))
    h = challenge(identity, public, message)
    yield "small-order R", public, message, signature(identity, h * SECRET % L)
    yield from mixed_order()


def mixed_order() -> Iterator[tuple[str, bytes, bytes, bytes]]:
    """Signatures whose key and R have a part of order 8, which cancels or does not."""
    public = compress(add(multiply(SECRET, B), T))
    big_r = compress(add(multiply(NONCE, B), multiply(3, T)))
    for cancels in (True, False):
        for i in range(64):
            message = bytes((i,)) * 32
            h = challenge(big_r, public, message)
            if ((3 + h) % 8 == 0) is cancels:
                why = "as it stands" if cancels else "only multiplied by the cofactor"
                made = signature(big_r, (NONCE + h * SECRET) % L)
                yield f"mixed order, the equation holds {why}", public, message, made
                break


def state_paths(
    path: StatePath, key: bytes, value: bytes | None
) -> Iterator[tuple[str, StatePath, bytes | None]]:
    """Why, path, claimed value: lies about `key`, made from the true path."""
    first, *rest = path.siblings
    yield "another value", replace(path, leaf=None), b"another value"
    yield "a sibling left out", replace(path, siblings=tuple(rest)), value
    yield "a sibling too many", replace(path, siblings=(*path.siblings, bytes(32))), value
    yield "siblings in another order", replace(path, siblings=(*rest, first)), value
    if value is not None:
        own = Leaf(digest(STATE_KEY, key), digest(STATE_VALUE, value))
        yield "absent, by an empty place", path, None
        yield "absent, by its own leaf", replace(path, leaf=own), None
        yield "present, by a leaf", replace(path, leaf=own), value
    else:
        far = digest(STATE_KEY, key)
        far = bytes((far[0] ^ 0x80,)) + far[1:]
        yield "absent, by a leaf elsewhere", replace(path, leaf=Leaf(far, bytes(32))), None


def state_ranges(part: StateRange) -> Iterator[tuple[str, StateRange]]:
    """Why, range: lies made from a true one of several leaves."""
    first, second, *rest = part.leaves
    yield "a leaf left out", replace(part, leaves=(first, *rest))
    yield "a leaf changed", replace(part, leaves=(replace(first, value=b"x"), second, *rest))
    yield "leaves in another order", replace(part, leaves=(second, first, *rest))
    yield "nothing outside", replace(part, left=(), right=(), before=None, after=None)
    yield "an empty digest too many", replace(part, right=(*part.right, bytes(32)))
    yield "a digest too many", replace(part, right=(*part.right, b"\x01" * 32))
    yield "an earlier end", replace(part, end=bytes(32), leaves=())
    yield "a leaf before that is inside", replace(part, before=Leaf(part.end, bytes(32)))


def certificates(
    good: CheckpointCertificate, votes: tuple[Vote, ...]
) -> Iterator[tuple[str, CheckpointCertificate]]:
    """Why, certificate: less than a quorum in each disguise; `votes` are of all validators."""
    outsider = Vote("v9", SigningKey(b"\xff" * 32).sign(good.header))
    v0, v1, v2, v3, _ = votes
    yield "no votes", replace(good, votes=())
    yield "one vote short", replace(good, votes=(v0, v1, v2))
    yield "one signer twice", replace(good, votes=(v0, v1, v1, v2))
    yield "another order", replace(good, votes=(v1, v0, v2, v3))
    yield "an unknown validator", replace(good, votes=(v0, v1, v2, outsider))
    yield "another's signature", replace(good, votes=(v0, v1, v2, replace(v2, validator="v3")))
    yield "another height", replace(good, height=good.height + 1)
    yield "another header", replace(good, header=bytes(32))

"""Signed requests: HTTP message signatures (RFC 9421) with members' own Ed25519 keys.

Covered are method, authority, path and query, and the digest of a body (RFC 9530). The authority
binds a signature to one node, the nonce to one use. Over https:// the TLS key that the signer saw
is covered, too: who sits between, with a key of its own, cannot pass the request on.
`http-message-signatures` builds and parses what is signed; keys are checked by PyNaCl, like
everything else here.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureAlgorithm,
    HTTPSignatureKeyResolver,
    InvalidSignature,
)

from node.readers.pace import TooMany
from vm import keys
from vm.refusal import Refused

TAG = "concilium"
LABEL = "concilium"
COVERED = ("@method", "@authority", "@path", "@query")
SERVER = "Concilium-Server"  # a field: SHA-256 of the server's SubjectPublicKeyInfo, hexadecimal
LIFETIME_S = 60  # of a signature: time for a slow link, and little to remember nonces for
SKEW_S = 10  # by which a reader's clock may be ahead
NONCE_CHARACTERS_MIN = 16
NONCE_CHARACTERS_MAX = 64
NONCES_MAX = 65_536  # remembered at a time: 16 MiB
NONCES_OF_MEMBER_MAX = 4_096  # 58 signed requests a second: who asks more often mints a token


@dataclass(slots=True)
class Message:
    """A request as the library sees it; `url` is absolute and as it was sent."""

    method: str
    url: str
    headers: Any


@dataclass(frozen=True, slots=True)
class Signed:
    """What a good signature says."""

    member: str
    authority: str
    created_s: int
    expires_s: int
    nonce: str


def sign(
    key: keys.SigningKey, member: str, message: Message, now_s: int, nonce: str, body: bytes = b""
) -> None:
    """Add to a request's headers the signature of `member`, and the digest of a body.

    It covers `SERVER` where the request has that field.
    """
    HTTPMessageSigner(signature_algorithm=_Ed25519, key_resolver=_Keys(private=key)).sign(
        message,
        key_id=member,
        created=datetime.fromtimestamp(now_s, UTC),
        expires=datetime.fromtimestamp(now_s + LIFETIME_S, UTC),
        nonce=nonce,
        label=LABEL,
        tag=TAG,
        covered_component_ids=_covered(SERVER in message.headers),
        body=body or None,
    )


def wanted(over_tls: bool) -> str:
    """What a node wants signed, as Accept-Signature says it (RFC 9421, section 5.1)."""
    covered = " ".join(f'"{name}"' for name in _covered(over_tls))
    return f'{LABEL}=({covered});created;expires;keyid;nonce;alg="ed25519";tag="{TAG}"'


def _covered(over_tls: bool) -> tuple[str, ...]:
    return (*COVERED, SERVER.lower()) if over_tls else COVERED


def verify(
    message: Message,
    body: bytes,
    find: Callable[[str], bytes],
    now_s: float,
    server: bytes | None = None,
) -> Signed:
    """What the one signature of a request says; `find` gives the public key of a member.

    `server` is the digest of the node's own TLS key, None where it does not end TLS itself.

    Raises `Refused("reader.signature" | "reader.expired")`, and what `find` raises.
    """
    looked_up: list[Refused] = []

    def resolve(member: str) -> bytes | None:
        try:
            return find(member)
        except Refused as refused:
            looked_up.append(refused)
            return None

    try:
        found = _Verifier(signature_algorithm=_Ed25519, key_resolver=_Keys(public=resolve)).verify(
            message, max_age=None, require_components=_covered(server is not None), body=body
        )
    except HTTPMessageSignaturesException as error:
        if looked_up:
            raise looked_up[0] from None
        raise _refuse(f"a request signed as RFC 9421 says, found: {error}") from None
    (result,) = found
    parameters = result.parameters
    if server is not None and result.covered_components[f'"{SERVER.lower()}"'] != server.hex():
        raise _refuse(f"a request signed for the TLS key {server.hex()}, found one for another")
    if parameters.get("tag") != TAG:
        raise _refuse(f'tag "{TAG}", found {str(parameters.get("tag"))[:40]!r}')
    created, expires = parameters.get("created"), parameters.get("expires")
    if not isinstance(created, int) or not isinstance(expires, int):
        raise _refuse("created and expires, found one of them missing")
    _check_times(created, expires, now_s)
    nonce = str(parameters.get("nonce", ""))
    if not NONCE_CHARACTERS_MIN <= len(nonce) <= NONCE_CHARACTERS_MAX:
        raise _refuse(
            f"a nonce of {NONCE_CHARACTERS_MIN} to {NONCE_CHARACTERS_MAX} characters, "
            f"found {len(nonce)}"
        )
    authority = result.covered_components['"@authority"']
    return Signed(str(parameters["keyid"]), authority, created, expires, nonce)


def _check_times(created: int, expires: int, now_s: float) -> None:
    if not 0 < expires - created <= LIFETIME_S:
        raise _refuse(f"a lifetime of at most {LIFETIME_S} s, found {expires - created}")
    if created > now_s + SKEW_S:
        raise _refuse(f"a signature of now, found one {created - now_s:.0f} s ahead: set the clock")
    if expires <= now_s:
        raise Refused(
            "reader.expired",
            f"expected a signature that is still good, found one over for {now_s - expires:.0f} s",
        )


class Nonces:
    """Remembers each nonce for as long as its signature is good. Time comes in as an argument."""

    def __init__(self, nonces_max: int = NONCES_MAX) -> None:
        self._nonces_max = nonces_max
        self._over_s: OrderedDict[tuple[str, str], float] = OrderedDict()  # the oldest first
        self._of: Counter[str] = Counter()

    def take(self, member: str, nonce: str, now_s: float) -> None:
        """Use a nonce up; raises `Refused("reader.replayed")` and `TooMany`.

        With no room left new ones are refused: to forget one would let its request come again.
        """
        while self._over_s and next(iter(self._over_s.values())) <= now_s:
            (owner, _), _ = self._over_s.popitem(last=False)
            self._of[owner] -= 1
            if not self._of[owner]:
                del self._of[owner]
        if (member, nonce) in self._over_s:
            raise Refused("reader.replayed", "expected a nonce of its own, found one used before")
        if len(self._over_s) >= self._nonces_max or self._of[member] >= NONCES_OF_MEMBER_MAX:
            raise TooMany(
                LIFETIME_S,
                f"expected at most {NONCES_OF_MEMBER_MAX} signed requests of a member in "
                f"{LIFETIME_S + SKEW_S} s, found one more: mint a token",
            )
        self._over_s[member, nonce] = now_s + LIFETIME_S + SKEW_S
        self._of[member] += 1


class _Ed25519(HTTPSignatureAlgorithm):
    """The library's interface over our keys: whatever is signed here is longer than a digest."""

    algorithm_id = "ed25519"

    def __init__(
        self, public_key: bytes | None = None, private_key: keys.SigningKey | None = None
    ) -> None:
        self._public = public_key
        self._private = private_key

    def sign(self, message: bytes) -> bytes:
        assert self._private is not None, "made for signing"
        return self._private.sign(message)

    def verify(self, signature: bytes, message: bytes) -> None:
        assert self._public is not None, "made for verifying"
        if not keys.verify(self._public, message, signature):
            raise InvalidSignature("a signature by another key, or of another request")


class _Keys(HTTPSignatureKeyResolver):
    """Keys that are looked up elsewhere."""

    def __init__(
        self,
        public: Callable[[str], bytes | None] = lambda _: None,
        private: keys.SigningKey | None = None,
    ) -> None:
        self._public = public
        self._private = private

    def resolve_public_key(self, key_id: str) -> bytes | None:
        return self._public(key_id)

    def resolve_private_key(self, key_id: str) -> keys.SigningKey | None:
        return self._private


class _Verifier(HTTPMessageVerifier):
    """Leaves times to us, whose clock is an argument."""

    def validate_created_and_expires(self, sig_input: Any, max_age: Any = None) -> None:
        """Checked after the signature."""


def _refuse(expected: str) -> Refused:
    return Refused("reader.signature", f"expected {expected}")

"""Ed25519 (RFC 8032) by PyNaCl, the only verifier of anything that is replicated or proven.

Libraries disagree on edge cases of Ed25519; two verifiers in one network could fork it. What counts
here: S < L, neither the key nor R of small order or in a non-canonical form, and SB = R + hA as it
stands, not multiplied by the cofactor. The tests pin this, since libsodium too may change its mind.
"""

from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey as NaclKey

from vm.digest import SECRET, digest

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


class SigningKey:
    """A private key; its `repr` shows nothing of it."""

    __slots__ = ("_key", "_seed", "public")

    def __init__(self, seed: bytes) -> None:
        assert len(seed) == SEED_BYTES, f"expected a seed of {SEED_BYTES} bytes, found {len(seed)}"
        self._key = NaclKey(seed)
        self._seed = seed
        self.public = bytes(self._key.verify_key)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`, which is a domain-separated digest everywhere."""
        return bytes(self._key.sign(message).signature)

    def secret(self, context: bytes) -> bytes:
        """32 bytes that only this key's holder can tell, the same for equal `context`."""
        return digest(SECRET, self._seed + context)


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is `public`'s over `message`; malformed input is simply not a match."""
    if len(public) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public)
    except (CryptoError, ValueError):
        return False
    return True

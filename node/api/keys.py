"""State keys in a query: base64url of a canonical array of them."""

import base64
import binascii
from collections.abc import Sequence

from vm.encoding import decode, encode
from vm.refusal import Refused
from vm.sparse import KEY_BYTES_MAX

KEYS_MAX = 20  # of one answer: the longest take 7 KiB as text, of 8 that a request's line may have
KEYS_BYTES_MAX = KEYS_MAX * (KEY_BYTES_MAX + 3) + 3  # with the headers of keys and array


def write_keys(keys: Sequence[bytes]) -> str:
    """The query's text for at most `KEYS_MAX` keys."""
    assert len(keys) <= KEYS_MAX, f"expected at most {KEYS_MAX} keys, found {len(keys)}"
    return base64.urlsafe_b64encode(encode(tuple(keys))).rstrip(b"=").decode("ascii")


def read_keys(text: str) -> tuple[bytes, ...]:
    """The keys, each once; raises `Refused("query.invalid")`."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        keys = decode(data, KEYS_BYTES_MAX, KEYS_MAX + 1)
    except (Refused, ValueError, binascii.Error):
        keys = None
    if isinstance(keys, tuple):
        found = {key for key in keys if isinstance(key, bytes) and 1 <= len(key) <= KEY_BYTES_MAX}
        if found and len(found) == len(keys):
            return tuple(key for key in keys if isinstance(key, bytes))
    raise Refused(
        "query.invalid",
        f"expected keys: base64url of an array of 1 to {KEYS_MAX} different state keys",
    )

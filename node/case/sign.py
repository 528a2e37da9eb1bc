"""An auditor's signature on a case file: over the digest of its summary, which names the rest."""

import json
import re

import rfc8785

from node.case.contents import Auditor
from vm.digest import CASE, digest
from vm.keys import SigningKey, verify
from vm.refusal import Refused
from vm.shape import is_name

SIGNATURE_FORMAT = "concilium.case.signature.v1"
SIGNATURE_BYTES_MAX = 1_024  # a name of 64 bytes, three values in hexadecimal, and JSON around them
FIELDS = {"digest": 64, "key": 64, "signature": 128}  # lower-case hexadecimal digits of each


def write_signature(summary: bytes, member: str, key: SigningKey) -> bytes:
    """The detached signature of `member`, as canonical JSON."""
    found = digest(CASE, summary)
    return rfc8785.dumps(
        {
            "format": SIGNATURE_FORMAT,
            "member": member,
            "key": key.public.hex(),
            "digest": found.hex(),
            "signature": key.sign(found).hex(),
        }
    )


def read_auditor(data: bytes) -> Auditor:
    """Who says that it signed; raises `Refused("case.signature")` for what is no signature."""
    document = _read(data)
    return Auditor(document["member"], bytes.fromhex(document["key"]))


def check_signature(data: bytes, summary: bytes) -> None:
    """Check that the key that the signature names has signed `summary`.

    Raises `Refused("case.signature")`.
    """
    document = _read(data)
    found = digest(CASE, summary)
    if document["digest"] != found.hex():
        raise Refused(
            "case.signature", f"expected a signature over {found.hex()}, found another digest"
        )
    key, signature = bytes.fromhex(document["key"]), bytes.fromhex(document["signature"])
    if not verify(key, found, signature):
        raise Refused(
            "case.signature",
            f"expected a signature by the key {document['key']}, found one that does not verify",
        )


def _read(data: bytes) -> dict[str, str]:
    if len(data) > SIGNATURE_BYTES_MAX:
        raise Refused("case.signature", f"expected at most {SIGNATURE_BYTES_MAX} bytes, found more")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if (
        not isinstance(document, dict)
        or set(document) != {"format", "member", *FIELDS}
        or not all(isinstance(value, str) for value in document.values())
        or document["format"] != SIGNATURE_FORMAT
        or not is_name(document["member"])
        or not all(
            re.fullmatch(f"[0-9a-f]{{{size}}}", document[name]) for name, size in FIELDS.items()
        )
        or rfc8785.dumps(document) != data
    ):
        raise Refused("case.signature", f"expected canonical JSON of format {SIGNATURE_FORMAT}")
    return document

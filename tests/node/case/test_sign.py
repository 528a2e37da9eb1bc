"""Signatures on case files."""

import json
from functools import partial

import pytest
import rfc8785

from node.case.sign import SIGNATURE_BYTES_MAX, check_signature, read_auditor, write_signature
from tests.harness import key_of
from vm.digest import CASE, digest
from vm.keys import verify
from vm.refusal import Refused

KEY = key_of("auditor")
SUMMARY = b'{"format":"x"}'
SIGNED = write_signature(SUMMARY, "auditor", KEY)


def altered(**changes: object) -> bytes:
    """The signature with members changed."""
    return rfc8785.dumps(json.loads(SIGNED) | changes)


def test_the_signature_names_its_signer_and_verifies() -> None:
    """It is over a digest of its own domain: no transaction or message has the same bytes."""
    auditor = read_auditor(SIGNED)

    check_signature(SIGNED, SUMMARY)

    assert (auditor.member, auditor.key) == ("auditor", KEY.public)
    signature = bytes.fromhex(json.loads(SIGNED)["signature"])
    assert verify(KEY.public, digest(CASE, SUMMARY), signature)


def test_another_summary_or_another_key_is_refused() -> None:
    """Neither the digest nor the key can be exchanged."""
    other = key_of("other").public.hex()
    for data, summary in (
        (SIGNED, SUMMARY + b" "),
        (altered(digest=digest(CASE, b"x").hex()), SUMMARY),
        (altered(key=other), SUMMARY),
        (altered(signature="00" * 64), SUMMARY),
    ):
        with pytest.raises(Refused, match=r"case\.signature"):
            check_signature(data, summary)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 1_000,
        SIGNED + b" ",
        SIGNED.replace(b'"key":"', b'"key":"0'),
        altered(format="x"),
        altered(member="../x"),
        altered(member=1),
        altered(key="G" * 64),
        altered(extra=""),
        b" " * (SIGNATURE_BYTES_MAX + 1),
    ],
)
def test_what_is_no_signature_is_refused(data: bytes) -> None:
    """One form alone is read, so that a file has one string of bytes."""
    for read in (read_auditor, partial(check_signature, summary=SUMMARY)):
        with pytest.raises(Refused, match=r"case\.signature"):
            read(data)

"""Vectors of reading: signed requests as they are sent, and lines of an access log."""

from typing import Any

from node.readers.signature import Message, sign, verify
from tests.harness import key_of
from tests.vectors.spelling import code_of, hexes
from vm import tree
from vm.accesslog import SALT_BYTES, AccessLine, Via
from vm.digest import STATE_KEY, digest
from vm.shape import pack
from vm.state import state_key

NOW_S = 1_700_000_000
READER = "auditor"
NONCE = "0123456789abcdef"
BODY = b'{"hello": "world"}'
REQUESTS = (
    ("GET", "http://127.0.0.1:7101/v1/members?limit=3", b""),
    ("GET", "https://validator.example/v1/status", b""),
    ("POST", "http://127.0.0.1:7101/v1/tokens", b""),
    ("POST", "http://[::1]:7101/v1/tokens?a=%20b", BODY),
)


def requests() -> dict[str, Any]:
    """Requests signed by one member, what does not hold, and the first lines of a log."""
    return {
        "reader": READER,
        "public_key": key_of(READER).public.hex(),
        "now_s": NOW_S,
        "accepted": [_accepted(*request) for request in REQUESTS],
        "refused": _refused(),
        "log": _log(),
    }


def _signed(method: str, url: str, body: bytes) -> Message:
    message = Message(method, url, dict[str, str]())
    sign(key_of(READER), READER, message, NOW_S, NONCE, body)
    return message


def _accepted(method: str, url: str, body: bytes) -> dict[str, Any]:
    message = _signed(method, url, body)
    _judge(message, body, NOW_S)
    return {"method": method, "url": url, "body": body.hex(), "headers": message.headers}


def _refused() -> list[dict[str, Any]]:
    method, url, body = REQUESTS[0]
    good = _signed(method, url, body).headers
    inputs, signature = good["Signature-Input"], good["Signature"]
    changed = {
        "another method": ("POST", url, good, NOW_S),
        "another path": (method, url.replace("members", "faults"), good, NOW_S),
        "another query": (method, url.replace("3", "4"), good, NOW_S),
        "another node": (method, url.replace("7101", "7103"), good, NOW_S),
        "another nonce": (
            *(method, url),
            {"Signature-Input": inputs.replace(NONCE, NONCE[::-1]), "Signature": signature},
            NOW_S,
        ),
        "the signature left out": (method, url, {"Signature-Input": inputs}, NOW_S),
        "over": (method, url, good, NOW_S + 60),
        "ahead of time": (method, url, good, NOW_S - 11),
    }
    return [
        {
            "why": why,
            "method": method,
            "url": url,
            "headers": headers,
            "now_s": now_s,
            "code": code_of(_judge, Message(method, url, headers), b"", now_s),
        }
        for why, (method, url, headers, now_s) in changed.items()
    ]


def _judge(message: Message, body: bytes, now_s: int) -> None:
    verify(message, body, lambda _: key_of(READER).public, now_s)


def _log() -> dict[str, Any]:
    place = digest(STATE_KEY, state_key("verdict", ("preterm-1", 1, "hospital-4", "a.verifier")))
    lines = [
        pack(
            AccessLine(
                bytes((number,)) * SALT_BYTES,
                NOW_S * 1_000 + number,
                READER,
                via,
                "verdict",
                place,
                7 + number,
            )
        )
        for number, via in enumerate(Via)
    ]
    return {"lines": hexes(lines), "root": tree.root(lines).hex()}

"""Signed requests: the RFC's own example, ours, and every way in which one does not hold."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from http_message_signatures import HTTPMessageSigner
from multidict import CIMultiDict

from node.readers.pace import TooMany
from node.readers.signature import (
    COVERED,
    LABEL,
    LIFETIME_S,
    NONCES_OF_MEMBER_MAX,
    SKEW_S,
    TAG,
    Message,
    Nonces,
    _Ed25519,
    _Keys,
    _Verifier,
    sign,
    verify,
)
from tests.harness import key_of
from vm.keys import SigningKey
from vm.refusal import Refused

NOW_S = 1_700_000_000
READER = "auditor"
KEY = key_of(READER)
NONCE = "0123456789abcdef"
URL = "http://127.0.0.1:7101/v1/members?limit=3"


def signed(
    method: str = "GET", url: str = URL, body: bytes = b"", at_s: int = NOW_S, nonce: str = NONCE
) -> Message:
    """A request that holds."""
    message = Message(method, url, CIMultiDict[str]())
    sign(KEY, READER, message, at_s, nonce, body)
    return message


def code_of(message: Message, body: bytes = b"", now_s: float = NOW_S) -> str:
    """The code with which a request is refused, "" if it holds."""

    def find(member: str) -> bytes:
        if member != READER:
            raise Refused("reader.unknown", "nobody")
        return KEY.public

    try:
        assert verify(message, body, find, now_s).member == READER
    except Refused as refused:
        return refused.code
    return ""


def test_the_example_of_the_rfc_holds() -> None:
    """RFC 9421, appendix B.2.6: its request, key and signature, through our own verifier."""
    public = base64.b64decode("JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=")
    message = Message(
        "POST",
        "https://example.com/foo?param=Value&Pet=dog",
        {
            "Host": "example.com",
            "Date": "Tue, 20 Apr 2021 02:07:55 GMT",
            "Content-Type": "application/json",
            "Content-Length": "18",
            "Signature-Input": 'sig-b26=("date" "@method" "@path" "@authority" "content-type" '
            '"content-length");created=1618884473;keyid="test-key-ed25519"',
            "Signature": "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu"
            "4A0w6vuQv5lIp5WPpBKRCw==:",
        },
    )

    verifier = _Verifier(signature_algorithm=_Ed25519, key_resolver=_Keys(public=lambda _: public))
    (found,) = verifier.verify(message, max_age=None)

    assert found.parameters["keyid"] == "test-key-ed25519"
    assert found.covered_components['"@path"'] == "/foo"


def test_the_key_of_the_rfc_signs_as_the_rfc_says() -> None:
    """The same bytes come out, for Ed25519 leaves nothing to chance."""
    seed = base64.b64decode("n4Ni+HpISpVObnQMW0wOhCKROaIKqKtW/2ZYb2p9KcU=")
    base = (
        '"date": Tue, 20 Apr 2021 02:07:55 GMT\n"@method": POST\n"@path": /foo\n'
        '"@authority": example.com\n"content-type": application/json\n"content-length": 18\n'
        '"@signature-params": ("date" "@method" "@path" "@authority" "content-type" '
        '"content-length");created=1618884473;keyid="test-key-ed25519"'
    )

    signature = _Ed25519(private_key=SigningKey(seed)).sign(base.encode())

    assert base64.b64encode(signature).decode() == (
        "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
    )


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("GET", URL, b""),
        ("HEAD", "https://validator.example/v1/blocks/3", b""),
        ("POST", "http://[::1]:7101/v1/tokens", b""),
        ("POST", "http://127.0.0.1:7101/v1/tokens?a=%20b", b"a body"),
    ],
)
def test_what_we_sign_holds(method: str, url: str, body: bytes) -> None:
    """For any method, name, query and body."""
    assert code_of(signed(method, url, body), body) == ""


def change(**changes: Any) -> Callable[[], Message]:
    """A request that was changed after it was signed."""

    def made() -> Message:
        message = signed()
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    return made


def rewrite(*pairs: tuple[str, str, str]) -> Callable[[], Message]:
    """A request in whose header fields a text was put in place of another."""

    def made() -> Message:
        message = signed()
        for name, old, new in pairs:
            assert old in message.headers[name]
            message.headers[name] = message.headers[name].replace(old, new)
        return message

    return made


def without(name: str) -> Callable[[], Message]:
    """A request from which a header field was taken."""

    def made() -> Message:
        message = signed()
        del message.headers[name]
        return message

    return made


def twice(name: str) -> Callable[[], Message]:
    """A request with one line of a header field repeated."""

    def made() -> Message:
        message = signed()
        message.headers.add(name, message.headers[name])
        return message

    return made


def covering(
    *components: str,
    created: int = NOW_S,
    expires: int | None = NOW_S + LIFETIME_S,
    nonce: str | None = NONCE,
    tag: str = TAG,
    label: str = LABEL,
) -> Callable[[], Message]:
    """A good signature of less than is asked for, or with other parameters."""

    def made() -> Message:
        message = Message("GET", URL, CIMultiDict[str]())
        HTTPMessageSigner(signature_algorithm=_Ed25519, key_resolver=_Keys(private=KEY)).sign(
            message,
            key_id=READER,
            created=datetime.fromtimestamp(created, UTC),
            expires=None if expires is None else datetime.fromtimestamp(expires, UTC),
            nonce=nonce,
            tag=tag,
            label=label,
            covered_component_ids=components or COVERED,
        )
        return message

    return made


def two_signatures() -> Message:
    """A request that was signed twice, so that nobody can tell who asks."""
    message, other = signed(), covering(label="second")()
    for name in ("Signature-Input", "Signature"):
        message.headers[name] = f"{message.headers[name]}, {other.headers[name]}"
    return message


def stranger() -> Message:
    """A request that names the auditor and is signed by somebody else's key."""
    message = Message("GET", URL, CIMultiDict[str]())
    sign(key_of("mallory"), READER, message, NOW_S, NONCE)
    return message


def short() -> Message:
    """A request with three bytes for a signature."""
    message = signed()
    message.headers["Signature"] = "concilium=:AAAA:"
    return message


ATTACKS = {
    "another method": change(method="POST"),
    "another path": change(url="http://127.0.0.1:7101/v1/faults?limit=3"),
    "another query": change(url="http://127.0.0.1:7101/v1/members?limit=4"),
    "a query taken away": change(url="http://127.0.0.1:7101/v1/members"),
    "another node": change(url="http://127.0.0.1:7103/v1/members?limit=3"),
    "user and password before the name": change(url="http://a:b@127.0.0.2:7101/v1/members?limit=3"),
    "a path that is another after decoding": change(
        url="http://127.0.0.1:7101/v1/%6dembers?limit=3"
    ),
    "by another's key": stranger,
    "the signature stripped": without("Signature"),
    "what was signed stripped": without("Signature-Input"),
    "two signatures": two_signatures,
    "a line of the signature twice": twice("Signature"),
    "a line of what was signed twice": twice("Signature-Input"),
    "a later end": rewrite(("Signature-Input", "expires=1700000060", "expires=1700000061")),
    "another nonce": rewrite(("Signature-Input", NONCE, NONCE[::-1])),
    "another reader": rewrite(("Signature-Input", '"auditor"', '"auditor2"')),
    "another algorithm": rewrite(("Signature-Input", '"ed25519"', '"hmac-sha256"')),
    "an unknown parameter": rewrite(("Signature-Input", ";tag=", ";x=1;tag=")),
    "an unknown component": rewrite(("Signature-Input", '"@query"', '"@query" "@soup"')),
    "a component twice": rewrite(("Signature-Input", '"@query"', '"@query" "@query"')),
    "no structured field": rewrite(("Signature-Input", "concilium=(", "concilium=((")),
    "a label of one field alone": rewrite(("Signature", "concilium=", "other=")),
    "not base64": rewrite(("Signature", "=:", "=:*")),
    "too short": short,
    "without the method": covering("@authority", "@path", "@query"),
    "without the name": covering("@method", "@path", "@query"),
    "without the path": covering("@method", "@authority", "@query"),
    "without the query": covering("@method", "@authority", "@path"),
    "of another purpose": covering(tag="pay"),
    "a short nonce": covering(nonce="short"),
    "a long nonce": covering(nonce="x" * 65),
    "no nonce": covering(nonce=None),
    "no end": covering(expires=None),
    "an end before its beginning": covering(expires=NOW_S - 1),
    "too long a life": covering(expires=NOW_S + LIFETIME_S + 1),
    "created ahead of time": covering(created=NOW_S + SKEW_S + 1, expires=NOW_S + SKEW_S + 2),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused(name: str) -> None:
    """Whatever was changed, taken or added, on the way or by the reader itself."""
    expected = "reader.unknown" if name == "another reader" else "reader.signature"

    assert code_of(ATTACKS[name]()) == expected


@pytest.mark.parametrize(
    ("sent", "body"), [(b"a body", b"another"), (b"a body", b""), (b"", b"a body")]
)
def test_another_body_is_refused(sent: bytes, body: bytes) -> None:
    """The digest of a body is signed with it, and a body without a digest is not signed."""
    assert code_of(signed("POST", body=sent), body) == "reader.signature"


def test_a_digest_of_an_unknown_kind_is_refused() -> None:
    """An old hash that somebody can collide is none."""
    message = signed("POST", body=b"a body")
    message.headers["Content-Digest"] = "md5=:AAAAAAAAAAAAAAAAAAAAAA==:"

    assert code_of(message, b"a body") == "reader.signature"


def test_a_signature_is_good_for_a_minute() -> None:
    """Not a moment longer, and as early as a fast clock may make it."""
    message = signed()

    codes = [code_of(message, now_s=NOW_S + at) for at in (-SKEW_S, 0, 59.9, 60, 3_600)]

    assert codes == ["", "", "", "reader.expired", "reader.expired"]
    assert code_of(message, now_s=NOW_S - SKEW_S - 1) == "reader.signature"


def test_a_nonce_is_used_once() -> None:
    """As long as its signature could still be good, it is remembered; another's is another."""
    nonces = Nonces()
    nonces.take("ada", NONCE, 0.0)
    nonces.take("bob", NONCE, 0.0)

    for at_s in (0.0, 30.0, LIFETIME_S + SKEW_S - 0.1):
        with pytest.raises(Refused) as refused:
            nonces.take("ada", NONCE, at_s)
        assert refused.value.code == "reader.replayed"
    nonces.take("ada", NONCE, LIFETIME_S + SKEW_S)


def test_a_full_memory_refuses_and_does_not_forget() -> None:
    """Forgetting one nonce would let its request come again."""
    nonces = Nonces(nonces_max=3)
    for number in range(3):
        nonces.take(f"m{number}", NONCE, 1.0)

    with pytest.raises(TooMany):
        nonces.take("ada", NONCE, 2.0)
    with pytest.raises(Refused) as replayed:
        nonces.take("m0", NONCE, 2.0)
    nonces.take("ada", NONCE, 1.0 + LIFETIME_S + SKEW_S)

    assert replayed.value.code == "reader.replayed"


def test_one_member_does_not_fill_the_memory() -> None:
    """It is told to mint a token, and the others sign on."""
    nonces = Nonces()
    for number in range(NONCES_OF_MEMBER_MAX):
        nonces.take("ada", f"{number}", 1.0)

    with pytest.raises(TooMany, match="mint a token"):
        nonces.take("ada", "one more", 1.0)
    nonces.take("bob", NONCE, 1.0)

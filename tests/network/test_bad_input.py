"""What clients, strangers and careless operators do wrong, against four running validators.

Each gets a code and a sentence; the network goes on, and nothing acknowledged is lost.
"""

import asyncio
import http.client
import json
import secrets
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from node.api.transactions import SUBMIT_BYTES_MAX
from node.client.listing import records
from node.home import config
from node.home.document import dump
from node.home.keyfile import read_key
from node.wire.cid import CHUNK_BYTES, split, summarise
from node.wire.tls import TlsFiles, client_context
from tests.network.running import HOSPITALS, Running, concilium, fetch, newcomer, until
from vm.encoding import encode
from vm.keys import SigningKey
from vm.record import Member, Standing
from vm.registry import SetStanding
from vm.shape import pack
from vm.transaction import NONCE_BYTES, TRANSACTION_BYTES_MAX, Transaction, sign

pytestmark = pytest.mark.network

GARBAGE = secrets.token_bytes(4_096)
LIFETIME_BLOCKS = 500


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Four validators, ready, with a certified block."""
    running = Running(tmp_path_factory.mktemp("bad") / "net")
    try:
        running.start_all()
        asyncio.run(enrol(running, "first"))
        yield running
    finally:
        running.close()


async def enrol(net: Running, name: str) -> None:
    """One acknowledged transaction."""
    async with net.pen(1) as pen:
        await pen.submit("member.enrol", newcomer(name))


def assert_goes_on(net: Running) -> None:
    """All four run, and a transaction is certified."""
    asyncio.run(enrol(net, f"after-{secrets.token_hex(8)}"))
    assert all(net.alive(number) for number in range(1, len(HOSPITALS) + 1))


def member_count(net: Running) -> int:
    """How many trainers hospital 1 has enrolled, proven."""

    async def ask() -> int:
        async with net.client() as client:
            return len(await records(client, Member))

    return asyncio.run(ask())


# Transactions over HTTP


@dataclass(frozen=True, slots=True)
class Pen:
    """Makes the transactions of hospital 1's members, good and bad."""

    net: Running

    def make(self, name: str = "admin", **changes: Any) -> Transaction:
        """A transaction that would be admitted, but for `changes`."""
        key = read_key(self.net.home(1, name) / f"keys/{name}.key")
        fields: dict[str, Any] = {
            "key": key,
            "chain": self.net.genesis.chain,
            "kind": "member.enrol",
            "sender": f"hospital-1.{name}",
            "body": newcomer(f"trainer-{secrets.token_hex(8)}"),
            "valid_until_height": self.net.status(1)["certified_height"] + LIFETIME_BLOCKS,
            "nonce": secrets.token_bytes(NONCE_BYTES),
        }
        fields |= changes
        return sign(fields.pop("key"), **fields)


def stranger() -> SigningKey:
    """A key that nobody enrolled."""
    return SigningKey(secrets.token_bytes(32))


def wrongly_signed(pen: Pen) -> bytes:
    """The signature is another transaction's."""
    return pack(replace(pen.make(), signature=pen.make().signature))


def expired(pen: Pen) -> bytes:
    """Its last height is past."""
    return pack(pen.make(valid_until_height=pen.net.status(1)["certified_height"]))


BAD: dict[str, tuple[str, Callable[[Pen], bytes]]] = {
    "malformed": ("encoding.", lambda pen: GARBAGE),
    "cut off": ("encoding.", lambda pen: pack(pen.make())[:-1]),
    "longer": ("encoding.", lambda pen: pack(pen.make()) + b"\x00"),
    "oversized": ("encoding.", lambda pen: bytes(TRANSACTION_BYTES_MAX + 1)),
    "no transaction": ("shape.", lambda pen: encode((1, 2, 3))),
    "unsigned": (
        "transaction.signature",
        lambda pen: pack(replace(pen.make(), signature=bytes(64))),
    ),
    "wrongly signed": ("transaction.signature", wrongly_signed),
    "of another chain": ("transaction.chain", lambda pen: pack(pen.make(chain=bytes(32)))),
    "expired": ("transaction.expired", expired),
    "too long-lived": (
        "transaction.lifetime",
        lambda pen: pack(pen.make(valid_until_height=2**40)),
    ),
    "of an unknown kind": ("transaction.kind", lambda pen: pack(pen.make(kind="money.print"))),
    "of a stranger": ("access.unknown_member", lambda pen: pack(pen.make(sender="nobody"))),
    "by a stranger's key": ("access.wrong_key", lambda pen: pack(pen.make(key=stranger()))),
    "unauthorised": ("access.role", lambda pen: pack(pen.make("steward"))),
}


def post(net: Running, body: bytes, media_type: str = "application/msgpack") -> tuple[int, Any]:
    """Status and JSON of a POST to validator 1."""
    with closing(http.client.HTTPConnection(net.urls[0].removeprefix("http://"))) as connection:
        connection.request("POST", "/v1/transactions", body, {"Content-Type": media_type})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.mark.parametrize("name", BAD)
def test_a_bad_transaction_is_refused_with_its_code(net: Running, name: str) -> None:
    """422 with a problem document: one stable code, and a sentence with what was found."""
    code, build = BAD[name]

    status, answer = post(net, encode((build(Pen(net)),)))

    assert status == 422
    (admission,) = answer["transactions"]
    assert admission["code"].startswith(code), admission
    assert "expected" in admission["message"]
    assert answer["detail"] == f"{admission['code']}: {admission['message']}"
    assert net.status(1)["pending"] == 0


@pytest.mark.parametrize(
    ("body", "media_type", "status", "code"),
    [
        (GARBAGE, "application/msgpack", 400, "encoding."),
        (GARBAGE, "application/json", 400, "body.invalid"),
        (GARBAGE, "text/plain", 415, "body.media_type"),
        (b"", "application/msgpack", 400, "encoding."),
        (encode(()), "application/msgpack", 400, "body.invalid"),
        (bytes(SUBMIT_BYTES_MAX + 1), "application/msgpack", 413, "body.too_large"),
    ],
)
def test_a_bad_request_is_answered(
    net: Running, body: bytes, media_type: str, status: int, code: str
) -> None:
    """Also where no transaction can be found in it."""
    found, answer = post(net, body, media_type)

    assert found == status, answer
    assert answer["code"].startswith(code)
    assert answer["detail"]


def test_a_replayed_transaction_changes_nothing(net: Running) -> None:
    """The first receipt stands; in no later block is the transaction again."""
    transaction = Pen(net).make()
    path = f"{net.urls[0]}/v1/transactions/{transaction.id.hex()}"

    def certified() -> Any:
        answer = json.loads(fetch(path, net.auditor)[1])
        return answer["receipt"] if answer.get("status") == "certified" else None

    post(net, encode((pack(transaction),)))
    receipt = until(certified, "a certified receipt")
    members = member_count(net)
    for _ in range(3):
        assert post(net, encode((pack(transaction),)))[0] == 202
    assert_goes_on(net)

    assert certified() == receipt
    assert member_count(net) == members + 1  # by `assert_goes_on`


@pytest.mark.parametrize(
    ("role", "kind", "text", "code"),
    [
        ("steward", "member.enrol", json.dumps(dump(newcomer("x"))), "access.role"),
        ("admin", "member.enrol", json.dumps(dump(newcomer("first"))), "member.exists"),
        ("admin", "member.enrol", "{", "document.json"),
        ("admin", "member.enrol", "{}", "document.field"),
        ("admin", "member.enrol", json.dumps(dump(newcomer("x" * 65))), "document.bounds"),
        ("admin", "money.print", "{}", "transaction.kind"),
    ],
)
def test_the_command_line_says_what_is_wrong_with_a_submission(
    net: Running, tmp_path: Path, role: str, kind: str, text: str, code: str
) -> None:
    """Refused before sending, at admission or by execution: exit code 3 and one sentence."""
    body = tmp_path / "body.json"
    body.write_text(text)

    answer = concilium("submit", net.home(1, role), kind, body, "--format", "json")

    assert answer.code == 3
    assert answer.error[0] == code
    assert answer.out == ""


# Strangers at the ports


ATTACKS = {
    "garbage": GARBAGE,
    "endless header": b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000,
    "broken handshake": b"\x16\x03\x01\xff\xff" + GARBAGE,
    "half a request": (
        b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\nhalf"
    ),
}


@pytest.mark.parametrize("port", ["peer", "http"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_garbage_at_a_port_does_no_harm(net: Running, port: str, attack: str) -> None:
    """The connection is answered or dropped; the validator goes on."""
    settings = config.load(config.ValidatorConfig, net.home(2), {})
    at = settings.peer.listen if port == "peer" else settings.http.listen

    for _ in range(8):
        with socket.create_connection((at.host, at.port)) as connection:
            connection.sendall(ATTACKS[attack])

    assert_goes_on(net)
    for line in net.log(2).splitlines():
        assert "exception" not in json.loads(line), line


def peer_port(net: Running, files: TlsFiles) -> http.client.HTTPSConnection:
    """A connection to validator 2's peer port."""
    at = config.load(config.ValidatorConfig, net.home(2), {}).peer.listen
    return http.client.HTTPSConnection(at.host, at.port, context=client_context(files))


def files_of(home: Path) -> TlsFiles:
    """What a steward connects with."""
    settings = config.load(config.OfficeConfig, home, {})
    return settings.tls.files(settings.member)


def ask(
    net: Running, files: TlsFiles, method: str, path: str, body: bytes = b""
) -> tuple[int, Any]:
    """Status and JSON of a request at validator 2's peer port."""
    with closing(peer_port(net, files)) as connection:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_a_foreign_authority_s_certificate_ends_in_the_handshake(
    net: Running, tmp_path: Path
) -> None:
    """A member of another consortium gets no answer at all, with whichever authority it trusts."""
    assert concilium("testnet", tmp_path / "other").code == 0
    foreign = files_of(tmp_path / "other/hospital-1/steward")
    ours = files_of(net.home(1, "steward"))

    for authority in (foreign.authority, ours.authority):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(net, replace(foreign, authority=authority), "GET", "/blobs/x")

    assert_goes_on(net)


def test_a_revoked_member_is_kept_out(net: Running, tmp_path: Path) -> None:
    """Once the admin's transaction is certified; others connect as before, and HTTP serves."""
    files = files_of(net.home(3, "steward"))
    others = files_of(net.home(1, "steward"))
    before = ask(net, files, "GET", "/blobs/x")[1]["code"]
    body = tmp_path / "body.json"
    body.write_text(json.dumps(dump(SetStanding("hospital-3.steward", Standing.REVOKED))))

    assert concilium("submit", net.home(3, "admin"), "member.standing", body).code == 0
    until(
        lambda: ask(net, files, "GET", "/blobs/x")[1]["code"] == "peer.standing",
        "the revoked member refused",
    )
    status, answer = ask(net, files, "GET", "/blobs/x")
    register = concilium("submit", net.home(3, "steward"), "member.enrol", body)

    assert before != "peer.standing"
    assert status == 403
    assert "hospital-3.steward" in answer["detail"]
    assert ask(net, others, "GET", "/blobs/x")[1]["code"] == before
    assert fetch(f"{net.urls[1]}/v1/members/hospital-3.steward", net.auditor)[0] == 200
    assert register.code == 3
    assert_goes_on(net)


def test_a_truncated_upload_is_not_kept_and_goes_on_later(net: Running) -> None:
    """Half a chunk is nothing; what is missing is asked for again and then the blob is whole."""
    files = files_of(net.home(1, "steward"))
    content = secrets.token_bytes(CHUNK_BYTES + 1)
    chunks = list(split(content))
    address, manifest = summarise(chunks)
    assert manifest is not None
    root = f"/blobs/{address}"

    assert ask(net, files, "PUT", root, pack(manifest)) == (200, {"missing": [0, 1]})
    assert ask(net, files, "PUT", f"{root}/chunks/1", chunks[1]) == (200, {"whole": False})
    with closing(peer_port(net, files)) as connection:  # the line goes dead in the middle
        connection.putrequest("PUT", f"{root}/chunks/0")
        connection.putheader("Content-Length", str(len(chunks[0])))
        connection.endheaders(chunks[0][: CHUNK_BYTES // 2])
    short = ask(net, files, "PUT", f"{root}/chunks/0", chunks[0][: CHUNK_BYTES // 2])
    again = ask(net, files, "PUT", root, pack(manifest))
    whole = ask(net, files, "PUT", f"{root}/chunks/0", chunks[0])

    assert short[0] == 400
    assert short[1]["code"].startswith("blob.")
    assert again == (200, {"missing": [0]})
    assert whole == (200, {"whole": True})


# Careless operators


def test_a_second_process_on_a_home_is_refused(net: Running) -> None:
    """Two signers with one key could say two things: the first one keeps the lock."""
    text = concilium("run", net.home(1))
    error = concilium("run", net.home(1), "--format", "json")

    assert text.code == error.code == 3
    assert text.err.startswith("journal.locked: ")
    assert error.error[0] == "journal.locked"
    assert_goes_on(net)


@pytest.mark.parametrize("section", ["PEER", "HTTP"])
def test_a_busy_port_is_named(net: Running, tmp_path: Path, section: str) -> None:
    """With a store of its own, but another validator's port: it stops before it says a word."""
    shutil.copytree(net.home(1) / "store/journal", tmp_path / "store/journal")
    at = net.urls[1].removeprefix("http://")
    environment = {
        "CONCILIUM_STORE_FOLDER": str(tmp_path / "store"),
        "CONCILIUM_PEER_LISTEN": "127.0.0.1:1",
        "CONCILIUM_HTTP_LISTEN": at,
    }
    if section == "PEER":
        environment["CONCILIUM_PEER_LISTEN"] = at

    answer = concilium("run", net.home(1), "--format", "json", **environment)

    assert answer.code == 3
    code, message = answer.error
    assert code == "listen.port_busy"
    assert at in message


def test_a_wrong_genesis_is_refused_before_anything_is_written(
    net: Running, tmp_path: Path
) -> None:
    """A store of this chain under the genesis of another: both chains are named."""
    other = concilium("testnet", tmp_path / "other", "--format", "json").data["genesis"]
    net.kill(4)

    answer = concilium("run", net.home(4), "--format", "json", CONCILIUM_CHAIN_GENESIS=str(other))
    net.start(4)
    net.await_ready(4)

    assert answer.code == 3
    code, message = answer.error
    assert code == "genesis.mismatch"
    assert net.genesis.chain.hex() in message
    assert_goes_on(net)


def test_nobody_there_is_another_exit_code_than_refused(net: Running, tmp_path: Path) -> None:
    """4, so that a script may try again later; the addresses that were tried are named."""
    body = tmp_path / "body.json"
    body.write_text(json.dumps(dump(newcomer("x"))))
    genesis = str(net.layout.genesis)
    dead = ("--url", "http://127.0.0.1:9", "--url", "http://127.0.0.1:10")

    status = concilium("status", "--genesis", genesis, *dead, "--format", "json")
    audit = concilium("audit", "verify", "--genesis", genesis, *dead, "--model", "m")

    assert status.code == audit.code == 4
    assert status.error[0] == "client.unreachable"
    assert "http://127.0.0.1:9" in audit.err


def test_status_shows_who_is_down(net: Running) -> None:
    """Three of four answer: the command succeeds and names the one that does not."""
    net.kill(4)

    text = concilium("status", "--home", net.layout.auditor)
    data = concilium("status", "--home", net.layout.auditor, "--format", "json").data
    net.start(4)
    net.await_ready(4)

    assert text.code == 0
    assert data[net.urls[3]]["error"] == "client.unreachable"
    assert data[net.urls[0]]["name"] == "hospital-1.validator"
    assert f"{net.urls[3]} did not answer: client.unreachable: " in text.out

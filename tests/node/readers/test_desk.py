"""Who comes in: by a key, by a signature, by a token, and nobody who only seems to."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from node.readers.tokens import TOKEN_S
from node.wire.tls import client_context, reading_context
from tests.node.api.asking import assert_problem
from tests.node.network import HOSPITALS, Network, agree, say
from tests.node.parties import Consortium
from tests.node.readers.reading import (
    AUDITOR,
    TRAINER,
    ask,
    enrol,
    mint,
    private_network,
    run,
    set_standing,
    signed,
    token,
)
from tests.node.serving import Got, Node, call, get, serve
from tests.vm.council import propose, rotation
from vm.record import Role, Standing

MEMBERS = "/v1/members?limit=3"


def test_a_stranger_is_told_how_to_say_who_it_is(network: Network) -> None:
    """401, and the two fields by which programs find out what to send."""

    async def check(url: str, node: Node) -> None:
        got = await get(url + MEMBERS)
        assert_problem(got, 401, "reader.required")
        assert got.headers["WWW-Authenticate"] == 'Bearer realm="concilium"'
        assert '("@method" "@authority" "@path" "@query")' in got.headers["Accept-Signature"]
        assert 'tag="concilium"' in got.headers["Accept-Signature"]

    run(network, check)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v1/problems/reader.required"])
def test_what_says_how_a_node_is_stays_open(network: Network, path: str) -> None:
    """A load balancer has no key, and an error must be readable by whoever it stopped."""

    async def check(url: str, node: Node) -> None:
        assert (await get(url + path)).status == 200

    run(network, check)


def test_a_transaction_is_taken_from_anybody(network: Network) -> None:
    """It is signed itself: what counts is its sender, and not who carries it."""

    async def check(url: str, node: Node) -> None:
        got = await call("POST", f"{url}/v1/transactions", json={"transactions": ["AAAA"]})
        assert got.status == 422

    run(network, check)


def test_on_a_public_network_anybody_reads_what_is_not_restricted(tmp_path: Path) -> None:
    """Members and blocks, yes; whoever brings a bad credential is still refused."""
    with private_network(tmp_path, public=True) as network:

        async def check(url: str, node: Node) -> None:
            assert (await get(url + MEMBERS)).status == 200
            got = await get(url + MEMBERS, headers={"Authorization": "Bearer x"})
            assert_problem(got, 401, "reader.expired")

        run(network, check)


@pytest.mark.parametrize("role", Role)
def test_a_member_of_any_role_reads(network: Network, role: Role) -> None:
    """By a signed request, and by the token that it mints."""
    member = AUDITOR if role is Role.AUDITOR else f"{HOSPITALS[1]}.{role}"

    async def check(url: str, node: Node) -> None:
        assert (await ask(url + MEMBERS, member)).status == 200
        assert (await get(url + MEMBERS, headers=await token(url, member))).status == 200

    run(network, check)


def test_a_replayed_request_is_refused(network: Network) -> None:
    """Whoever saw it go by cannot send it again, not even a moment later."""

    async def check(url: str, node: Node) -> None:
        headers = signed(url + MEMBERS)
        assert (await get(url + MEMBERS, headers=headers)).status == 200
        assert_problem(await get(url + MEMBERS, headers=headers), 401, "reader.replayed")

    run(network, check)


def test_a_request_to_one_node_is_none_to_another(network: Network) -> None:
    """A validator that was asked cannot ask another in the reader's name, whatever it sends."""

    async def main() -> None:
        async with (
            serve(network, known=False) as (one, _),
            serve(network, known=False) as (two, _),
        ):
            headers = signed(f"{one}/v1/tokens", method="POST")
            headers["Host"] = one.removeprefix("http://")
            got = await call("POST", f"{two}/v1/tokens", headers=headers)
            assert_problem(got, 401, "reader.signature")
            mine = await token(one)
            assert_problem(await get(two + MEMBERS, headers=mine), 401, "reader.expired")
            assert (await get(one + MEMBERS, headers=mine)).status == 200

    asyncio.run(main())


def test_a_signature_from_before_the_start_is_refused(network: Network) -> None:
    """The nonces of before are forgotten, so all that was signed then is too old."""
    now = [1_700_000_000.0]

    async def check(url: str, node: Node) -> None:
        early = await get(url + MEMBERS, headers=signed(url + MEMBERS, at_s=now[0] - 1))
        assert_problem(early, 401, "reader.expired")
        assert early.headers["WWW-Authenticate"].endswith('error="invalid_token"')
        at_once = await get(url + MEMBERS, headers=signed(url + MEMBERS, at_s=now[0]))
        assert at_once.status == 200

    run(network, check, now_s=lambda: now[0])


def test_who_is_not_enrolled_is_refused(network: Network) -> None:
    """With a good signature of a key that nobody has enrolled."""

    async def check(url: str, node: Node) -> None:
        assert_problem(await ask(url + MEMBERS, "mallory"), 403, "reader.unknown")

    run(network, check)


@pytest.mark.parametrize("standing", [Standing.SUSPENDED, Standing.REVOKED])
def test_a_token_ends_with_the_member_s_standing(network: Network, standing: Standing) -> None:
    """With the block that says so, and not when its ten minutes are over."""

    async def check(url: str, node: Node) -> None:
        mine = await token(url, TRAINER)
        assert (await get(url + MEMBERS, headers=mine)).status == 200
        set_standing(network, TRAINER, standing)
        assert_problem(await get(url + MEMBERS, headers=mine), 403, "reader.standing")
        assert_problem(await ask(url + MEMBERS, TRAINER), 403, "reader.standing")

    run(network, check)


def test_a_token_ends_with_the_key_that_minted_it(network: Network) -> None:
    """A key is replaced because somebody else may hold it, and what was got by it may be his."""
    validator = f"{HOSPITALS[0]}.validator"

    async def check(url: str, node: Node) -> None:
        mine = await token(url, validator)
        say(network, [propose(1, "rotate", rotation(1))])
        agree(network, ("rotate",), (2, 3))
        assert_problem(await get(url + MEMBERS, headers=mine), 401, "reader.expired")
        assert_problem(await ask(url + MEMBERS, validator), 401, "reader.signature")

    run(network, check)


def test_a_token_ends_in_time(network: Network) -> None:
    """After ten minutes, to the second."""
    now = [1_700_000_000.0]

    async def check(url: str, node: Node) -> None:
        address = f"{url}/v1/tokens"
        headers = signed(address, method="POST", at_s=now[0])
        minted = (await call("POST", address, headers=headers)).body
        mine = {"Authorization": f"Bearer {minted['token']}"}
        assert minted["expires_s"] == TOKEN_S
        now[0] += TOKEN_S - 1
        assert (await get(url + MEMBERS, headers=mine)).status == 200
        now[0] += 1
        assert_problem(await get(url + MEMBERS, headers=mine), 401, "reader.expired")

    run(network, check, now_s=lambda: now[0])


def test_a_token_mints_none(network: Network) -> None:
    """Else one that was lost would live for ever."""

    async def check(url: str, node: Node) -> None:
        got = await call("POST", f"{url}/v1/tokens", headers=await token(url))
        assert_problem(got, 401, "reader.required")

    run(network, check)


def test_a_token_says_whose_it_is(network: Network) -> None:
    """And is never kept by a cache."""

    async def check(url: str, node: Node) -> None:
        got = await mint(url, TRAINER)
        assert got.status == 201
        assert (got.body["member"], got.body["role"]) == (TRAINER, "trainer")
        assert got.headers["Cache-Control"] == "no-store"
        assert len(got.body["token"]) == 43

    run(network, check)


@pytest.mark.parametrize(
    "changes",
    [
        {"Authorization": "Basic YTpi"},
        {"Authorization": "bearer x"},
        {"Authorization": "Bearer"},
        {"Authorization": ""},
    ],
)
def test_another_scheme_is_no_token(network: Network, changes: dict[str, str]) -> None:
    """Nothing that we do not know is overlooked."""

    async def check(url: str, node: Node) -> None:
        got = await get(url + MEMBERS, headers=changes)
        assert got.status == 401
        assert got.body["code"].startswith("reader.")

    run(network, check)


def test_a_token_in_two_lines_is_refused(network: Network) -> None:
    """Which of them counts, two programs on the way might read differently."""

    async def check(url: str, node: Node) -> None:
        mine = (await token(url))["Authorization"]
        lines = (f"Host: {url[7:]}", f"Authorization: {mine}", "Authorization: Bearer other")
        request = "\r\n".join((f"GET {MEMBERS} HTTP/1.1", *lines, "Connection: close", "", ""))
        status, body = await raw(url, request.encode())
        assert (status, body["code"]) == (401, "reader.signature")

    run(network, check)


def test_two_credentials_are_refused(network: Network) -> None:
    """A token and a signature: which of them asked would be our guess."""

    async def check(url: str, node: Node) -> None:
        both = signed(url + MEMBERS)
        both.update(await token(url))
        assert_problem(await get(url + MEMBERS, headers=both), 401, "reader.signature")

    run(network, check)


def test_a_good_token_beside_a_stripped_signature_is_refused(network: Network) -> None:
    """What is left of a credential is not overlooked."""

    async def check(url: str, node: Node) -> None:
        for name in ("Signature", "Signature-Input"):
            headers = signed(url + MEMBERS)
            del headers[name]
            assert_problem(await get(url + MEMBERS, headers=headers), 401, "reader.signature")

    run(network, check)


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (("Content-Length: 6",), "a body"),
        (("Content-Length: 60000000", "Content-Encoding: gzip"), ""),
        (("Transfer-Encoding: chunked",), "0\r\n\r\n"),
    ],
)
def test_a_body_is_refused_before_it_is_read(
    network: Network, lines: tuple[str, ...], body: str
) -> None:
    """Nothing that asks who reads takes one: nobody makes us read, unpack or digest it."""

    async def check(url: str, node: Node) -> None:
        request = smuggled(url, *lines) + body.encode()
        status, answer = await raw(url, request)
        assert (status, answer["code"]) == (400, "body.unwanted")

    run(network, check)


def test_a_signed_body_is_refused_too(network: Network) -> None:
    """A token is minted without one, whoever asks."""

    async def check(url: str, node: Node) -> None:
        address = f"{url}/v1/tokens"
        headers = signed(address, method="POST", body=b"a body")
        got = await call("POST", address, headers=headers, data=b"a body")
        assert_problem(got, 400, "body.unwanted")

    run(network, check)


@pytest.mark.parametrize("tail", ["/v1/members?limit=3#", "/v1/members?limit=3&x="])
def test_a_host_that_bends_the_url_moves_no_signature(network: Network, tail: str) -> None:
    """Who carries a signed request cannot have another path answered under its name."""

    async def check(url: str, _: Node) -> None:
        headers = signed(f"{url}/v1/members?limit=3")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        host = url.removeprefix("http://") + tail
        request = f"GET /v1/blocks HTTP/1.1\r\nHost: {host}\r\n{lines}Connection: close\r\n\r\n"

        status, body = await raw(url, request.encode())

        assert (status, body.get("code")) == (401, "reader.signature")

    run(network, check)


async def raw(url: str, request: bytes) -> tuple[int, dict[str, Any]]:
    """What a node answers to these bytes."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    try:
        found = json.loads(body.splitlines()[-1] if body else b"{}")
    except ValueError:
        found = {}
    return int(head.split(b" ")[1]), found


def smuggled(url: str, *lines: str, target: str = MEMBERS, drop: str = "") -> bytes:
    """A signed request with lines of an attacker's."""
    host = url.removeprefix("http://")
    fields = [f"{name}: {value}" for name, value in signed(url + MEMBERS).items() if name != drop]
    text = [f"GET {target} HTTP/1.1", f"Host: {host}", "Connection: close", *fields, *lines]
    return ("\r\n".join(text) + "\r\n\r\n").encode("latin-1")


@pytest.mark.parametrize(
    "lines",
    [
        ("Host: other.example",),
        ("Authorization: Bearer a", "Authorization: Bearer b"),
        ("Signature: other=:AAAA:",),
        ('Signature-Input: other=("@method");created=1',),
        (" Signature: other=:AAAA:",),  # a folded line
        ("Content-Digest: sha-256=:AAAA:", "Content-Digest: sha-256=:BBBB:"),
        ("signature : other=:AAAA:",),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
    ],
)
def test_header_fields_are_not_smuggled_in(network: Network, lines: tuple[str, ...]) -> None:
    """What one of two programs on the way would read otherwise is refused."""

    async def check(url: str, node: Node) -> None:
        status, _ = await raw(url, smuggled(url, *lines))
        assert status in (400, 401)
        assert (await raw(url, smuggled(url)))[0] == 200

    run(network, check)


def test_a_target_in_absolute_form_is_not_signed(network: Network) -> None:
    """The name in it would stand against the one in Host."""

    async def check(url: str, node: Node) -> None:
        status, body = await raw(url, smuggled(url, target=f"http://other.example{MEMBERS}"))
        assert (status, body["code"]) == (401, "reader.signature")

    run(network, check)


# Mutual TLS


def over_tls(tmp_path: Path, role: Role | None) -> tuple[Got, Got, Got]:
    """What a party reads with its certificate, without one, and with a token minted over TLS."""
    consortium = Consortium(tmp_path / "pki")
    server, party = consortium.certify("validator"), consortium.certify("party")
    with private_network(tmp_path) as network:
        if role is not None:
            enrol(network, "party", role, party.spki)
        answers: list[Got] = []

        async def ask_tls(url: str, method: str = "GET", **options: Any) -> Got:
            context = client_context(party.files)
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
                session.request(method, url, **options) as response,
            ):
                return Got(
                    response.status, response.headers, await response.json(content_type=None)
                )

        async def check(url: str, node: Node) -> None:
            answers.append(await ask_tls(url + MEMBERS))
            anonymous = client_context(party.files)
            bare = type(anonymous)(anonymous.protocol)
            bare.check_hostname = False
            bare.load_verify_locations(party.files.authority)
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=bare)) as session,
                session.get(url + MEMBERS) as response,
            ):
                answers.append(
                    Got(response.status, response.headers, await response.json(content_type=None))
                )
            minted = await ask_tls(f"{url}/v1/tokens", "POST")
            secret = minted.body.get("token", "none")
            answers.append(
                await ask_tls(url + MEMBERS, headers={"Authorization": f"Bearer {secret}"})
            )

        run(network, check, context=reading_context(server.files))
    first, second, third = answers
    return first, second, third


def test_a_tls_key_is_enough(tmp_path: Path) -> None:
    """Whose it is stands on the chain; without one a reader is nobody, and is not turned away."""
    known, unknown, by_token = over_tls(tmp_path, Role.TRAINER)

    assert known.status == 200
    assert_problem(unknown, 401, "reader.required")
    assert by_token.status == 200


def test_a_tls_key_that_nobody_enrolled_is_refused(tmp_path: Path) -> None:
    """The consortium's authority alone lets nobody read."""
    known, _, by_token = over_tls(tmp_path, None)

    assert_problem(known, 403, "reader.unknown")
    assert_problem(by_token, 401, "reader.expired")

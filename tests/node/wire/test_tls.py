"""Mutual TLS over real sockets: who gets in, and by what the two sides know each other."""

import asyncio
import ssl
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from node.wire.pki import (
    AUTHORITY_DAYS,
    Credential,
    create_authority,
    issue,
    spki_digest,
    warn_validity,
    write_credential,
)
from node.wire.tls import TlsFiles, client_context, peer_certificate, peer_spki, server_context
from vm.refusal import Refused

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=2 * AUTHORITY_DAYS)


@dataclass(frozen=True, slots=True)
class Party:
    """A member's TLS files and the digest of its key."""

    files: TlsFiles
    spki: bytes


def enrol(folder: Path, member: str, authority: Credential, issued: datetime = NOW) -> Party:
    """Give a member a certificate of an authority, and files under `folder` to use it."""
    home = folder / member
    home.mkdir()
    credential = issue(authority, member=member, organisation="h", hosts=(), now=issued)
    files = TlsFiles(home / "key.pem", home / "certificate.pem", home / "authority.pem")
    write_credential(credential, certificate=files.certificate, key=files.key)
    files.authority.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    return Party(files, spki_digest(credential.certificate.public_bytes(Encoding.DER)))


def meet(
    server: ssl.SSLContext, client: ssl.SSLContext
) -> tuple[ssl.SSLObject | None, ssl.SSLObject | None]:
    """Connect over a loopback socket; return each side's view, None where it was turned away."""

    async def run() -> tuple[ssl.SSLObject | None, ssl.SSLObject | None]:
        views: list[ssl.SSLObject] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            views.append(writer.get_extra_info("ssl_object"))
            writer.write(b"hello\n")
            await writer.drain()
            await reader.read()  # until the client closes
            writer.close()

        listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server)
        async with listener:
            port = listener.sockets[0].getsockname()[1]
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
            except (ssl.SSLError, ConnectionError):
                return (views[0] if views else None, None)
            view = writer.get_extra_info("ssl_object")
            try:
                # In TLS 1.3 a client learns here, not in the handshake, that it was turned away.
                greeted = await reader.readline() == b"hello\n"
            except (ssl.SSLError, ConnectionError):
                greeted = False
            writer.close()
        return (views[0] if views else None, view if greeted else None)

    return asyncio.run(run())


def test_two_members_know_each_other_by_their_keys(tmp_path: Path) -> None:
    """Each side sees the digest of the other's key, over TLS 1.3."""
    authority = create_authority("testnet", NOW)
    one, two = enrol(tmp_path, "one", authority), enrol(tmp_path, "two", authority)

    served, connected = meet(server_context(one.files), client_context(two.files))

    assert served is not None
    assert connected is not None
    assert peer_spki(served) == two.spki
    assert peer_spki(connected) == one.spki
    assert served.version() == "TLSv1.3"


def test_an_expired_certificate_connects_and_warns(tmp_path: Path) -> None:
    """Dates long past, of the certificates and of their authority, do not halt a consortium."""
    authority = create_authority("testnet", LONG_AGO)
    one, two = (
        enrol(tmp_path, "one", authority, LONG_AGO),
        enrol(tmp_path, "two", authority, LONG_AGO),
    )

    served, connected = meet(server_context(one.files), client_context(two.files))

    assert served is not None
    assert connected is not None
    assert peer_spki(served) == two.spki
    warning = warn_validity(peer_certificate(served), datetime.now(UTC))
    assert warning is not None
    assert "expired" in warning


def test_a_foreign_client_is_turned_away(tmp_path: Path) -> None:
    """A stranger's certificate, from an authority of the same name, does not reach our code."""
    ours, foreign = create_authority("testnet", NOW), create_authority("testnet", NOW)
    one, stranger = enrol(tmp_path, "one", ours), enrol(tmp_path, "stranger", foreign)
    trusting = replace(stranger.files, authority=one.files.authority)

    served, connected = meet(server_context(one.files), client_context(trusting))

    assert served is None
    assert connected is None


def test_a_foreign_server_is_turned_away(tmp_path: Path) -> None:
    """A client does not speak to a server whose certificate another authority signed."""
    ours, foreign = create_authority("testnet", NOW), create_authority("testnet", NOW)
    one, stranger = enrol(tmp_path, "one", ours), enrol(tmp_path, "stranger", foreign)
    trusting = replace(stranger.files, authority=one.files.authority)

    served, connected = meet(server_context(trusting), client_context(one.files))

    assert served is None
    assert connected is None


def test_a_client_without_a_certificate_is_turned_away(tmp_path: Path) -> None:
    """Whoever shows no certificate gets no further."""
    one = enrol(tmp_path, "one", create_authority("testnet", NOW))
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.load_verify_locations(one.files.authority)

    served, connected = meet(server_context(one.files), bare)

    assert served is None
    assert connected is None


def test_tls_1_2_is_turned_away(tmp_path: Path) -> None:
    """A client that offers nothing newer than TLS 1.2 is refused."""
    authority = create_authority("testnet", NOW)
    one, two = enrol(tmp_path, "one", authority), enrol(tmp_path, "two", authority)
    old = client_context(two.files)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    served, connected = meet(server_context(one.files), old)

    assert served is None
    assert connected is None


def test_a_chained_key_that_is_not_enrolled_is_told_apart(tmp_path: Path) -> None:
    """A certificate of the right authority and the right name, but of another key, differs."""
    authority = create_authority("testnet", NOW)
    one, two = enrol(tmp_path, "one", authority), enrol(tmp_path, "two", authority)
    impostor = issue(authority, member="two", organisation="h", hosts=(), now=NOW)
    folder = one.files.key.parent
    files = TlsFiles(folder / "other.key", folder / "other.crt", one.files.authority)
    write_credential(impostor, certificate=files.certificate, key=files.key)

    served, connected = meet(server_context(one.files), client_context(files))

    assert connected is not None
    assert served is not None
    assert peer_spki(served) != two.spki


def test_an_encrypted_key_is_refused_without_a_prompt(tmp_path: Path) -> None:
    """A service has no terminal to ask for a password."""
    one = enrol(tmp_path, "one", create_authority("testnet", NOW))
    key = load_pem_private_key(one.files.key.read_bytes(), None)
    encryption = BestAvailableEncryption(b"secret")
    one.files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))

    with pytest.raises(Refused) as refused:
        server_context(one.files)

    assert refused.value.code == "tls.key"


@pytest.mark.parametrize(
    ("file", "broken", "code"),
    [
        ("key", None, "key.missing"),
        ("key", b"garbage", "tls.key"),
        ("certificate", None, "tls.certificate"),
        ("certificate", b"garbage", "tls.key"),
        ("authority", None, "tls.authority"),
        ("authority", b"garbage", "tls.authority"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, file: str, broken: bytes | None, code: str) -> None:
    """Each missing or broken file is refused by code, with its path."""
    one = enrol(tmp_path, "one", create_authority("testnet", NOW))
    path: Path = getattr(one.files, file)
    path.unlink()
    if broken is not None:
        path.touch(mode=0o600)
        path.write_bytes(broken)

    with pytest.raises(Refused, match=str(path)) as refused:
        server_context(one.files)

    assert refused.value.code == code


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """A private key open to others no longer says who connects."""
    one = enrol(tmp_path, "one", create_authority("testnet", NOW))
    one.files.key.chmod(0o644)

    with pytest.raises(Refused) as refused:
        client_context(one.files)

    assert refused.value.code == "key.permission"


def test_the_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    """A key and a certificate that do not belong together are found at the start."""
    authority = create_authority("testnet", NOW)
    one, two = enrol(tmp_path, "one", authority), enrol(tmp_path, "two", authority)

    with pytest.raises(Refused) as refused:
        client_context(replace(one.files, key=two.files.key))

    assert refused.value.code == "tls.key"

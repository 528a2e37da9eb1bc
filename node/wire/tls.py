"""Mutual TLS 1.3 (RFC 8446): who has no certificate of the consortium gets no further."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from node.home.keyfile import read_private
from node.wire.pki import KEY_BYTES_MAX, parse_certificate, spki_digest
from vm.refusal import Refused

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h; the standard library has no name for it.
# The key enrolled on chain decides who may connect; dates only warn (`pki.warn_validity`).
NO_CHECK_TIME = 0x200000


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: our private key, our certificate, and the consortium's authority."""

    key: Path
    certificate: Path
    authority: Path


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For accepting connections; raises as `client_context` does."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, files)
    context.num_tickets = 0  # no resumption: each connection proves its key anew
    return context


def reading_context(files: TlsFiles) -> ssl.SSLContext:
    """For accepting readers, who may show a certificate; raises as `client_context` does."""
    context = server_context(files)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def named_context(files: TlsFiles) -> ssl.SSLContext:
    """For asking over https://, as a member: the server's name must be in its certificate.

    What is read is proven and need not come from that server; a token must go to no other. Raises
    as `client_context` does.
    """
    context = client_context(files)
    context.check_hostname = True
    return context


def authority_context(authority: Path) -> ssl.SSLContext:
    """As `named_context`, for one who has no TLS key; raises `Refused("tls.authority")`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= NO_CHECK_TIME
    _trust(context, authority)
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For connecting out.

    Host names are not compared: the caller compares `peer_spki` with the key that the chain has
    for the member it meant to reach. Raises `Refused` with code `key.*` for the private key's
    file, `tls.certificate`, `tls.authority` or `tls.key`.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, files)


def peer_certificate(connection: ssl.SSLObject | ssl.SSLSocket) -> x509.Certificate:
    """Return the certificate that the other side proved to hold the key of."""
    return parse_certificate(_peer_der(connection))


def peer_spki(connection: ssl.SSLObject | ssl.SSLSocket) -> bytes:
    """Return the digest of the other side's key, to be compared with `Member.transport`."""
    return spki_digest(_peer_der(connection))


def _peer_der(connection: ssl.SSLObject | ssl.SSLSocket) -> bytes:
    der = connection.getpeercert(binary_form=True)
    assert der is not None, "both sides must show a certificate, so a handshake without one fails"
    return der


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= NO_CHECK_TIME
    read_private(files.key, KEY_BYTES_MAX)
    _require_file("tls.certificate", files.certificate)
    _trust(context, files.authority)
    try:
        # An encrypted key must be an error: without a password here OpenSSL would ask a terminal.
        context.load_cert_chain(files.certificate, files.key, password=b"")
    except (ssl.SSLError, OSError) as error:
        raise Refused(
            "tls.key",
            f"{files.key}: expected the unencrypted PEM key of {files.certificate}, found: {error}",
        ) from error
    return context


def _trust(context: ssl.SSLContext, authority: Path) -> None:
    _require_file("tls.authority", authority)
    try:
        context.load_verify_locations(cafile=authority)
    except (ssl.SSLError, OSError) as error:
        raise Refused(
            "tls.authority", f"{authority}: expected PEM certificates, found: {error}"
        ) from error


def _require_file(code: str, path: Path) -> None:
    if not path.is_file():
        raise Refused(code, f"{path}: expected a PEM file, found none")

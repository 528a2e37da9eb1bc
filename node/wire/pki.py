"""X.509 certificates for mutual TLS: the consortium's authority and one certificate a member.

The chain of a certificate keeps strangers out before anything is parsed; the digest of its key,
enrolled on chain, says who connects. So dates only warn: an expired certificate must not halt a
consortium, and revoking a member needs no revocation list.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node.home.keyfile import read_private, write_private
from vm.refusal import Refused

AUTHORITY_DAYS = 20 * 365  # longer than the retention of any record that it helped to write
MEMBER_DAYS = 2 * 365
WARNING_DAYS = 30  # time enough to enrol a new key by an ordinary transaction
CLOCK_SKEW = timedelta(hours=1)  # certificates start earlier: a peer's clock may lag
LOCAL_HOSTS = ("localhost", "127.0.0.1")  # of validators that are reached on this machine alone
CERTIFICATE_BYTES_MAX = 16 * 1024  # ours take about 1 KiB
KEY_BYTES_MAX = 16 * 1024  # a PEM private key of any size in use


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate and its private key (EC P-256)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Request:
    """What an authority is asked to certify, and the private key that it never sees."""

    request: x509.CertificateSigningRequest
    key: ec.EllipticCurvePrivateKey


def create_authority(consortium: str, now: datetime) -> Credential:
    """Make the consortium's self-signed certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(consortium, "certificate authority")
    certificate = (
        _builder(key.public_key(), subject=name, issuer=name, now=now, days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, SHA256())
    )
    return Credential(certificate, key)


def issue(
    authority: Credential, *, member: str, organisation: str, hosts: Sequence[str], now: datetime
) -> Credential:
    """Issue a certificate with which `member` both serves and connects.

    Its alternative names are the member's id and `hosts` (names or addresses): where it is reached
    and nowhere else, or it would pass there for whoever is.
    """
    made = create_request(member=member, organisation=organisation, hosts=hosts)
    return Credential(certify(authority, made.request, now), made.key)


def create_request(*, member: str, organisation: str, hosts: Sequence[str]) -> Request:
    """Make a TLS key, and a request (PKCS #10) for what `issue` would give: the key stays here."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [_general_name(name) for name in dict.fromkeys((member, *hosts))]
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_name(organisation, member))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, SHA256())
    )
    return Request(request, key)


def certify(
    authority: Credential, request: x509.CertificateSigningRequest, now: datetime
) -> x509.Certificate:
    """The certificate that was requested; of the request only names and key are taken over.

    Raises `Refused("tls.request")` unless the request is signed by its own key.
    """
    key, signer = request.public_key(), authority.certificate.public_key()
    assert isinstance(signer, ec.EllipticCurvePublicKey), "our authorities have EC keys"
    if not isinstance(key, ec.EllipticCurvePublicKey) or not request.is_signature_valid:
        raise Refused("tls.request", "expected a request signed by its own EC key, found another")
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise Refused("tls.request", f"expected alternative names, found: {error}") from error
    return (
        _builder(
            key,
            subject=request.subject,
            issuer=authority.certificate.subject,
            now=now,
            days=MEMBER_DAYS,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(names, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
        .sign(authority.key, SHA256())
    )


def read_request(data: bytes) -> x509.CertificateSigningRequest:
    """Read a request's PEM bytes; raises `Refused("tls.request")`."""
    try:
        return x509.load_pem_x509_csr(data)
    except ValueError as error:
        raise Refused("tls.request", f"expected a PEM certificate request: {error}") from error


def read_credential(*, certificate: Path, key: Path) -> Credential:
    """Read what `write_credential` wrote; raises `Refused("tls.certificate" | "key.*")`."""
    secret = read_private(key, KEY_BYTES_MAX)
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = load_pem_private_key(secret, None)
    except (OSError, ValueError, TypeError) as error:
        raise Refused(
            "tls.certificate", f"expected the certificate {certificate} and its key, found: {error}"
        ) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise Refused("tls.certificate", f"{key}: expected an EC key, found another kind")
    return Credential(found, private)


def spki_digest(certificate_der: bytes) -> bytes:
    """SHA-256 of the certificate's SubjectPublicKeyInfo: what `Member.transport` enrols.

    It names the key, so a renewed certificate for the same key needs no transaction. Raises
    `Refused("tls.certificate")`.
    """
    return key_digest(parse_certificate(certificate_der).public_key())


def certified_spki(path: Path) -> bytes:
    """`spki_digest` of a certificate in a PEM file; raises `Refused("tls.certificate")`."""
    try:
        return key_digest(x509.load_pem_x509_certificate(path.read_bytes()).public_key())
    except (OSError, ValueError) as error:
        raise Refused(
            "tls.certificate", f"{path}: expected a PEM certificate, found: {error}"
        ) from error


def key_digest(key: CertificatePublicKeyTypes) -> bytes:
    """SHA-256 of a TLS key's SubjectPublicKeyInfo."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def parse_certificate(der: bytes) -> x509.Certificate:
    """Read a certificate's DER bytes; raises `Refused("tls.certificate")`."""
    if len(der) > CERTIFICATE_BYTES_MAX:
        raise Refused(
            "tls.certificate",
            f"expected a certificate of at most {CERTIFICATE_BYTES_MAX} bytes, found {len(der)}",
        )
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise Refused("tls.certificate", f"expected an X.509 certificate: {error}") from error


def warn_validity(certificate: x509.Certificate, now: datetime) -> str | None:
    """Say what is wrong, or about to be, with a certificate's dates; None if nothing is."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    subject = certificate.subject.rfc4514_string()
    if now < start:
        return f"certificate of {subject} is not valid before {start:%Y-%m-%d}"
    if now > end:
        return f"certificate of {subject} expired on {end:%Y-%m-%d}"
    if now > end - timedelta(days=WARNING_DAYS):
        return f"certificate of {subject} expires on {end:%Y-%m-%d}"
    return None


def write_credential(credential: Credential, *, certificate: Path, key: Path) -> None:
    """Write both as PEM; the key readable by its owner alone, never over an existing file."""
    write_tls_key(credential.key, key)
    certificate.write_bytes(credential.certificate.public_bytes(Encoding.PEM))


def write_tls_key(key: ec.EllipticCurvePrivateKey, path: Path) -> None:
    """Write a TLS key as PEM, readable by its owner alone, never over an existing file."""
    write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _builder(
    public: ec.EllipticCurvePublicKey,
    *,
    subject: x509.Name,
    issuer: x509.Name,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _name(organisation: str, common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

"""Certificates: whom they name, how their keys are told apart, and when their dates warn."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from node.wire.pki import (
    AUTHORITY_DAYS,
    CERTIFICATE_BYTES_MAX,
    MEMBER_DAYS,
    WARNING_DAYS,
    Credential,
    certify,
    create_authority,
    create_request,
    issue,
    key_digest,
    read_credential,
    read_request,
    spki_digest,
    warn_validity,
    write_credential,
)
from vm.refusal import Refused

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority() -> Credential:
    """The consortium's authority."""
    return create_authority("testnet", NOW)


def issue_one(authority: Credential, hosts: tuple[str, ...] = ()) -> Credential:
    """Issue a certificate to one validator."""
    return issue(
        authority, member="hospital-1.validator", organisation="hospital-1", hosts=hosts, now=NOW
    )


def der(credential: Credential) -> bytes:
    """Return the DER bytes of a credential's certificate."""
    return credential.certificate.public_bytes(Encoding.DER)


def test_a_certificate_names_its_member_and_hosts(authority: Credential) -> None:
    """The alternative names are the member and the given hosts, each once, and no others."""
    certificate = issue_one(authority, ("node.example", "10.0.0.7", "node.example")).certificate

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert names.get_values_for_type(x509.DNSName) == [
        "hospital-1.validator",
        "node.example",
    ]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]


def test_a_member_cannot_issue_certificates(authority: Credential) -> None:
    """A member's certificate is no authority, so none can vouch for another."""
    certificate = issue_one(authority).certificate

    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)

    assert constraints.critical
    assert not constraints.value.ca
    assert not usage.value.key_cert_sign


def test_a_certificate_is_signed_by_the_authority(authority: Credential) -> None:
    """The signature verifies under the authority, and under no other of the same name."""
    certificate = issue_one(authority).certificate

    certificate.verify_directly_issued_by(authority.certificate)
    stranger = create_authority("testnet", NOW)
    with pytest.raises(InvalidSignature):
        certificate.verify_directly_issued_by(stranger.certificate)


def test_the_digest_is_of_the_key_not_of_the_certificate(authority: Credential) -> None:
    """Two keys have two digests though the names are equal; each is 32 bytes."""
    first, second = issue_one(authority), issue_one(authority)

    assert spki_digest(der(first)) != spki_digest(der(second))
    assert spki_digest(der(first)) == spki_digest(der(first))
    assert len(spki_digest(der(first))) == 32


@pytest.mark.parametrize("data", [b"", b"\x30\x03abc", b"\x30" * (CERTIFICATE_BYTES_MAX + 1)])
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    """Garbage, and anything longer than a certificate can be, has no key to compare."""
    with pytest.raises(Refused) as refused:
        spki_digest(data)

    assert refused.value.code == "tls.certificate"


@pytest.mark.parametrize(
    ("days", "warning"),
    [
        (-1, "not valid before 2026-02-28"),
        (0, None),
        (MEMBER_DAYS - WARNING_DAYS - 1, None),
        (MEMBER_DAYS - 1, "expires on 2028-02-29"),
        (MEMBER_DAYS + 1, "expired on 2028-02-29"),
    ],
)
def test_dates_warn_before_and_after(authority: Credential, days: int, warning: str | None) -> None:
    """A certificate outside its dates, or within a month of their end, is worth a warning."""
    certificate = issue_one(authority).certificate

    found = warn_validity(certificate, NOW + timedelta(days=days))

    if warning is None:
        assert found is None
    else:
        assert found is not None
        assert found.endswith(warning)
        assert "hospital-1.validator" in found


def test_the_authority_outlives_what_it_issues(authority: Credential) -> None:
    """Members renew many times under one authority."""
    assert AUTHORITY_DAYS > 5 * MEMBER_DAYS
    assert warn_validity(authority.certificate, NOW + timedelta(days=AUTHORITY_DAYS // 2)) is None


def test_a_private_key_is_written_for_its_owner_alone(
    authority: Credential, tmp_path: Path
) -> None:
    """The key file has mode 600, and a second credential does not overwrite it."""
    paths = {"certificate": tmp_path / "a.crt", "key": tmp_path / "a.key"}
    credential = issue_one(authority)
    write_credential(credential, **paths)

    with pytest.raises(Refused) as refused:
        write_credential(issue_one(authority), **paths)

    assert refused.value.code == "key.exists"
    assert paths["key"].stat().st_mode & 0o777 == 0o600
    assert x509.load_pem_x509_certificate(paths["certificate"].read_bytes()) == (
        credential.certificate
    )


def test_a_request_is_certified_without_its_key(authority: Credential, tmp_path: Path) -> None:
    """The hospital keeps the key; names and key are taken over, dates are the authority's."""
    made = create_request(member="h.validator", organisation="h", hosts=("node.example",))
    pem = made.request.public_bytes(Encoding.PEM)

    certificate = certify(authority, read_request(pem), NOW)

    issued = issue(
        authority, member="h.validator", organisation="h", hosts=("node.example",), now=NOW
    ).certificate
    assert certificate.subject == issued.subject
    assert [item.oid for item in certificate.extensions] == [i.oid for i in issued.extensions]
    assert certificate.not_valid_after_utc == issued.not_valid_after_utc
    assert spki_digest(certificate.public_bytes(Encoding.DER)) == key_digest(made.key.public_key())


def test_a_request_that_another_key_signed_is_refused(authority: Credential) -> None:
    """Else somebody could have a certificate for a key that he does not hold."""
    made = create_request(member="h.validator", organisation="h", hosts=())
    data = bytearray(made.request.public_bytes(Encoding.DER))
    data[-1] ^= 1

    for forged in (
        x509.load_der_x509_csr(bytes(data)),
        x509.CertificateSigningRequestBuilder(made.request.subject).sign(made.key, SHA256()),
    ):
        with pytest.raises(Refused) as refused:
            certify(authority, forged, NOW)
        assert refused.value.code == "tls.request"


def test_what_is_no_request_is_refused() -> None:
    """By code, whatever it is."""
    for data in (b"", b"-----BEGIN CERTIFICATE REQUEST-----", b"\xff" * 40):
        with pytest.raises(Refused) as refused:
            read_request(data)
        assert refused.value.code == "tls.request"


def test_a_credential_is_read_back(authority: Credential, tmp_path: Path) -> None:
    """An authority's files are enough to certify with; half of them are refused."""
    files = tmp_path / "authority.crt", tmp_path / "authority.key"
    write_credential(authority, certificate=files[0], key=files[1])

    found = read_credential(certificate=files[0], key=files[1])
    files[0].write_text("x")

    assert found.certificate == authority.certificate
    assert found.key.private_numbers() == authority.key.private_numbers()
    with pytest.raises(Refused) as refused:
        read_credential(certificate=files[0], key=files[1])
    assert refused.value.code == "tls.certificate"

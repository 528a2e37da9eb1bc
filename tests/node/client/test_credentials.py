"""What a home's member can show: its TLS key where there is one, and always its signature."""

import ssl
from datetime import UTC, datetime

import pytest

from node.client.credentials import credentials_of
from node.home.config import ClientConfig, OfficeConfig, load
from node.home.keyfile import read_key
from node.home.testnet import Layout, write_testnet


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The homes of a network."""
    folder = tmp_path_factory.mktemp("credentials") / "net"
    return write_testnet(folder, now=datetime(2026, 3, 1, tzinfo=UTC))


def test_an_auditor_without_a_tls_key_trusts_the_authority(net: Layout) -> None:
    """It signs, and knows over https:// whom it speaks to: by name and by the consortium."""
    settings = load(ClientConfig, net.auditor, {})

    found = credentials_of(settings.member, settings.tls)

    assert found.member == "auditor"
    assert found.key.public == read_key(settings.member.key).public
    assert found.tls is not None
    assert found.tls.check_hostname
    assert found.tls.verify_mode is ssl.CERT_REQUIRED


def test_a_newcomer_s_admin_has_a_signing_key_alone(net: Layout) -> None:
    """No certificate was asked for: it reads and speaks on the chain like any other."""
    settings = load(OfficeConfig, net.home("hospital-2", "admin"), {})
    assert credentials_of(settings.member, settings.tls).tls is not None
    settings.member.tls_key.unlink()
    settings.tls.authority.unlink()

    found = credentials_of(settings.member, settings.tls)

    assert (found.member, found.tls) == ("hospital-2.admin", None)

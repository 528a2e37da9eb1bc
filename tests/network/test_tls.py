"""Validators that serve TLS by themselves: an auditor's commands, and servers that are others."""

import asyncio
import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from node.demo.processes import free_ports
from node.home import config
from node.wire.pki import certify, create_authority, read_credential
from tests.network.running import DEADLINE_S, Running, concilium, newcomer, until
from tests.network.test_auditor import Watch, audit

pytestmark = pytest.mark.network

MISNAMED = 4  # the validator whose certificate is of another name
UNREACHABLE = 4  # exit code


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Four validators over TLS, the last of which has a certificate for another host."""
    network = Running(tmp_path_factory.mktemp("tls") / "net", tls=True)
    rename(network, MISNAMED)
    try:
        for number in network.numbers:
            network.start(number)
        network.await_ready(1, 2, 3)
        asyncio.run(begin(network))
        yield network
    finally:
        network.close()


def rename(net: Running, number: int) -> None:
    """Give a validator's key another certificate of the consortium, for a host elsewhere."""
    files = config.load(config.ValidatorConfig, net.home(number), {}).member
    folder = net.layout.directory / "authority"
    authority = read_credential(certificate=folder / "authority.crt", key=folder / "authority.key")
    held = read_credential(certificate=files.tls_certificate, key=files.tls_key)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(held.certificate.subject)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("elsewhere.example")]), False)
        .sign(held.key, SHA256())
    )
    made = certify(authority, request, datetime.now(UTC))
    files.tls_certificate.write_bytes(made.public_bytes(Encoding.PEM))


async def begin(net: Running) -> None:
    """The first block, by an admin who shows its TLS key."""
    async with net.pen(1) as pen:
        await pen.submit("member.enrol", newcomer("hospital-1.newcomer"))


def test_an_auditor_follows_and_reads_over_tls(net: Running) -> None:
    """It has no TLS key: it signs once at each node, for the TLS key that it sees there."""
    home = net.layout.auditor

    synced = audit("sync", "--home", home).data
    record = audit("record", "member", "hospital-1.newcomer", "--home", home).data

    states = [node["state"] for node in synced["nodes"]]
    assert sorted(states) == ["agrees", "agrees", "agrees", "unreachable"]
    assert record["subject"] == "member hospital-1.newcomer"


def test_an_auditor_watches_over_tls(net: Running, tmp_path: Path) -> None:
    """Round by round, with the token that it was given."""
    watch = Watch(net.layout.auditor, free_ports(1), tmp_path / "watch.log")
    try:
        until(lambda: watch.metric("concilium_watch_rounds_total") > 2, "three rounds")
        height = watch.metric("concilium_followed_height")
        watch.process.send_signal(signal.SIGINT)
        watch.process.wait(DEADLINE_S)
    finally:
        watch.process.kill()

    assert height > 0


def test_a_member_s_tls_key_is_enough(net: Running) -> None:
    """An office reads with it."""
    listed = concilium("governance", "list", net.home(1, "admin"), "--format", "json")

    assert listed.code == 0, listed


def test_a_server_of_another_name_is_not_spoken_to(net: Running) -> None:
    """Its certificate is the consortium's and its key the chain's: the name is not this one."""
    url = net.urls[MISNAMED - 1]

    answer = audit("record", "member", "auditor", "--home", net.layout.auditor, "--url", url)

    assert answer.code == UNREACHABLE
    assert answer.error[0] == "client.unreachable"
    assert "certificate verify failed" in answer.error[1]


def test_a_server_of_another_authority_is_not_spoken_to(net: Running, tmp_path: Path) -> None:
    """Whoever trusts another consortium hears nothing of this one."""
    home = tmp_path / "auditor"
    shutil.copytree(net.layout.auditor, home)
    other = create_authority("another", datetime.now(UTC)).certificate
    (home / "tls" / "authority.crt").write_bytes(other.public_bytes(Encoding.PEM))

    answer = audit("record", "member", "auditor", "--home", home)

    assert answer.code == UNREACHABLE
    assert answer.error[0] == "client.unreachable"
    assert "certificate verify failed" in answer.error[1]

"""`concilium audit report`, from an auditor's home to a file that verifies."""

import asyncio
import json
from hashlib import sha256
from pathlib import Path

import pytest

from node.cli import main
from node.commands.report import REFUSED, UNVERIFIED
from node.home.config import CONFIG_FILE, Chain, Client, ClientConfig, Signer, Tls, render
from node.home.document import dump
from node.home.keyfile import SEED_HEADER, write_private
from tests.node.case.made import AUDITOR, VERSION, run_case
from tests.node.network import MODEL, Network, open_network
from tests.node.serving import serve


def write_home(folder: Path, network: Network, url: str) -> Path:
    """The home of an auditor with a key of the tests."""
    home = folder / "auditor"
    home.mkdir()
    (home / "genesis.json").write_text(json.dumps(dump(network.genesis)))
    seed = sha256(AUDITOR.encode()).hexdigest()  # as `tests.harness.key_of` makes it
    write_private(home / "auditor.key", f"{SEED_HEADER}\n{seed}\n".encode())
    settings = ClientConfig(
        member=Signer(id=AUDITOR, key=Path("auditor.key")),
        tls=Tls(authority=Path("authority.pem")),
        chain=Chain(genesis=Path("genesis.json")),
        client=Client(validators=(url, url.replace("127.0.0.1", "localhost"))),
    )
    (home / CONFIG_FILE).write_text(render(settings))
    return home


def test_a_report_is_written_once_and_verifies_offline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The node is asked for the report alone; whoever verifies it asks nobody."""
    out = tmp_path / "case.zip"

    async def report(network: Network) -> tuple[Path, list[int]]:
        async with serve(network) as (url, _):
            home = write_home(tmp_path, network, url)
            command = ["audit", "report", "--home", str(home), "--model", MODEL]
            made = ["--out", str(out), "--format", "json"]
            again = ["--out", str(tmp_path / "again.zip"), "--checkpoint", str(out)]
            codes = [
                await asyncio.to_thread(main, [*command, *rest]) for rest in (made, made, again)
            ]
            return home, codes

    with open_network(tmp_path) as network:
        run_case(network)
        home, codes = asyncio.run(report(network))
        height = network.chain.head.height

    assert codes == [0, REFUSED, 0]
    assert (tmp_path / "again.zip").read_bytes() == out.read_bytes()
    assert '"height": ' + str(height) in capsys.readouterr().out

    assert main(["audit", "verify", str(out), "--home", str(home), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["subject"] == (
        f"case file of model {MODEL} version {VERSION}"
    )

    changed = tmp_path / "changed.zip"
    changed.write_bytes(out.read_bytes().replace(b"rejected", b"accepted", 1))
    assert main(["audit", "verify", str(changed), "--home", str(home)]) == UNVERIFIED
    assert "case.page" in capsys.readouterr().err

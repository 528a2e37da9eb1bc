"""A validator's home at the command line: made, recovered, pruned."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node.cli import main
from node.commands.report import REFUSED, USAGE
from node.home.testnet import Layout, write_testnet
from node.validator.store import Store
from tests.node.network import NO_COMMITS, open_network
from tests.node.refusals import refusal


@pytest.fixture
def net(tmp_path: Path) -> Layout:
    """Homes of this test's own, from which nothing was started."""
    return write_testnet(tmp_path / "net", now=datetime(2026, 3, 1, tzinfo=UTC))


def test_a_lost_journal_is_recovered_by_the_command_that_the_refusal_names(
    net: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what it has done and what comes next; a second time there is nothing to do."""
    home = net.home("hospital-1", "validator")
    shutil.rmtree(home / "store" / "journal")

    code, message = refusal(capsys, "run", str(home), exit_code=REFUSED)
    assert code == "journal.lost"
    assert message.endswith(f"concilium validator recover {home}")

    assert main(["validator", "recover", str(home)]) == 0
    text = capsys.readouterr().out
    assert "never votes again" in text
    assert f"concilium validator rotate {home}" in text
    code, _ = refusal(capsys, "validator", "recover", str(home), exit_code=REFUSED)
    assert code == "journal.sound"


def test_a_stopped_validator_is_pruned_by_command(
    net: Layout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It says what is left, in both formats; too few blocks, and no chain, are refused."""
    home, folder = str(net.home("hospital-1", "validator")), tmp_path / "stopped"
    folder.mkdir()
    monkeypatch.setenv("CONCILIUM_STORE_FOLDER", str(folder))
    assert refusal(capsys, "prune", home, exit_code=REFUSED)[0] == "prune.nothing"
    with open_network(folder) as network:
        for height in range(1, 1_101):
            header = network.chain.execute(height, b"", NO_COMMITS)
        network.certify(header)
    (folder / "store").rename(folder / "chain")

    code, message = refusal(capsys, "prune", home, "--retain", "1000", exit_code=REFUSED)
    assert (code, "at least 1024" in message) == ("prune.retain", True)
    assert main(["prune", home, "--retain", "1024", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"below": 77, "snapshots": [1024]}
    assert main(["prune", home]) == 0
    assert "from height 77 on" in capsys.readouterr().out
    store = Store(folder / "chain")
    assert (store.row(0), store.block(76)) == (None, None)
    assert store.block(77) is not None
    store.close()


def test_a_newcomer_is_told_each_step(
    net: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From an admin's home to a seat to propose; what was written is named in JSON."""
    public = tmp_path / "public"
    public.mkdir()
    shutil.copy(net.directory / "authority" / "authority.crt", public)

    def call(*arguments: object) -> dict[str, str]:
        assert main([*map(str, arguments), "--format", "json"]) == 0
        answer: dict[str, str] = json.loads(capsys.readouterr().out)
        return answer

    admitted = call(
        *("governance", "init", tmp_path / "admin", "--organisation", "hospital-5"),
        *("--title", "Hospital 5", "--region", "NL", "--like", net.home("hospital-1", "admin")),
    )
    seated = call(
        *("validator", "init", tmp_path / "five", "--id", "hospital-5.validator"),
        *("--organisation", "hospital-5", "--genesis", net.genesis, "--authority", public),
        *("--like", net.home("hospital-1", "validator"), "--listen", "127.0.0.1:7200"),
        *("--http", "127.0.0.1:7201", "--address", "five.example:7200"),
        *("--http-name", "five.example:7201", "--http-name", "five.example"),
    )
    granted = call(
        *("validator", "certify", seated["request"]),
        *("--authority", net.directory / "authority", "--out", tmp_path / "five/tls/validator.crt"),
    )
    rotated = call("validator", "rotate", tmp_path / "five")

    seat = json.loads(Path(seated["document"]).read_text())
    assert json.loads(Path(admitted["document"]).read_text())["type"] == "admit_organisation"
    assert (seat["type"], seat["address"]) == ("seat_validator", "five.example:7200")
    text = (tmp_path / "five" / "concilium.toml").read_text()
    assert 'names = ["five.example:7201", "five.example"]' in text
    assert granted["transport"] == seat["transport"]
    assert json.loads(Path(rotated["document"]).read_text())["type"] == "rotate_key"


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("--listen", ("--listen", "here", "--http", "x:1")),
        ("--http-name", ("--listen", "x:1", "--http", "x:2", "--http-name", "https://x")),
    ],
)
def test_an_address_that_is_none_is_a_usage_error(
    net: Layout,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    given: tuple[str, ...],
) -> None:
    """The option is named, and nothing is written."""
    code, message = refusal(
        capsys,
        *("validator", "init", str(tmp_path / "x"), "--id", "a", "--organisation", "b"),
        *("--genesis", str(net.genesis), "--authority", str(net.directory / "authority")),
        *("--like", str(net.home("hospital-1", "validator")), *given),
        exit_code=USAGE,
    )

    assert code == "usage.address"
    assert message.startswith(f"{option}: ")
    assert not (tmp_path / "x").exists()

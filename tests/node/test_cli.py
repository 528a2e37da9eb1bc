"""The command line without a network: help, usage, formats, and homes that cannot be used."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import structlog

from fl.metric import Figures
from fl.spec import logistic_regression
from node.cli import app, main
from node.commands.report import EXIT_CODES, REFUSED, UNVERIFIED, USAGE
from node.demo.processes import free_ports
from node.home.document import dump
from node.home.testnet import Layout, write_testnet
from node.peer.report import Entry, Report
from tests.fl.dialogue import TERMS
from tests.node.hospital import table
from tests.node.refusals import refusal

COMMANDS = (
    "testnet",
    "run",
    "prune",
    "governance init",
    "governance propose",
    "governance approve",
    "governance list",
    "governance show",
    "validator init",
    "validator certify",
    "validator rotate",
    "validator recover",
    "status",
    "submit",
    "peer run",
    "peer check",
    "peer report",
    "peer approve",
    "peer withdraw",
    "peer decline",
    "learning calibrate",
    "dataset register",
    "task open",
    "model get",
    "audit verify",
    "audit sync",
    "audit pin",
    "audit watch",
    "audit record",
    "audit transaction",
    "audit block",
    "audit learning",
    "usage add",
    "usage send",
    "usage list",
    "usage open",
)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Homes that nothing was started from; tests override them by the environment.

    Nobody answers at their ports: a network on the default ones may run beside the tests.
    """
    now = datetime(2026, 3, 1, tzinfo=UTC)
    directory = tmp_path_factory.mktemp("cli") / "net"
    return write_testnet(directory, now=now, base_port=free_ports(8))


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """`run` sets up logging on this test's stderr: forget it afterwards."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Help names every parameter with a sentence, --format among them, and the exit codes."""
    assert main([*command.split(), "--help"]) == 0

    text = capsys.readouterr().out
    assert text.startswith(f"Usage: concilium {command} ")
    assert "--format" in text
    assert EXIT_CODES in text
    found = reduce(lambda group, name: group[name], command.split(), app)
    for argument in found.assemble_argument_collection(parse_docstring=True):
        if argument.children:  # a group of options, each of which comes by itself
            continue
        assert argument.parameter.help, argument.name
        assert argument.name in text


def test_the_command_list_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    """Every group and command of the table above is in `concilium --help`, and no other."""
    main(["--help"])

    listed = re.findall(r"^│ ([a-z]+) ", capsys.readouterr().out, re.MULTILINE)

    assert set(listed) == {command.split()[0] for command in COMMANDS}


@pytest.mark.parametrize(
    ("arguments", "quoted"),
    [
        (["bogus"], "bogus"),
        (["testnet"], "directory"),
        (["testnet", "x", "--organisations", "four"], "four"),
        (["testnet", "x", "--bogus"], "--bogus"),
        (["testnet", "x", "y"], "y"),
        (["model", "get", "home", "id"], "out"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(
    arguments: list[str], quoted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, what is wrong, and where help is; in JSON too."""
    code, message = refusal(capsys, *arguments, exit_code=USAGE)

    assert code == "usage.arguments"
    assert quoted in message
    assert "--help" in message


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["status"], "usage.genesis"),
        (["status", "--genesis", "g"], "usage.url"),
        (["audit", "verify"], "usage.subject"),
        (["audit", "verify", "file", "--model", "m"], "usage.subject"),
        (["audit", "verify", "file"], "usage.genesis"),
        (["task", "open", "home", "terms", "--id", "t", "--weights", "w"], "usage.model"),
        (["task", "open", "home", "terms", "--id", "t", "--spec", "s"], "usage.model"),
    ],
)
def test_arguments_that_do_not_go_together(
    arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is asked, read or silently left out."""
    assert refusal(capsys, *arguments, exit_code=USAGE)[0] == code


@pytest.mark.parametrize("form", [["--format", "json"], ["--format=json"]])
def test_both_spellings_of_the_format_count(
    form: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors are JSON either way, and a value that is no format does not make them so."""
    main(["status", *form])
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "usage.genesis"

    main(["audit", "verify", "json"])
    assert capsys.readouterr().err.startswith("usage.genesis: ")


def test_a_testnet_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer says how to start it; a second time is refused and changes nothing."""
    folder = tmp_path / "net"
    assert main(["testnet", str(folder), "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    code, message = refusal(capsys, "testnet", str(folder), exit_code=REFUSED)

    assert code == "testnet.exists"
    assert str(folder) in message
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert data["genesis"] == str(folder / "genesis.json")
    assert all(Path(home, "concilium.toml").is_file() for home in data["validators"])


# Homes that cannot be used: (what is wrong, the variable that says so, the code)

Break = Callable[[Path], str]


def missing(folder: Path) -> str:
    """Where nothing is."""
    return str(folder / "none")


def unreadable(folder: Path) -> str:
    """A folder in a file's place: unreadable for root as well."""
    return str(folder)


def written(text: str, mode: int = 0o600) -> Break:
    """A file with this text."""

    def write(folder: Path) -> str:
        path = folder / "file"
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    return write


def of_another(role: str, name: str) -> Break:
    """The file of another member's home."""

    def find(folder: Path) -> str:
        other = write_testnet(folder / "other", now=datetime(2026, 3, 1, tzinfo=UTC))
        return str(other.home("hospital-2", role) / name)

    return find


SEED = f"concilium ed25519 seed v1\n{'00' * 32}\n"
UNUSABLE: dict[str, tuple[str, Break, str]] = {
    "no key": ("MEMBER_KEY", missing, "key.missing"),
    "unreadable key": ("MEMBER_KEY", unreadable, "key.unreadable"),
    "key for all to read": ("MEMBER_KEY", written(SEED, 0o644), "key.permission"),
    "key in another form": ("MEMBER_KEY", written("-----BEGIN"), "key.format"),
    "short key": ("MEMBER_KEY", written("concilium ed25519 seed v1\n00\n"), "key.length"),
    "a key from elsewhere": ("MEMBER_KEY", written(SEED), "key.journal"),
    "another's key": (
        "MEMBER_KEY",
        of_another("validator", "keys/validator.key"),
        "journal.lost",
    ),
    "no journal": ("STORE_FOLDER", missing, "journal.lost"),
    "no TLS key": ("MEMBER_TLS_KEY", missing, "key.missing"),
    "another's TLS key": (
        "MEMBER_TLS_KEY",
        of_another("validator", "tls/validator.key"),
        "tls.key",
    ),
    "no certificate": ("MEMBER_TLS_CERTIFICATE", missing, "tls.certificate"),
    "no authority": ("TLS_AUTHORITY", missing, "tls.authority"),
    "authority in another form": ("TLS_AUTHORITY", written("x"), "tls.authority"),
    "no genesis": ("CHAIN_GENESIS", missing, "genesis.unreadable"),
    "genesis in another form": ("CHAIN_GENESIS", written("x"), "document.json"),
    "a file for a store": ("STORE_FOLDER", written("x"), "store.unusable"),
    "an unknown key": ("MEMBER_COLOUR", lambda _: "red", "config.unknown"),
    "no port": ("HTTP_LISTEN", lambda _: "127.0.0.1", "config.value"),
    "not our address": ("HTTP_LISTEN", lambda _: "192.0.2.1:7100", "listen.address"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_validator_that_cannot_start_says_why(
    name: str,
    net: Layout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One code and a sentence with what was expected; exit code 3; and it starts once mended."""
    variable, make, code = UNUSABLE[name]
    home = net.home("hospital-1", "validator")
    shutil.copytree(home / "store", tmp_path / "store")
    monkeypatch.setenv("CONCILIUM_STORE_FOLDER", str(tmp_path / "store"))
    monkeypatch.setenv("CONCILIUM_PEER_LISTEN", "127.0.0.1:28997")
    monkeypatch.setenv(f"CONCILIUM_{variable}", make(tmp_path))

    found, message = refusal(capsys, "run", str(home), exit_code=REFUSED)

    assert found == code, message
    assert "expected" in message


def test_an_unknown_key_in_the_file_is_shown_with_its_section(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person finds it: file, [section] and key."""
    net = write_testnet(tmp_path / "net", now=datetime(2026, 3, 1, tzinfo=UTC))
    file = net.auditor / "concilium.toml"
    file.write_text(file.read_text().replace("[client]", "[client]\ncolour = 'red'"))

    code, message = refusal(capsys, "status", "--home", str(net.auditor), exit_code=REFUSED)

    assert code == "config.unknown"
    assert message.startswith(f"{file}: [client] colour: ")


def test_a_home_of_another_kind_is_refused(net: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """A validator is not run from an office's home."""
    code, _ = refusal(capsys, "run", str(net.home("hospital-1", "steward")), exit_code=REFUSED)

    assert code.startswith("config.")


FILE: dict[str, Any] = {
    "format": "concilium.proof.v1",
    "kind": "record",
    "chain": "00" * 32,
    "from": None,
    "steps": [],
    "subject": {},
    "proof": "",
}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x", "file.format"),
        ("{}", "file.format"),
        (json.dumps(FILE), "file.format"),
    ],
)
def test_a_file_that_is_no_proof(
    net: Layout, tmp_path: Path, text: str, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused as an input: nothing was claimed that could be false."""
    file = tmp_path / "proof.json"
    file.write_text(text)

    arguments = ("audit", "verify", str(file), "--genesis", str(net.genesis))

    assert refusal(capsys, *arguments, exit_code=REFUSED)[0] == code


def test_a_proof_file_of_another_chain_is_not_verified(
    net: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it claims is not borne out, which has an exit code of its own."""
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(FILE | {"format": "concilium.proof.v2"}))

    arguments = ("audit", "verify", str(file), "--genesis", str(net.genesis))

    assert refusal(capsys, *arguments, exit_code=UNVERIFIED)[0] == "audit.chain"


def test_a_missing_proof_file(net: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback where a file name was mistyped."""
    arguments = ("audit", "verify", "/none/proof.json", "--genesis", str(net.genesis))

    assert refusal(capsys, *arguments, exit_code=REFUSED)[0] == "file.unreadable"


def test_a_hospital_reads_its_report(net: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """For people and for programs, of all tasks or of one; where there is none it is empty."""
    home = net.home(net.hospitals[0], "peer")
    assert main(["peer", "report", str(home), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"rounds": []}
    figures = Figures(30, 0.71, 0.5, 0.3, None, 0.9)
    entry = Entry("risk", 1, "closed", 1, "rejected", "update.norm", "large", 5, {"base": figures})
    Report(home / "store").append(entry)

    assert main(["peer", "report", str(home)]) == 0
    text = capsys.readouterr().out
    assert main(["peer", "report", str(home), "--task", "risk", "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["rounds"]
    assert main(["peer", "report", str(home), "--task", "another", "--format", "json"]) == 0

    assert "rejected: update.norm" in text
    assert "0.710" in text
    assert found["figures"]["base"]["auc"] == 0.71
    assert json.loads(capsys.readouterr().out) == {"rounds": []}


def test_withdrawing_an_approval(
    net: Layout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listed task has to be taken out of the list; of another there is nothing to withdraw."""
    home = net.home(net.hospitals[0], "peer")
    assert main(["peer", "withdraw", str(home), "risk", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["withdrawn"] is False
    monkeypatch.setenv("CONCILIUM_TRAINING_TASKS", '["risk"]')

    code, message = refusal(capsys, "peer", "withdraw", str(home), "risk", exit_code=REFUSED)

    assert code == "peer.listed"
    assert "take it out of the list" in message


def test_a_dry_run_without_a_chain(
    net: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Terms and layers from files; no validator runs, and none is asked."""
    home = tmp_path / "peer"
    shutil.copytree(net.home(net.hospitals[0], "peer"), home)
    (home / "rows.csv").write_text(table(1))
    terms, spec, other = (tmp_path / name for name in ("terms", "spec", "other"))
    terms.write_text(json.dumps(dump(TERMS)))
    spec.write_text(json.dumps(dump(logistic_regression(2))))
    other.write_text(json.dumps(dump(logistic_regression(3))))
    run = ("peer", "run", str(home))
    files = ("--dry-run", "--terms", str(terms))

    assert main([*run, *files, "--spec", str(spec), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main([*run, *files, "--spec", str(spec)]) == 0
    text = capsys.readouterr().out

    assert (found["sent"], len(found["losses"])) == (False, TERMS.training.steps)
    assert found["own"]["log_loss"] < found["base"]["log_loss"]
    assert "trained here and sent nowhere" in text
    assert "not registered yet" in text
    for arguments, code in (
        ((*files,), "usage.spec"),
        ((*files, "--spec", str(other)), "usage.spec"),
        ((*files, "--spec", str(spec), "--task", "t"), "usage.spec"),
        (("--dry-run",), "usage.task"),
        (("--dry-run", "--spec", str(spec)), "usage.task"),
        (("--task", "t"), "usage.dry_run"),
    ):
        assert refusal(capsys, *run, *arguments, exit_code=USAGE)[0] == code


@pytest.mark.parametrize("own", [None, "2"])
def test_products_take_one_thread_unless_the_operator_says_otherwise(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A validator that aggregates leaves a core to consensus, and waits for no slow thread."""
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if own is not None:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", own)

    main(["--version"])

    assert os.environ["OPENBLAS_NUM_THREADS"] == (own or "1")

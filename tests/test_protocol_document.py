"""docs/protocol.md says what the code does: its tables, its codes, its example, its links."""

import ast
import hashlib
import inspect
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from consensus.message import CommitCertificate
from fl import fixed, opening, replay, rounds, settle, trace, verify
from node.api.app import build_api
from node.program import program
from node.validator.chain import Chain
from node.validator.store import Store
from tests.vectors import BUILDERS, FOLDER, second
from tests.vectors.codes import receipt_codes, stated
from tests.vectors.ledger import Ledger, story
from tests.vectors.reign import reign
from tests.vectors.tables import DOCUMENT, filled

TEXT = DOCUMENT.read_text()
HEADING = re.compile(r"^#{2,4} (.+)$", re.MULTILINE)
CODE = re.compile(r"`([a-z0-9_]+(?:\.[a-z0-9_]+)*)`")


PREFIXES = ("round.", "update.", "verdict.", "trace.", "opening.", "replay.")


def section(title: str) -> str:
    """The text under a heading of level 2 or 3, up to the next heading of its level or above."""
    level, begin = next(
        (len(found[1]), found.end())
        for found in re.finditer(r"^(#{2,3}) (.+)$", TEXT, re.MULTILINE)
        if found[2] == title
    )
    end = re.search(rf"^#{{2,{level}}} ", TEXT[begin:], re.MULTILINE)
    return TEXT[begin : begin + end.start()] if end else TEXT[begin:]


def first_cells(text: str) -> list[str]:
    """The codes in the first column of the tables in `text`."""
    return re.findall(r"^\| `([a-z0-9_.]+)` \|", text, re.MULTILINE)


def anchor(title: str) -> str:
    """The fragment by which a heading is linked to, as forges make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_the_tables_are_what_the_code_says() -> None:
    """Fields, types, bounds, tags, limits, access and errors: `python -m tests.vectors.tables`."""
    assert filled(TEXT) == TEXT


def test_the_list_of_receipt_codes_is_complete() -> None:
    """Codes are hashed into receipts, so a second implementation must know every one of them."""
    listed = first_cells(section("Receipt codes"))

    assert len(set(listed)) == len(listed)
    assert set(listed) == receipt_codes()


def test_each_receipt_code_stands_by_its_check() -> None:
    """Which check comes first decides the code, so a list of codes alone is not enough."""
    rest = TEXT.replace(section("Receipt codes"), "")

    assert {code for code in receipt_codes() if f"`{code}`" not in rest} <= {"applied"}


@pytest.mark.parametrize(
    ("module", "title"),
    [
        (rounds, "Rounds"),
        (settle, "Rounds"),
        (verify, "Verdicts"),
        (trace, "Verdicts"),
        (opening, "Opened segments"),
        (replay, "Opened segments"),
    ],
)
def test_codes_of_rounds_and_verdicts_are_named(module: ModuleType, title: str) -> None:
    """Codes of rounds and outcomes are state; those of verdicts are what verifiers should send."""
    named = set(CODE.findall(section(title)))

    codes = stated(module.__name__, PREFIXES)

    assert codes
    assert codes <= named
    assert stated(fixed.__name__, ("update.",)) <= set(CODE.findall(section("Grid")))


def test_the_sentences_that_are_state_are_quoted() -> None:
    """Reasons in rounds and outcomes are hashed, so each word of them is protocol."""
    quoted = {
        re.sub(r"\{[^}]*\}", "{}", " ".join(found.split()))
        for found in re.findall(r'"([^"]*)"', section("Rounds"))
    }

    written = {text for module in (rounds, settle) for text in reasons(module)}

    assert len(written) >= 8
    assert written <= quoted


def reasons(module: ModuleType) -> list[str]:
    """The texts that a module assigns to `reason`, with {} for what it fills in."""
    found = []
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        match node:
            case ast.Assign([ast.Name("reason")], ast.JoinedStr() | ast.Constant() as text):
                found.append(re.sub(r"\{[^}]*\}", "{}", ast.unparse(text).strip("f'\"")))
    return found


def test_headings_are_distinct_and_links_resolve() -> None:
    """Two headings with one name would share an anchor: links to one would lead to the other."""
    anchors = [anchor(title) for title in HEADING.findall(TEXT)]

    linked = set(re.findall(r"\]\(#([^)]+)\)", TEXT))

    assert len(set(anchors)) == len(anchors)
    assert linked <= set(anchors)


def test_each_vector_file_names_a_section() -> None:
    """A vector says what it checks in words that the document has too."""
    titles = set(HEADING.findall(TEXT))

    sections = {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in BUILDERS}

    assert {name for name, found in sections.items() if found["section"] not in titles} == set()


def test_the_worked_example_is_the_vector() -> None:
    """The bytes in the document give the vector's id with nothing but SHA-256."""
    vector = json.loads((FOLDER / "transaction.json").read_text())
    block = section("Transactions").split("```")[1]
    shown = bytes.fromhex("".join(line[:36].split(" ")[0] for line in block.splitlines()))
    tag = b"concilium.transaction.v1"

    id = hashlib.sha256(bytes([len(tag)]) + tag + shown).hexdigest()

    assert (shown.hex(), id) == (vector["intent"], vector["id"])


def test_a_second_reader_reads_and_writes_the_same_bytes() -> None:
    """Written from the document, it accepts and refuses exactly what the vectors say."""
    vector = json.loads((FOLDER / "encoding.json").read_text())

    for case in vector["encoded"]:
        data = bytes.fromhex(case["bytes"])
        assert second.encode(second.decode(data)) == data
    for case in vector["refused"]:
        with pytest.raises(second.Wrong):
            second.decode(bytes.fromhex(case["bytes"]))


@pytest.mark.parametrize(
    ("claim", "method"),
    [
        ("header", "header"),
        ("header_in_history", "header"),
        ("record", "record"),
        ("absence", "record"),
        ("transaction", "transaction"),
        ("record_at", "record_at"),
        ("records", "records"),
        ("block", "block"),
        ("consistency", "consistency"),
        ("lineage", "lineage"),
    ],
)
def test_a_second_reader_judges_proofs_alike(claim: str, method: str) -> None:
    """Proofs are for strangers: an auditor's own program accepts and refuses what ours does."""
    vector = json.loads((FOLDER / "inclusion.json").read_text())
    auditor = second.Auditor(bytes.fromhex(vector["genesis"]))
    asked = {
        name: [bytes.fromhex(key) for key in value] if name == "keys" else value
        for name, value in vector[claim].items()
        if name in ("keys", "height", "under")
    }
    judge = partial(getattr(auditor, method), **asked)

    judge(second.decode(bytes.fromhex(vector[claim]["accepted"])))

    assert auditor.chain.hex() == vector["chain"]
    for attack in vector[claim]["refused"]:
        with pytest.raises(second.Wrong):
            judge(second.decode(bytes.fromhex(attack["proof"])))


def test_a_second_reader_verifies_files_alike() -> None:
    """From genesis and from a pin; what a file claims beyond its proof is refused by both."""
    vector = json.loads((FOLDER / "file.json").read_text())
    genesis = bytes.fromhex(vector["genesis"])

    for case in vector["accepted"]:
        second.read_file(case["file"], genesis, case["pin"])

    for case in vector["refused"]:
        with pytest.raises(second.Wrong):
            second.read_file(case["file"], genesis, case["pin"])


def test_a_second_reader_judges_uses_alike() -> None:
    """What a hospital shows of its uses can be checked by an auditor's own program."""
    vector = json.loads((FOLDER / "use.json").read_text())
    auditor = second.Auditor(bytes.fromhex(vector["genesis"]))
    note = bytes.fromhex(vector["note"]["salt"]) + vector["note"]["text"].encode()

    shown = [auditor.uses(second.decode(bytes.fromhex(proof))) for proof in vector["accepted"]]

    leaves = [second.decode(bytes.fromhex(leaf)) for leaf in vector["leaves"]]
    assert shown == [leaves[1:2], leaves]
    assert second.digest("use-note", note) == leaves[1][8]
    for attack in vector["refused"]:
        with pytest.raises(second.Wrong):
            auditor.uses(second.decode(bytes.fromhex(attack["proof"])))


def test_a_second_reader_judges_state_paths_alike() -> None:
    """Presence and absence, and every lie that is made from a true path."""
    vector = json.loads((FOLDER / "sparse.json").read_text())
    root = bytes.fromhex(vector["heights"][-1]["digest"])

    def holds(case: dict[str, Any]) -> bool:
        value = None if case["value"] is None else bytes.fromhex(case["value"])
        path = second.decode(bytes.fromhex(case["path"]))
        try:
            return second.state_root(path, bytes.fromhex(case["key"]), value) == root
        except second.Wrong:
            return False

    assert all(holds(case) for case in vector["accepted"])
    assert not any(holds(case) for case in vector["refused"])


def test_a_second_reader_signs_and_accuses_alike() -> None:
    """What each message signs follows from the document, and so does what proves a fault."""
    vector = json.loads((FOLDER / "agreement.json").read_text())
    chain = bytes.fromhex(vector["chain"])
    seats = second.decode(bytes.fromhex(vector["validators"]))[1]
    keys = {seat[1]: seat[3] for seat in seats}
    signed = [message for message in vector["messages"] if message["signed"] is not None]

    assert len(signed) == 6
    for message in signed:
        _, sender, epoch, (tag, body), signature, _ = second.decode(
            bytes.fromhex(message["envelope"])
        )
        said = second.stated(tag, body)
        covered = second.statement(chain, epoch, *said)
        assert (said[-1].hex(), covered.hex()) == (message["content"], message["signed"])
        second.verify(keys[sender], covered, signature)
    for accepted in vector["evidence"]["accepted"]:
        second.contradiction(chain, keys, second.decode(bytes.fromhex(accepted)))
    for attack in vector["evidence"]["refused"]:
        with pytest.raises(second.Wrong):
            second.contradiction(chain, keys, second.decode(bytes.fromhex(attack["evidence"])))


def test_a_second_reader_follows_validator_sets_alike() -> None:
    """The steps of the vectors lead it to their epochs, and what is false leads it nowhere."""
    vector = json.loads((FOLDER / "succession.json").read_text())
    epochs = json.loads((FOLDER / "governance.json").read_text())["epochs"]

    def followed(steps: list[str]) -> list[str]:
        auditor = second.Auditor(bytes.fromhex(vector["genesis"]))
        for step in steps:
            auditor.follow(second.decode(bytes.fromhex(step)))
        return [second.encode(epoch).hex() for epoch in auditor.epochs]

    assert followed(vector["steps"]) == epochs
    for case in vector["refused"]:
        with pytest.raises(second.Wrong):
            followed(case["steps"])


def test_a_second_reader_judges_signed_requests_alike() -> None:
    """What is signed follows from the document and RFC 9421 by plain text."""
    vector = json.loads((FOLDER / "reading.json").read_text())
    key = bytes.fromhex(vector["public_key"])

    def judge(case: dict[str, Any]) -> None:
        signed = second.signed_request(case["method"], case["url"], case["headers"])
        second.verify(key, *signed)

    for case in vector["accepted"]:
        judge(case)
    for attack in vector["refused"]:
        if attack["why"] not in ("over", "ahead of time"):
            with pytest.raises(second.Wrong):
                judge(attack)


def test_every_route_is_described() -> None:
    """A client is written from the document, so a route that it lacks does not exist."""
    app = build_api(cast(Any, SimpleNamespace(desk=SimpleNamespace(public=True))))
    paths = {resource.canonical for resource in app.router.resources()}

    missing = {path for path in paths if f"{path}`" not in TEXT and f"{path}/{{" not in TEXT}

    assert len(paths) > 20
    assert missing == set()


@pytest.mark.parametrize("told", [story, reign])
def test_a_validator_comes_to_the_vectors_headers(
    tmp_path: Path, told: Callable[[], Ledger]
) -> None:
    """A story is executed by the tests' own ledger; a node's store must agree block by block."""
    store = Store(tmp_path / "chain")
    chain = Chain(store, told().genesis, program(), {})
    certificate = CommitCertificate(0, 1, bytes(32), ())

    headers = [chain.execute(b.header.height, b.payload, certificate) for b in told().blocks[1:]]
    store.close()

    assert headers == [made.header for made in told().blocks[1:]]

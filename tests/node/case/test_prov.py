"""A case file's provenance, read back by the library that others use."""

import json
import os
import subprocess
import sys
from pathlib import Path

import rfc8785
from prov.model import (
    ProvActivity,
    ProvAgent,
    ProvDerivation,
    ProvDocument,
    ProvEntity,
    ProvGeneration,
    ProvUsage,
)

from node.case.contents import Case
from node.case.prov import write_prov
from tests.node.network import HOSPITALS, MODEL, TASK

ROOT = Path(__file__).parents[3]


def names(document: ProvDocument, kind: type) -> set[str]:
    """Identifiers of all records of a class."""
    return {str(item.identifier) for item in document.get_records(kind)}


def pairs(document: ProvDocument, kind: type) -> set[tuple[str, str]]:
    """What each relation of a class is between."""
    return {(str(item.args[0]), str(item.args[1])) for item in document.get_records(kind)}


def test_the_document_is_prov_json_in_canonical_form(case: Case) -> None:
    """Others read it back, and it is one string of bytes."""
    data = write_prov(case)

    document = ProvDocument.deserialize(content=data.decode(), format="json")

    assert rfc8785.dumps(json.loads(data)) == data
    assert not document.has_bundles()


def test_versions_updates_and_people_are_there_by_the_names_of_their_records(case: Case) -> None:
    """An identifier is a record's kind and key."""
    document = ProvDocument.deserialize(content=write_prov(case).decode(), format="json")

    entities = names(document, ProvEntity)
    assert {f"c:model/{MODEL}/{number}" for number in range(3)} <= entities
    assert f"c:update/{TASK}/1/{HOSPITALS[0]}" in entities
    assert f"c:dataset/{HOSPITALS[0]}.opt" in entities
    assert {f"c:round/{TASK}/{number}" for number in (1, 2, 3)} <= names(document, ProvActivity)
    assert {f"c:organisation/{name}" for name in HOSPITALS} <= names(document, ProvAgent)


def test_a_version_comes_of_its_round_and_that_of_accepted_updates_alone(case: Case) -> None:
    """A rejected update is there, but no round used it."""
    document = ProvDocument.deserialize(content=write_prov(case).decode(), format="json")

    made, used = pairs(document, ProvGeneration), pairs(document, ProvUsage)
    assert (f"c:model/{MODEL}/2", f"c:round/{TASK}/3") in made
    assert (f"c:round/{TASK}/3", f"c:update/{TASK}/3/{HOSPITALS[0]}") in used
    assert (f"c:round/{TASK}/3", f"c:update/{TASK}/3/{HOSPITALS[3]}") not in used
    assert (f"c:model/{MODEL}/2", f"c:model/{MODEL}/1") in pairs(document, ProvDerivation)


def test_other_processes_write_the_same_bytes(case: Case) -> None:
    """Whatever order their sets and dictionaries have: the hash seed differs."""
    code = (
        "import hashlib, tempfile\n"
        "from pathlib import Path\n"
        "from node.case.contents import contents\n"
        "from node.case.page import write_page\n"
        "from node.case.prov import write_prov\n"
        "from tests.node.case.made import case_of, run_case\n"
        "from tests.node.network import open_network\n"
        "with tempfile.TemporaryDirectory() as folder, open_network(Path(folder)) as network:\n"
        "    run_case(network)\n"
        "    case = case_of(network)\n"
        "    data = write_prov(case) + write_page(contents(case))\n"
        "    print(hashlib.sha256(data).hexdigest())\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }

    assert len(found) == 1

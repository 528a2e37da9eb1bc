"""Audits over HTTP and of files, against honest and malicious servers."""

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from node.audit.check import ModelAudit, audit_lineage, audit_model, utc, verify_file, write_file
from node.audit.prove import newest, prove_key, prove_lineage, prove_transaction
from node.client.client import Client
from tests.harness import genesis_of
from tests.node.network import HOSPITALS, MODEL, POISONER, Network, certificate, learn, open_network
from tests.node.serving import serve, serve_app
from vm.genesis import check_genesis
from vm.inclusion import LineageProof, RecordProof
from vm.record import ModelHead
from vm.refusal import Refused
from vm.shape import pack
from vm.state import state_key

Forge = Callable[[Network, LineageProof], LineageProof]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A chain on which a task of two rounds ran; nothing here writes to it."""
    folder: Path = tmp_path_factory.mktemp("audit")
    with open_network(folder) as made:
        learn(made, 2)
        yield made


def lineage_of(network: Network) -> LineageProof:
    """The lineage of version 2, as an honest node proves it."""
    return prove_lineage(network.chain, newest(network.chain), MODEL, 2)


def refusal(check: Callable[[], object]) -> str:
    """The code with which `check` refuses."""
    with pytest.raises(Refused) as caught:
        check()
    return caught.value.code


def test_an_auditor_verifies_the_newest_version_over_http(network: Network) -> None:
    """With nothing but genesis and a URL the auditor has the lineage, and what was checked."""

    async def main() -> ModelAudit:
        async with serve(network) as (url, _), Client(network.genesis, [url]) as client:
            return await audit_model(client, MODEL)

    found = asyncio.run(main())

    assert found.lineage.model.version == 2
    assert found.audit.subject == f"model {MODEL} version 2"
    assert found.audit.height == network.chain.head.height
    assert "certified by 3 of 4 validators" in found.audit.steps[0]
    assert found.audit.steps[-3:] == (
        "evidence of the accepted updates: 6 committed: bound on chain, not replayed",
        "audits of traces: 0 passed, 0 failed, 0 unavailable; no mark on the model",
        f"version 2 the newest at height {found.audit.height}, {utc(found.audit.time_ms)}",
    )
    assert {item["evidence"] for item in found.audit.content["rounds"]} == {"committed"}
    first = found.audit.content["rounds"][0]["updates"][0]
    assert first["evidence"] == "committed"
    assert first["audits"] == {"passed": 0, "failed": 0, "unavailable": 0}
    assert [verdict["code"] for verdict in first["verdicts"]] == ["update.sound"] * 3
    rejected = [
        outcome["organisation"]
        for item in found.audit.content["rounds"]
        for outcome in item["outcomes"]
        if outcome["status"] == "rejected"
    ]
    assert rejected == [POISONER, POISONER]
    assert found.audit.content["datasets"][0]["conditions"] == ["DUO:0000006"]


def forge_value(network: Network, proof: LineageProof) -> LineageProof:
    """Another model's bytes."""
    first = replace(proof.records[0], value=(proof.records[0].value or b"")[:-1] + b"\x00")
    return replace(proof, records=(first, *proof.records[1:]))


def omit(kind: str) -> Forge:
    """Leave out the last record of a kind."""

    def forge(network: Network, proof: LineageProof) -> LineageProof:
        mark = state_key(kind, ())[1:]
        index = max(i for i, record in enumerate(proof.records) if mark in record.key)
        return replace(proof, records=proof.records[:index] + proof.records[index + 1 :])

    return forge


def add(network: Network, proof: LineageProof) -> LineageProof:
    """Something sound that does not belong."""
    extra = prove_key(network.chain, newest(network.chain), state_key("member", ("nobody",)))
    record = replace(proof.records[0], key=extra.key, value=extra.value, path=extra.path)
    return replace(proof, records=(*proof.records, record))


def cut_path(network: Network, proof: LineageProof) -> LineageProof:
    """A path without its topmost sibling."""
    path = proof.records[3].path
    record = replace(proof.records[3], path=replace(path, siblings=path.siblings[:-1]))
    return replace(proof, records=(*proof.records[:3], record, *proof.records[4:]))


def swap_paths(network: Network, proof: LineageProof) -> LineageProof:
    """Two records with each other's path."""
    one, two, *rest = proof.records
    return replace(proof, records=(replace(one, path=two.path), replace(two, path=one.path), *rest))


def stale_root(network: Network, proof: LineageProof) -> LineageProof:
    """An earlier certified header above newer paths."""
    row, held = network.chain.store.row(4), network.chain.store.certificate(4)
    assert row is not None
    assert held is not None
    return replace(proof, certified=replace(proof.certified, header=row.header, certificate=held))


def signed_by(*names: str) -> Forge:
    """A certificate by these organisations' validators."""

    def forge(network: Network, proof: LineageProof) -> LineageProof:
        made = certificate(network.genesis, proof.certified.header, names)
        return replace(proof, certified=replace(proof.certified, certificate=made))

    return forge


def other_chain(network: Network, proof: LineageProof) -> LineageProof:
    """A sound proof's header, said to be of another chain."""
    header = replace(proof.certified.header, chain=bytes(32))
    return replace(proof, certified=replace(proof.certified, header=header))


def older_version(network: Network, proof: LineageProof) -> LineageProof:
    """A sound lineage of another version than the one asked for."""
    return prove_lineage(network.chain, newest(network.chain), MODEL, 1)


ATTACKS = [
    (forge_value, "audit.path.root"),
    (cut_path, "audit.path.root"),
    (swap_paths, "audit.path.root"),
    (stale_root, "audit.path.root"),
    (other_chain, "audit.chain"),
    (signed_by(*HOSPITALS[:2]), "audit.certificate.no_quorum"),
    (signed_by("hospital-1", "hospital-1", "hospital-2"), "audit.certificate.duplicate_signer"),
    (signed_by("hospital-1", "hospital-2", "hospital-5"), "audit.certificate.unknown_validator"),
    (omit("verdict"), "lineage.incomplete"),
    (omit("update"), "lineage.incomplete"),
    (omit("dataset"), "lineage.incomplete"),
    (omit("model"), "lineage.incomplete"),
    (older_version, "lineage.incomplete"),
    (add, "lineage.excess"),
]


@pytest.mark.parametrize(("forge", "code"), ATTACKS)
def test_a_malicious_server_is_refused_with_the_step_that_failed(
    network: Network, forge: Forge, code: str
) -> None:
    """Whatever one server forges in a lineage, the auditor names what does not hold."""
    forged = forge(network, lineage_of(network))

    async def lineage(_: web.Request) -> web.Response:
        return web.json_response({"proof": base64.b64encode(pack(forged)).decode()})

    async def main() -> tuple[str, dict[str, Refused]]:
        app = web.Application()
        app.router.add_get(f"/v1/models/{MODEL}/versions/2/lineage", lineage)
        async with serve_app(app) as url, Client(network.genesis, [url]) as client:
            with pytest.raises(Refused) as caught:
                await audit_model(client, MODEL, 2)
            return caught.value.code, {url: client.distrusted[url]}

    found, distrusted = asyncio.run(main())
    assert found == code
    assert [refused.code for refused in distrusted.values()] == [code]


def test_an_honest_node_beside_a_liar_is_enough(network: Network) -> None:
    """The liar is passed over, and named."""
    forged = forge_value(network, lineage_of(network))

    async def lineage(_: web.Request) -> web.Response:
        return web.json_response({"proof": base64.b64encode(pack(forged)).decode()})

    async def main() -> None:
        liar = web.Application()
        liar.router.add_get("/{any:.*}", lineage)
        async with (
            serve_app(liar) as bad,
            serve(network) as (good, _),
            Client(network.genesis, [bad, good]) as client,
        ):
            found = await audit_model(client, MODEL, 2)
            assert found.lineage.model.version == 2
            assert client.distrusted[bad].code == "audit.path.root"
            assert good not in client.distrusted

    asyncio.run(main())


def test_a_model_that_does_not_exist_is_said_to_be_missing(network: Network) -> None:
    """Its absence is proven before it is said."""

    async def main() -> None:
        async with serve(network) as (url, _), Client(network.genesis, [url]) as client:
            with pytest.raises(Refused, match=r"lineage\.missing"):
                await audit_model(client, "nothing")
            with pytest.raises(Refused, match=r"lineage\.missing"):
                await audit_model(client, MODEL, 9)

    asyncio.run(main())


def test_another_genesis_accepts_nothing(network: Network) -> None:
    """The genesis document is what everything stands on."""
    proof = lineage_of(network)
    other = genesis_of(5)
    epochs = (check_genesis(other),)
    assert refusal(lambda: audit_lineage(other.chain, epochs, proof, MODEL, 2)) == "audit.chain"


# Files


def files(network: Network) -> dict[str, str]:
    """A file of each kind."""
    view = newest(network.chain)
    row = network.chain.store.row(1)
    assert row is not None
    transaction = prove_transaction(network.chain, row.receipts[0].transaction)
    assert transaction is not None
    head = prove_key(network.chain, view, state_key(ModelHead.KIND, (MODEL,)))
    absent = prove_key(network.chain, view, state_key(ModelHead.KIND, ("nothing",)))
    return {
        f"model {MODEL} version 2": write_file(lineage_of(network)),
        f"model_head {MODEL}": write_file(head),
        "absence of model_head nothing": write_file(absent),
        f"transaction {row.receipts[0].transaction.hex()}": write_file(transaction),
    }


def test_a_proof_file_verifies_offline(network: Network) -> None:
    """Each kind says what it proves, and by which steps."""
    for subject, text in files(network).items():
        audit = verify_file(network.genesis, text)
        assert audit.subject == subject
        assert "certified by 3 of 4 validators" in audit.steps[0]


def test_a_file_of_another_chain_is_refused(network: Network) -> None:
    """Every kind of file is checked against the genesis at hand."""
    for text in files(network).values():
        assert refusal(partial(verify_file, genesis_of(5), text)) == "audit.chain"


def tampered(text: str, **changes: Any) -> str:
    """The file with members changed."""
    return json.dumps(json.loads(text) | changes)


def test_a_malformed_file_is_refused(network: Network) -> None:
    """Whatever is wrong with the wrapping is said; the bytes inside are read strictly."""
    text = files(network)[f"model_head {MODEL}"]
    proof = base64.b64decode(json.loads(text)["proof"])
    cases = {
        "": "file.format",
        "[]": "file.format",
        "{}": "file.format",
        "[" * 100_000: "file.format",
        tampered(text, format="x"): "file.format",
        tampered(text, proof=1): "file.format",
        tampered(text, steps=None): "file.format",
        tampered(text, steps=[1]): "file.format",
        tampered(text, steps=["?"]): "audit.base64",
        tampered(text, kind="x"): "file.kind",
        tampered(text, kind="transaction"): "shape.length",
        tampered(text, proof="?"): "audit.base64",
        tampered(text, proof=base64.b64encode(proof[:-1]).decode()): "encoding.malformed",
        tampered(text, proof=base64.b64encode(proof + b"\x00").decode()): "encoding.malformed",
    }
    for case, code in cases.items():
        assert refusal(partial(verify_file, network.genesis, case)) == code, case[:60]


def test_the_absence_of_what_is_no_key_says_nothing(network: Network) -> None:
    """Any bytes can be shown absent; only a record's key means something."""
    view = newest(network.chain)
    proof: RecordProof = prove_key(network.chain, view, b"\x01")
    assert refusal(lambda: verify_file(network.genesis, write_file(proof))) == "audit.key"


def test_a_file_above_the_bound_is_not_read(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size is checked before anything is parsed."""
    monkeypatch.setattr("node.audit.check.FILE_BYTES_MAX", 10)
    assert refusal(lambda: verify_file(network.genesis, " " * 11)) == "file.too_large"


def test_an_empty_lineage_proves_nothing(network: Network) -> None:
    """A lineage must begin with the model that it is of."""
    text = write_file(replace(lineage_of(network), records=()))
    assert refusal(lambda: verify_file(network.genesis, text)) == "lineage.missing"


def test_auditing_needs_neither_database_nor_numbers() -> None:
    """The modules of an auditor import where plyvel, numpy and torch are not installed."""
    code = (
        "import sys\n"
        "for name in ('plyvel', 'numpy', 'torch', 'safetensors', 'pandas'):\n"
        "    sys.modules[name] = None\n"
        "import vm.inclusion, node.client, node.audit\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])

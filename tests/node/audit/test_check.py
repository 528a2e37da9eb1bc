"""Audits over HTTP, against honest and malicious servers."""

import asyncio
import base64
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from node.api.times import tell_time
from node.audit.check import ModelAudit, audit_lineage
from node.audit.model import audit_model
from node.audit.prove import newest, prove_lineage, prove_together
from node.client.client import Client
from node.client.proven import Proven
from tests.harness import genesis_of
from tests.node.network import HOSPITALS, MODEL, POISONER, Network, certificate
from tests.node.serving import hide, serve, serve_app
from vm.genesis import check_genesis
from vm.inclusion import MultiProof
from vm.refusal import Refused
from vm.shape import pack
from vm.state import state_key
from vm.trust import from_genesis

Forge = Callable[[Network, MultiProof], MultiProof]


def lineage_of(network: Network) -> MultiProof:
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
        f"version 2 the newest at height {found.audit.height}, {tell_time(found.audit.time_ms)}",
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


def test_a_lineage_stands_under_the_header_that_was_followed(network: Network) -> None:
    """Another one in its place is of another history, whoever has certified both."""
    followed = replace(lineage_of(network).certified.header, time_ms=1)

    async def main() -> None:
        proven = Proven(from_genesis(network.genesis), (), followed)
        async with (
            serve(network) as (url, _),
            Client(network.genesis, [url], proven=proven) as client,
        ):
            with pytest.raises(Refused, match=r"pin\.header"):
                await audit_model(client, MODEL, 2)

    asyncio.run(main())


def held(proof: MultiProof) -> int:
    """The place of the first record that is there."""
    return next(i for i, entry in enumerate(proof.records) if entry.value is not None)


def with_entry(proof: MultiProof, place: int, **changes: Any) -> MultiProof:
    """The proof with one entry changed."""
    entry = replace(proof.records[place], **changes)
    return replace(proof, records=(*proof.records[:place], entry, *proof.records[place + 1 :]))


def forge_value(network: Network, proof: MultiProof) -> MultiProof:
    """Another record's bytes."""
    place = held(proof)
    return with_entry(proof, place, value=(proof.records[place].value or b"") + b"\xc0")


def omit(kind: str) -> Forge:
    """Leave out a record of a kind, with sound paths of the rest."""

    def forge(network: Network, proof: MultiProof) -> MultiProof:
        mark = state_key(kind, ())[1:]
        keys = [entry.key for entry in proof.records]
        left_out = max(key for key in keys if mark in key)
        rest = [key for key in keys if key != left_out]
        return prove_together(network.chain, newest(network.chain), rest)

    return forge


def add(network: Network, proof: MultiProof) -> MultiProof:
    """Something sound that does not belong."""
    keys = [entry.key for entry in proof.records] + [state_key("member", ("nobody",))]
    return prove_together(network.chain, newest(network.chain), keys)


def cut_path(network: Network, proof: MultiProof) -> MultiProof:
    """Paths without their topmost sibling."""
    return replace(proof, siblings=proof.siblings[:-1])


def drop_record(network: Network, proof: MultiProof) -> MultiProof:
    """A record cut out, its siblings left as they were."""
    place = held(proof)
    return replace(proof, records=proof.records[:place] + proof.records[place + 1 :])


def swap_values(network: Network, proof: MultiProof) -> MultiProof:
    """Two records with each other's value."""
    one, two = [i for i, entry in enumerate(proof.records) if entry.value is not None][:2]
    changed = with_entry(proof, one, value=proof.records[two].value)
    return with_entry(changed, two, value=proof.records[one].value)


def reorder(network: Network, proof: MultiProof) -> MultiProof:
    """The records from the last to the first."""
    return replace(proof, records=proof.records[::-1])


def turn_siblings(network: Network, proof: MultiProof) -> MultiProof:
    """The siblings from the last to the first."""
    return replace(proof, siblings=proof.siblings[::-1])


def stale_root(network: Network, proof: MultiProof) -> MultiProof:
    """An earlier certified header above newer paths."""
    row, held = network.chain.store.row(4), network.chain.store.certificate(4)
    assert row is not None
    assert held is not None
    return replace(proof, certified=replace(proof.certified, header=row.header, certificate=held))


def signed_by(*names: str) -> Forge:
    """A certificate by these organisations' validators."""

    def forge(network: Network, proof: MultiProof) -> MultiProof:
        made = certificate(network.genesis, proof.certified.header, names)
        return replace(proof, certified=replace(proof.certified, certificate=made))

    return forge


def other_chain(network: Network, proof: MultiProof) -> MultiProof:
    """A sound proof's header, said to be of another chain."""
    header = replace(proof.certified.header, chain=bytes(32))
    return replace(proof, certified=replace(proof.certified, header=header))


def older_version(network: Network, proof: MultiProof) -> MultiProof:
    """A sound lineage of another version than the one asked for."""
    return prove_lineage(network.chain, newest(network.chain), MODEL, 1)


ATTACKS = [
    (forge_value, "audit.path.root"),
    (cut_path, "audit.path.siblings"),
    (swap_values, "audit.path.root"),
    (turn_siblings, "audit.path.root"),
    (reorder, "audit.path.order"),
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


def test_a_lineage_from_below_a_proven_height_is_passed_over(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: a node hides a mark or an audit behind a lineage of before, which was true."""
    top = network.chain.head.height

    async def main() -> None:
        async with serve(network) as (liar, _), serve(network) as (honest, _):
            hide(monkeypatch, liar, top - 1)
            async with Client(network.genesis, [liar, honest]) as client:
                assert (await audit_model(client, MODEL, 1)).audit.height == top
            async with Client(network.genesis, [liar]) as client:
                with pytest.raises(Refused, match=r"client\.stale"):
                    await audit_model(client, MODEL, 1)

    asyncio.run(main())


def test_another_genesis_accepts_nothing(network: Network) -> None:
    """The genesis document is what everything stands on."""
    proof = lineage_of(network)
    other = genesis_of(5)
    epochs = (check_genesis(other),)
    assert refusal(lambda: audit_lineage(other.chain, epochs, proof, MODEL, 2)) == "audit.chain"


def test_auditing_needs_neither_database_nor_numbers() -> None:
    """The modules of an auditor import where plyvel, numpy and torch are not installed."""
    code = (
        "import sys\n"
        "for name in ('plyvel', 'numpy', 'torch', 'safetensors', 'pandas'):\n"
        "    sys.modules[name] = None\n"
        "import node.audit.model, node.audit.file, node.client.client, vm.trust\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_verifying_files_needs_no_network() -> None:
    """A proof file, a case file, evidence of a fork: nothing that speaks HTTP is loaded."""
    code = (
        "import sys\n"
        "sys.modules['aiohttp'] = None\n"
        "import node.audit.file, node.case.archive, node.light.conflict\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])

"""Case files made by auditors: equal from every node, signed, and verified from any beginning."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from node.audit.file import Anchor, trust_in, write_file
from node.audit.prove import newest, prove_block, prove_header, prove_key, prove_steps
from node.case.archive import lineage_file, read_checkpoint, verify_case
from node.case.collect import collect
from node.case.proofs import LINEAGE
from node.client.client import Client
from node.client.connection import Connection
from node.client.reply import Reply
from tests.harness import key_of
from tests.node.case.made import AUDITOR, make, parts_of, refusal, run_case, trust_of
from tests.node.light.liar import certified, resigned
from tests.node.network import HOSPITALS, MODEL, Network, certificate, grow, open_network
from tests.node.serving import hide, serve
from vm.record import ModelHead
from vm.refusal import Refused
from vm.state import state_key
from vm.trust import Trust, from_pin

# Equal bytes


@contextmanager
def other_node(folder: Path, names: tuple[str, ...]) -> Iterator[Network]:
    """Another node of the same chain, whose newest certificates these validators signed."""
    with open_network(folder) as network:
        run_case(network)
        for height in range(1, network.chain.head.height + 1):
            row = network.chain.store.row(height)
            assert row is not None
            network.chain.store.write_certificate(certificate(network.genesis, row.header, names))
        yield network


def test_a_node_with_more_votes_than_a_quorum_gives_equal_bytes(
    network: Network, data: bytes, tmp_path: Path
) -> None:
    """The first votes of a quorum, in order of id, are kept."""
    with other_node(tmp_path, HOSPITALS) as other:
        assert make(other) == data


def test_nodes_with_other_votes_give_equal_bytes_under_one_checkpoint(
    network: Network, data: bytes, tmp_path: Path
) -> None:
    """Without it the proofs differ, and nothing else; the checkpoint comes from another file."""
    trust = trust_of(network)
    with other_node(tmp_path, HOSPITALS[1:]) as other:
        alone, one = parts_of(make(other)), parts_of(data)
        checkpoint = read_checkpoint(trust, data)
        together = make(other, checkpoint=checkpoint)

    assert {name for name in one if one[name] != alone[name]} == {
        name for name in one if name.startswith("proofs/")
    }
    assert together == data


def test_a_checkpoint_from_a_proof_file_says_the_height_too(network: Network) -> None:
    """An earlier height, at which less had happened, and the certificate of the file."""
    height = network.chain.head.height - 1
    view = network.chain.view(height)
    assert view is not None
    text = write_file(prove_key(network.chain, view, state_key(ModelHead.KIND, (MODEL,))))
    checkpoint = read_checkpoint(trust_of(network), text.encode())

    found = make(network, checkpoint=checkpoint)

    assert verify_case(trust_of(network), found).height == height
    assert read_checkpoint(trust_of(network), found) == checkpoint
    with pytest.raises(Refused, match=r"case\.checkpoint"):
        make(network, at=height - 1, checkpoint=checkpoint)


def test_a_height_gives_the_same_bytes_however_far_the_chain_has_come(
    network: Network, data: bytes, tmp_path: Path
) -> None:
    """What was attested later is not in it."""
    height = network.chain.head.height
    with open_network(tmp_path) as other:
        run_case(other)
        for _ in range(3):
            other.block()

        assert make(other, at=height) == data
        before = verify_case(trust_of(other), make(other, at=height - 4))

    assert before.content["attestations"]
    assert before.content["usage"]["batches"] == []


def test_a_node_cannot_hide_what_came_since_behind_an_earlier_lineage(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: before the last blocks there was neither mark nor use, and that was true."""

    async def main() -> None:
        async with serve(network) as (liar, _), serve(network) as (honest, _):
            hide(monkeypatch, liar, network.chain.head.height - 5)
            async with Client(network.genesis, [liar, honest]) as client:
                proofs = await collect(client, MODEL, auditor=AUDITOR)
                assert proofs.checkpoint.certified.header.height == network.chain.head.height
            async with Client(network.genesis, [liar]) as client:
                with pytest.raises(Refused, match=r"client\.stale"):
                    await collect(client, MODEL, auditor=AUDITOR)

    asyncio.run(main())


def test_a_file_is_read_back_when_it_is_written(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody signs what nobody would read."""
    monkeypatch.setattr("node.case.archive.CASE_BYTES_MAX", 1_000)

    assert refusal(partial(make, network)) == "case.too_large"


def test_many_batches_of_one_leave_out_none_of_another(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: so many records of uses that nobody can report on the model any more."""
    monkeypatch.setattr("node.case.beside.BATCHES_MAX", 3)

    audit = verify_case(trust_of(network), make(network))

    assert "the newest 2 of 3 batches of uses, within the model's totals" in audit.steps
    usage = audit.content["usage"]
    told = [
        (item["organisation"], item["batches"], item["shown"]) for item in usage["organisations"]
    ]
    assert told == [(HOSPITALS[0], 2, 1), (HOSPITALS[1], 1, 1)]
    assert [(item["organisation"], item["number"]) for item in usage["batches"]] == [
        (HOSPITALS[0], 2),
        (HOSPITALS[1], 1),
    ]
    assert not usage["complete"]


def test_a_node_that_lists_no_attestations_stops_no_report(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: each update counts its own, so whoever lists fewer is passed over."""
    honest = Connection.fetch

    async def main() -> None:
        async with serve(network) as (liar, _), serve(network) as (other, _):

            async def fetch(connection: Connection, url: str, path: str, *rest: Any) -> Reply:
                if url == liar and "/audits" in path:
                    return Reply(url, 200, b'{"items": [], "next": null}')
                return await honest(connection, url, path, *rest)

            monkeypatch.setattr(Connection, "fetch", fetch)
            async with Client(network.genesis, [liar, other]) as client:
                await collect(client, MODEL, auditor=AUDITOR)
                assert client.distrusted[liar].code == "client.count"
            async with Client(network.genesis, [liar]) as client:
                with pytest.raises(Refused, match=r"client\.count"):
                    await collect(client, MODEL, auditor=AUDITOR)

    asyncio.run(main())


# Signers


def test_a_signer_whom_the_chain_does_not_know_is_told_and_not_refused(network: Network) -> None:
    """An auditor may look at a height before it was enrolled; the reader has to know the key."""
    found = make(network, auditor="stranger")

    audit = verify_case(trust_of(network), found)

    assert "whose member the chain did not know then" in audit.steps[-1]
    assert not audit.content["auditor"]["enrolled"]


def test_a_members_name_over_somebody_elses_key_is_refused(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain says whose key it was; nobody writes such a file, or else nobody accepts it."""
    assert refusal(partial(make, network, key=key_of("thief"))) == "case.auditor"

    with monkeypatch.context() as patch:
        patch.setattr("node.case.archive._check_auditor", lambda case: "")
        found = make(network, key=key_of("thief"))

    assert refusal(partial(verify_case, trust_of(network), found)) == "case.auditor"


def test_keys_that_a_member_had_before_are_told_with_their_heights(network: Network) -> None:
    """What somebody signed years ago is held against the key of then."""
    members = verify_case(trust_of(network), make(network)).content["members"]

    (held,) = (member["keys"] for member in members if member["id"] == AUDITOR)
    assert [(item["first"], item["end"]) for item in held] == [(1, None)]


# Other validators, and other beginnings


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A chain on which a fifth organisation got a seat after all that the case tells."""
    folder: Path = tmp_path_factory.mktemp("grown")
    with open_network(folder) as made:
        run_case(made)
        grow(made)
        yield made


def test_a_case_under_later_validators_brings_the_steps_to_them(grown: Network) -> None:
    """From genesis every step is taken; its certificates hold no more than a quorum too."""
    found = make(grown)

    audit = verify_case(trust_of(grown), found)

    assert "of epoch 1, followed from genesis step by step" in audit.steps[0]
    checkpoint = read_checkpoint(trust_of(grown), found)
    (step,) = checkpoint.steps
    assert len(step.certificate.votes) == 3
    assert len(checkpoint.certified.certificate.votes) == 4
    proofs = {name: json.loads(part) for name, part in parts_of(found).items() if "proofs/" in name}
    assert [name for name, file in proofs.items() if file["steps"]] == [LINEAGE]


def test_a_case_verifies_from_a_pin_that_is_later_than_its_steps(grown: Network) -> None:
    """Whoever holds a checkpoint needs neither genesis nor what came before."""
    audit = verify_case(pinned(grown), make(grown))

    assert audit.height == grown.chain.head.height


def test_a_pin_on_another_history_accepts_nothing(grown: Network, network: Network) -> None:
    """The pinned epoch is not the one that certified the case."""
    assert refusal(partial(verify_case, pinned(grown), make(network))) == "audit.before_pin"


def test_a_case_that_begins_at_a_pin_brings_what_makes_the_pin_of_use(grown: Network) -> None:
    """Whoever holds the pin needs no other file; whoever holds genesis lacks the steps to it."""
    anchor = anchor_of(grown)
    held = read_checkpoint(trust_of(grown), make(grown))
    found = make(grown, checkpoint=replace(held, steps=(), anchor=anchor))

    trust = trust_in(anchor.pin, lineage_file(found))

    assert verify_case(trust, found).height == anchor.pin.height
    assert refusal(partial(verify_case, trust_of(grown), found)) == "file.from"


def test_a_checkpoint_brings_nothing_that_its_reader_cannot_verify(grown: Network) -> None:
    """The attack: steps or a beginning of somebody's own, in a file that the auditor then signs."""
    anchor = anchor_of(grown)
    proof = prove_key(grown.chain, newest(grown.chain), state_key(ModelHead.KIND, (MODEL,)))
    unsigned = replace(
        anchor.certified, certificate=replace(anchor.certified.certificate, votes=())
    )
    from_pin = write_file(proof, (), anchor=Anchor(unsigned, anchor.epoch))

    for file, code in (
        (make(grown), "case.checkpoint"),  # its steps lead to the pin: nobody holds who signed them
        (from_pin.encode(), "audit.certificate.no_quorum"),
    ):
        assert refusal(partial(read_checkpoint, pinned(grown), file)) == code


def test_a_checkpoint_begins_at_no_pin_that_retired_validators_made(grown: Network) -> None:
    """The attack: a header that never was, by keys of a set that the auditor has followed past."""
    first, top = grown.chain.epochs[0], anchor_of(grown)
    seats = tuple(f"{name}.validator" for name in HOSPITALS)
    forged = Anchor(resigned(certified(grown, 1), *seats, state=bytes(32)), first)
    under_top = prove_block(grown.chain, 1, top.pin.height).certified
    proof = prove_key(grown.chain, newest(grown.chain), state_key(ModelHead.KIND, (MODEL,)))
    steps = prove_steps(grown.chain, 0, 9)
    followed = replace(trust_of(grown), epochs=grown.chain.epochs)

    def read(anchor: Anchor) -> Anchor | None:
        text = write_file(proof, steps if anchor.epoch == first else (), anchor=anchor)
        return read_checkpoint(followed, text.encode()).anchor

    assert refusal(partial(read, forged)) == "case.checkpoint"
    for anchor in (top, Anchor(under_top, first)):
        assert read(anchor) == anchor


def pinned(network: Network) -> Trust:
    """What an auditor trusts who has written down the newest header."""
    anchor = anchor_of(network)
    return from_pin(network.chain.id, anchor.pin, anchor.certified, anchor.epoch)


def anchor_of(network: Network) -> Anchor:
    """The newest header and who ruled then."""
    header = newest(network.chain).row.header
    return Anchor(prove_header(network.chain, header), network.chain.epoch_at(header.height))

"""The client follows who rules from genesis, and is not led astray."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from node.api import epochs as epochs_api
from node.audit.file import Version, verify_file, write_file
from node.audit.lineage import trace
from node.audit.model import audit_model
from node.audit.prove import newest, prove_header, prove_key, prove_steps, view_header
from node.audit.rules import check_lineage
from node.client.client import Client
from node.client.proven import Proven
from tests.harness import genesis_of
from tests.node.client.asking import encoded, refusal
from tests.node.network import (
    HOSPITALS,
    MODEL,
    Network,
    certificate,
    grow,
    learn,
    open_network,
    say,
    shrink,
)
from tests.node.serving import get, proof_of, serve, serve_app
from tests.vm.council import approve, propose, upgrade
from vm import trust
from vm.genesis import check_genesis
from vm.quorum import Epoch
from vm.record import Member
from vm.refusal import Refused
from vm.state import state_key
from vm.succession import Step, follow
from vm.trust import from_genesis

FIFTH = "hospital-5.validator"


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain that has grown to five seats and shrunk to four others."""
    with open_network(tmp_path) as made:
        grow(made)
        shrink(made)
        yield made


def run(network: Network, check: Callable[[Client, str], Awaitable[None]]) -> None:
    """Check a client of an honest node."""

    async def main() -> None:
        async with serve(network) as (url, _), Client(network.genesis, [url]) as client:
            await check(client, url)

    asyncio.run(main())


def refused(network: Network, app: web.Application) -> Refused:
    """Why a client does not believe the only node that it knows."""

    async def main() -> Refused:
        async with serve_app(app) as url, Client(network.genesis, [url]) as client:
            with pytest.raises(Refused) as caught:
                await client.header()
            assert client.distrusted[url].code == caught.value.code
            return caught.value

    return asyncio.run(main())


def test_a_record_is_read_under_a_set_that_genesis_does_not_know(network: Network) -> None:
    """The client follows by itself, and keeps what it has followed."""

    async def check(client: Client, _: str) -> None:
        assert await client.record(Member, FIFTH) is not None
        assert client.proven.epochs == network.chain.epochs
        assert client.distrusted == {}
        assert (await client.header_at(1)).height == 1

    run(network, check)


def test_a_client_follows_while_the_chain_goes_on(tmp_path: Path) -> None:
    """A set that changes between two questions is followed with the second."""
    with open_network(tmp_path) as network:
        network.block()

        async def check(client: Client, _: str) -> None:
            assert await client.record(Member, FIFTH) is None
            grow(network)
            assert await client.record(Member, FIFTH) is not None
            shrink(network)
            assert (await client.header()).validators == network.chain.epoch.digest

        run(network, check)


@pytest.mark.parametrize("most", [1, 2, 32])
def test_steps_come_page_by_page(
    network: Network, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """However many stand on a page, all of them are followed."""
    monkeypatch.setattr(epochs_api, "STEPS_MAX", most)

    async def check(client: Client, url: str) -> None:
        await client.header()
        assert len(client.proven.epochs) == 3
        got = await get(f"{url}/v1/epochs?after=1")
        assert [item["epoch"]["number"] for item in got.body["items"]] == [2]
        (item,) = got.body["items"]
        assert follow_one(network, item) == network.chain.epochs[2]
        assert item["epoch"]["validators"]["validators"][0]["suspended"] is False

    run(network, check)


def test_more_than_one_page_of_steps_is_followed_at_once(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question is enough: the first page ends before the epoch that signs the newest header."""
    monkeypatch.setattr(epochs_api, "STEPS_MAX", 1)

    async def check(client: Client, url: str) -> None:
        await client._follow(url)
        assert client.proven.epochs == network.chain.epochs

    run(network, check)


def test_what_a_later_header_proved_is_not_unseen(network: Network) -> None:
    """An old header without a certificate of its own is proven under a newer one."""
    header = network.block(certified=False)
    newer = network.block()
    certified = prove_header(network.chain, header)
    proven = Proven(from_genesis(network.genesis))
    for step in prove_steps(network.chain, 0, 9):
        proven.step(encoded(step))

    assert certified.later is not None
    assert proven.header(encoded(certified)) == header
    assert proven.height == newer.height


def follow_one(network: Network, item: Any) -> Epoch:
    """The epoch that an answer's step leads to."""
    first = prove_steps(network.chain, 0, 1)
    return follow(network.genesis, (*first, proof_of(Step, item)))[-1]


def test_an_epoch_that_has_not_begun_has_no_step(tmp_path: Path) -> None:
    """It is scheduled; the header that names it is not there yet, or not certified."""
    with open_network(tmp_path) as network:
        grow(network)
        say(network, [propose(1, "next", upgrade())])
        say(network, [approve(number, "next") for number in (2, 3, 4)])
        assert len(network.chain.epochs) == 3
        assert [step.epoch.number for step in prove_steps(network.chain, 0, 9)] == [1]

        async def check(_: Client, url: str) -> None:
            for after, status in (("1", 200), ("9", 200), ("-1", 400), ("x", 400)):
                got = await get(f"{url}/v1/epochs?after={after}")
                assert (got.status, got.body.get("items", [])) == (status, [])

        run(network, check)


# A malicious server


def astray(network: Network, steps: list[Any], following: str | None = None) -> web.Application:
    """A node with a true newest header, and `steps` whatever is asked for."""
    proof = encoded(view_header(network.chain, newest(network.chain)))
    items = [{"proof": encoded(step)} for step in steps]

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/v1/epochs":
            return web.json_response({"items": items, "next": following})
        return web.json_response({"items": [{"proof": proof}], "next": None})

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    return app


def forged(network: Network, step: Step, names: tuple[str, ...], **changes: Any) -> Step:
    """A step with a changed header, certified by these organisations."""
    header = replace(step.header, **changes)
    return replace(step, header=header, certificate=certificate(network.genesis, header, names))


def endless(network: Network, count: int) -> list[Step]:
    """Steps from epoch 0 on, each to the same seats, by their keys."""
    before, header = check_genesis(network.genesis), network.chain.store.header(1)
    assert header is not None
    steps = []
    for number in range(1, count + 1):
        height = 10 * number
        following = replace(before, number=number, first=height + 1)
        header = replace(
            header, height=height, validators=before.digest, next_validators=following.digest
        )
        signed = certificate(network.genesis, header, HOSPITALS[:3])
        steps.append(Step(header, signed, following))
        before = following
    return steps


def test_a_server_that_leads_astray_is_named_with_the_step(network: Network) -> None:
    """Each lie is refused for what it is, and the node is noted."""
    first, second = prove_steps(network.chain, 0, 9)
    old = tuple(f"hospital-{n}" for n in (1, 2, 3, 4))
    new = tuple(f"hospital-{n}" for n in (2, 3, 4, 5))
    usurped = replace(first.epoch, validators=second.epoch.validators)
    own = replace(first, epoch=usurped)
    attacks = {
        "another set": ([replace(first, epoch=usurped)], "succession.next"),
        "an epoch skipped": ([second], "succession.epoch"),
        "a quorum's set of its own, signed by less than a quorum of the old": (
            [forged(network, own, old[:2], next_validators=usurped.digest)],
            "succession.certificate.no_quorum",
        ),
        "signed by the new set": (
            [forged(network, first, new)],
            "succession.certificate.unknown_validator",
        ),
        "another chain": ([forged(network, first, old[:3], chain=bytes(32))], "succession.chain"),
        "the second step false": (
            [first, forged(network, second, old[:2])],
            "succession.certificate.no_quorum",
        ),
    }
    for name, (steps, code) in attacks.items():
        found = refused(network, astray(network, steps))
        assert found.code == code, name
        assert f"step to epoch {2 if name == 'the second step false' else 1}:" in found.message


def test_a_list_that_is_cut_short_leads_nowhere(network: Network) -> None:
    """What it shows is true; the header that it stands for is of an epoch that it hides."""
    first, _ = prove_steps(network.chain, 0, 9)

    assert refused(network, astray(network, [])).code == "audit.validators"
    assert refused(network, astray(network, [first])).code == "audit.validators"


def test_a_list_without_end_is_left(network: Network) -> None:
    """The attacks: the same page again and again, and more steps than a page may have."""
    first, _ = prove_steps(network.chain, 0, 9)

    assert refused(network, astray(network, [first], "again")).code == "audit.validators"
    assert refused(network, astray(network, [], "again")).code == "audit.validators"

    async def main() -> None:
        async with (
            serve_app(astray(network, [first] * 33)) as url,
            Client(network.genesis, [url]) as client,
        ):
            assert await refusal(client.header()) == "http.answer"

    asyncio.run(main())


def test_steps_without_end_are_left(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack: keys of one retired set sign changes of validators for ever."""
    monkeypatch.setattr(trust, "STEPS_MAX", 4)
    page = endless(network, 8)

    async def main() -> None:
        async with (
            serve_app(astray(network, page, "more")) as url,
            Client(network.genesis, [url]) as client,
        ):
            assert await refusal(client.header()) == "history.full"
            assert client.proven.steps == tuple(page[:4])
            assert client.distrusted == {}  # a chain may be that old

    asyncio.run(main())


def test_an_honest_node_is_asked_after_a_malicious_one(network: Network) -> None:
    """Its steps lead on from wherever the liar's true ones ended."""
    first, second = prove_steps(network.chain, 0, 9)
    liar = astray(network, [first, forged(network, second, ("hospital-5",))])

    async def main() -> None:
        async with (
            serve_app(liar) as bad,
            serve(network) as (good, _),
            Client(network.genesis, [bad, good]) as client,
        ):
            assert await client.record(Member, FIFTH) is not None
            assert client.proven.epochs == network.chain.epochs
            assert list(client.distrusted) == [bad]

    asyncio.run(main())


# Files


def record_file(network: Network, steps: list[Step]) -> str:
    """A file that proves the fifth validator's enrolment."""
    proof = prove_key(network.chain, newest(network.chain), state_key(Member.KIND, (FIFTH,)))
    return write_file(proof, steps)


def test_a_file_carries_the_steps_that_it_needs(network: Network) -> None:
    """It verifies offline, with the genesis document alone."""
    steps = prove_steps(network.chain, 0, 9)

    audit = verify_file(from_genesis(network.genesis), record_file(network, steps))

    assert audit.subject == f"member {FIFTH}"
    assert "certified by 3 of 4 validators of epoch 2, followed from genesis" in audit.steps[0]


@pytest.mark.parametrize(("kept", "code"), [(0, "validators"), (1, "validators")])
def test_a_file_without_its_steps_proves_nothing(network: Network, kept: int, code: str) -> None:
    """Nobody is there to be asked for them."""
    text = record_file(network, prove_steps(network.chain, 0, kept))

    with pytest.raises(Refused) as caught:
        verify_file(from_genesis(network.genesis), text)

    assert caught.value.code == f"audit.{code}"


def test_a_file_with_a_false_step_names_it(network: Network) -> None:
    """The attack: a file in which the owner of one key has seated himself."""
    first, second = prove_steps(network.chain, 0, 9)
    text = record_file(network, [forged(network, first, ("hospital-1",)), second])

    with pytest.raises(Refused, match="step to epoch 1") as caught:
        verify_file(from_genesis(network.genesis), text)

    assert caught.value.code == "succession.certificate.no_quorum"


def test_a_proof_under_an_early_epoch_needs_no_steps(network: Network) -> None:
    """Steps beyond the certificate's height are left out."""
    view = network.chain.view(1)
    assert view is not None
    proof = prove_key(network.chain, view, state_key(Member.KIND, ("hospital-1.trainer",)))

    text = write_file(proof, prove_steps(network.chain, 0, 9))

    assert '"steps": []' in text
    assert verify_file(from_genesis(network.genesis), text).height == 1


def test_a_model_is_audited_across_epochs(tmp_path: Path) -> None:
    """Its rounds closed under the first set; the header above them is certified by the third."""
    with open_network(tmp_path) as network:
        learn(network, 2)
        grow(network)
        shrink(network)

        async def check(client: Client, _: str) -> None:
            found = await audit_model(client, MODEL, 2)
            assert "of epoch 2, followed from genesis" in found.audit.steps[0]
            version = Version(MODEL, 2)
            text = write_file(found.proof, client.proven.steps, lineage=version)
            audit = verify_file(from_genesis(network.genesis), text)
            assert audit.subject == f"model {MODEL} version 2"

        run(network, check)


def test_a_model_made_under_another_set_needs_a_quorum_of_that_one(tmp_path: Path) -> None:
    """Four equal aggregates close a round of five seats, and would be too few of nine."""
    with open_network(tmp_path) as network:
        grow(network)
        learn(network, 2)
        lineage = trace(newest(network.chain), MODEL, 2)
        first, five = network.chain.epochs
        nine = replace(five, validators=check_genesis(genesis_of(9)).validators)

        steps = check_lineage(lineage)
        with pytest.raises(Refused) as caught:
            check_lineage(replace(lineage, epochs=(first, nine)))

        assert any("equal aggregates of a quorum" in step for step in steps)
        assert caught.value.code == "lineage.aggregate"

"""`concilium audit access`: what one run counts, and how it goes on."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from node.audit import access as audit
from node.audit.access import NOTHING, Known
from node.client.client import Client
from node.client.credentials import Credentials
from node.commands.access import Found, _unfinished, _verify, _verify_all
from node.commands.source import Source
from tests.harness import key_of
from tests.node.client.asking import lying
from tests.node.light.liar import Server, answering, honest, liar
from tests.node.network import (
    HOSPITALS,
    Network,
    grow,
    learn,
    open_network,
    register_dataset,
    shrink,
)
from tests.node.readers.reading import AUDITOR, ask, private_network
from tests.node.readers.test_shown import VERDICT
from tests.node.serving import Node, serve, serve_app
from vm.accesslog import DigestLog
from vm.refusal import Refused
from vm.trust import Pin

VALIDATOR = f"{HOSPITALS[0]}.validator"


def audited(network: Network, *servers: Server, pin: Pin | None = None) -> list[Found | Refused]:
    """What each of these nodes comes to, in order, and then each validator who was not seen."""

    async def main() -> list[Found | Refused]:
        async with AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(serve_app(server())) for server in servers]
            source = Source(network.genesis, tuple(urls), None, pin, None)
            return list((await _verify_all(source, {}, False)).values())

    return asyncio.run(main())


def passing_for(validator: str) -> Server:
    """A server that says whose log it has, and has none."""
    page = {"validator": validator, "root": "00" * 32, "consistency": [], "items": []}
    return lambda: lying(page)


def refused(found: Sequence[Found | Refused]) -> list[str]:
    """The codes of what was refused."""
    return [item.code for item in found if isinstance(item, Refused)]


@pytest.fixture
def open_chain(tmp_path: Path) -> Iterator[Network]:
    """A chain that anybody may read, of one certified block."""
    with open_network(tmp_path / "open") as made:
        made.block(register_dataset(made, HOSPITALS[0]))
        yield made


async def read_and_publish(network: Network, node: Node, url: str, times: int = 1) -> None:
    """Somebody is shown a verdict, and the validator publishes the digest of its log."""
    for _ in range(times):
        await ask(url + VERDICT)
    frontier = node.logbook.frontier
    body = DigestLog(node.logbook.identity, frontier.size, frontier.root, ())
    node.feed.publish(network.block(network.sign(VALIDATOR, "access.digest", body)).height)


def test_who_passes_for_another_does_not_put_that_one_in_the_wrong(tmp_path: Path) -> None:
    """The attack: listed first, it says that its log is the other's. Two of one log are told."""

    async def main(network: Network) -> list[Found | Refused]:
        reader = Credentials(AUDITOR, key_of(AUDITOR))
        async with (
            serve(network, known=False) as (url, node),
            serve_app(passing_for(VALIDATOR)()) as bad,
        ):
            await read_and_publish(network, node, url)
            source = Source(network.genesis, (bad, url, f"{url}/"), reader, None, None)
            return list((await _verify_all(source, {}, False)).values())

    with private_network(tmp_path) as network:
        learn(network, 1)
        bad, good, again, *unseen = asyncio.run(main(network))

    assert isinstance(good, Found)
    assert (good.validator, good.known.size) == (VALIDATOR, 1)
    assert refused([bad, again]) == ["audit.access"] * 2
    assert isinstance(again, Refused)
    assert "one of the two hides its own" in again.message
    assert refused(unseen) == ["access_log.unseen"] * 3


def test_what_was_verified_before_speaks_for_no_node(tmp_path: Path) -> None:
    """The attack: with --keep and no line published since, who has no log was taken at its word."""

    async def main(network: Network) -> list[Found | Refused]:
        reader = Credentials(AUDITOR, key_of(AUDITOR))
        async with (
            serve(network, known=False) as (url, node),
            serve_app(passing_for(VALIDATOR)()) as bad,
        ):
            await read_and_publish(network, node, url)
            frontier = node.logbook.frontier
            kept = {VALIDATOR: Known(node.logbook.identity, frontier.size, frontier.root)}
            source = Source(network.genesis, (bad, url), reader, None, None)
            return list((await _verify_all(source, kept, False)).values())

    with private_network(tmp_path) as network:
        learn(network, 1)
        bad, good, *_ = asyncio.run(main(network))

    assert refused([bad]) == ["audit.access"]
    assert isinstance(good, Found)
    assert (good.validator, good.known.size, good.reads.total()) == (VALIDATOR, 1, 0)


@pytest.mark.parametrize(
    "named",
    [
        f"{VALIDATOR}?at=1",
        f"{VALIDATOR}#x",
        f"{VALIDATOR}/",
        "../members/hospital-1.admin",
        "../proposals",
        "..",
        "a" * 65,
        "\x1b[2Jx",
    ],
)
def test_who_names_no_validator_has_nobody_asked_for_another_path(
    open_chain: Network, named: str
) -> None:
    """The attack: what it said had honest nodes asked for other records, and told as liars."""
    bad = liar(open_chain, "/v1/access-log", lambda page: page | {"validator": named})

    with capture_logs() as logs:
        found, good, *_ = audited(open_chain, bad, honest(open_chain))

    assert refused([found]) == ["http.answer"]
    assert isinstance(good, Found)
    assert "node.distrusted" not in [line["event"] for line in logs]


def test_a_log_of_nobody_is_refused(open_chain: Network) -> None:
    """The attack: no digest is on the chain that an invented validator's log could differ from."""
    found, *unseen = audited(open_chain, passing_for("hospital-9.validator"), honest(open_chain))

    assert refused([found]) == ["audit.access"]
    assert refused(unseen) == ["access_log.unseen"] * 3


def test_a_log_without_lines_is_nobodys_alone(open_chain: Network) -> None:
    """Who passes for one that has published nothing yet has shown nothing; its own is missed."""
    first, second, *unseen = audited(open_chain, passing_for(VALIDATOR), honest(open_chain))

    assert isinstance(first, Found)
    assert isinstance(second, Found)
    assert first.validator == second.validator == VALIDATOR
    assert refused(unseen) == ["access_log.unseen"] * 3


@pytest.mark.parametrize("pinned", [False, True])
def test_a_validator_that_was_removed_is_missed_too(open_chain: Network, pinned: bool) -> None:
    """From genesis by its seat of before, though no node lists its digest; from a pin by that."""
    grow(open_chain)
    body = DigestLog(bytes(16), 1, bytes(32), ())
    open_chain.block(open_chain.sign(VALIDATOR, "access.digest", body))
    shrink(open_chain)
    newest = open_chain.block()
    pin = Pin(newest.height, newest.digest) if pinned else None
    other = f"{HOSPITALS[1]}.validator"
    hiding = answering(open_chain, partial(_pass_for, other, hides=not pinned))

    found, *unseen = audited(open_chain, hiding, pin=pin)

    assert isinstance(found, Found)
    assert found.validator == other
    assert [item.message.split()[4] for item in unseen if isinstance(item, Refused)] == [
        *(f"hospital-{number}.validator" for number in (3, 4, 5)),
        VALIDATOR,
    ]


def _pass_for(validator: str, path: str, body: Any, hides: bool) -> Any:
    """The log is this validator's, which has published none; that of others is perhaps hidden."""
    if path.startswith("/v1/access-log?"):
        return body | {"validator": validator, "items": []}
    if path.startswith("/v1/access-logs?") and hides:
        return body | {"items": []}
    return None


def test_logs_are_verified_by_what_the_auditor_goes_by(open_chain: Network) -> None:
    """With a pin of another history no digest is taken from this one."""
    with pytest.raises(Refused, match=r"pin\.header"):
        audited(open_chain, honest(open_chain), pin=Pin(1, bytes(32)))


def test_a_run_counts_lines_up_to_its_bound_and_says_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines themselves are held only for whoever asks for them; the next run reads the rest."""
    monkeypatch.setattr(audit, "LINES_NEW_MAX", 2)
    runs: list[Found] = []

    async def main() -> None:
        async with (
            serve(network, known=False) as (url, node),
            Client(network.genesis, [url], Credentials(AUDITOR, key_of(AUDITOR))) as client,
        ):
            await read_and_publish(network, node, url, times=3)
            known: Known = NOTHING
            for lines in (False, True):
                runs.append(await _verify(client, client, VALIDATOR, known, lines))
                known = runs[-1].known

    with private_network(tmp_path) as network:
        learn(network, 1)
        asyncio.run(main())

    first, second = runs
    assert (first.known.size, first.left, first.lines) == (2, 1, [])
    assert first.reads == {(AUDITOR, "verdict"): 2}
    assert (second.known.size, second.left, len(second.lines)) == (3, 0, 1)
    refused = _unfinished(first)
    assert refused.code == "access_log.unfinished"
    assert "found 1 more: run again with --keep" in refused.message

"""`concilium audit access`: what one run counts, and how it goes on."""

import asyncio
from pathlib import Path

import pytest

from node.audit import access as audit
from node.audit.access import NOTHING, Known
from node.client.client import Client
from node.client.credentials import Credentials
from node.commands.access import Found, _unfinished, _verify
from tests.harness import key_of
from tests.node.network import HOSPITALS, learn
from tests.node.readers.reading import AUDITOR, ask, private_network
from tests.node.readers.test_shown import VERDICT
from tests.node.serving import serve
from vm.accesslog import DigestLog

VALIDATOR = f"{HOSPITALS[0]}.validator"


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
            for _ in range(3):
                await ask(url + VERDICT)
            frontier = node.logbook.frontier
            body = DigestLog(node.logbook.identity, frontier.size, frontier.root, ())
            node.feed.publish(network.block(network.sign(VALIDATOR, "access.digest", body)).height)
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

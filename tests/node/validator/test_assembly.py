"""A validator that cannot use what is on its disk says what, and does not start."""

import asyncio
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node.demo.processes import free_ports
from node.home import config
from node.home.testnet import write_testnet
from node.readers.log import Logbook
from node.validator.assembly import Validator
from vm.refusal import Refused

NOW = datetime(2026, 3, 1, tzinfo=UTC)
STUCK_S = 30  # a node that goes on is no hanging test


@pytest.fixture
def settings(tmp_path: Path) -> config.ValidatorConfig:
    """The configuration of a validator that has run once."""
    layout = write_testnet(tmp_path / "net", now=NOW, base_port=free_ports(8))
    settings = config.load(config.ValidatorConfig, layout.home("hospital-1", "validator"), {})
    Validator(settings).close()
    return settings


def code_of(settings: config.ValidatorConfig) -> str:
    """The code with which it refuses to start."""
    with pytest.raises(Refused) as refused:
        Validator(settings)
    return refused.value.code


def test_it_starts_again_on_what_it_left(settings: config.ValidatorConfig) -> None:
    """Closing gives back the locks of journal and store."""
    Validator(settings).close()


def test_a_lost_journal_keeps_it_from_voting_twice(settings: config.ValidatorConfig) -> None:
    """Whoever deletes or swaps the journal does not get a validator without memory."""
    shutil.rmtree(settings.store.folder / "journal")

    assert code_of(settings) == "journal.lost"
    assert code_of(settings) == "journal.lost"


def test_a_chain_that_was_moved_away_is_made_anew(settings: config.ValidatorConfig) -> None:
    """The journal still knows every promise, and the chain comes from the peers again."""
    shutil.rmtree(settings.store.folder / "chain")

    Validator(settings).close()


def test_a_damaged_chain_is_refused(settings: config.ValidatorConfig) -> None:
    """Nothing is read past the damage."""
    for log in (settings.store.folder / "chain").glob("*.log"):
        data = bytearray(log.read_bytes())
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        data[-1] = 1
        log.write_bytes(data)

    assert code_of(settings) == "store.corrupt"


def test_a_bug_in_the_access_log_ends_the_node(
    settings: config.ValidatorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not go on with reads that nobody notes."""

    async def fail(_: Logbook) -> None:
        raise ZeroDivisionError

    async def run() -> None:
        async with asyncio.timeout(STUCK_S):
            await Validator(settings).run()

    monkeypatch.setattr(Logbook, "failed", fail)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())

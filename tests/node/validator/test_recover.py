"""A lost or damaged journal: the node does not start, and its key never votes again."""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node.home.config import ValidatorConfig, load
from node.home.testnet import write_testnet
from node.validator import recover as module
from node.validator.journal import FOLDER, SEGMENT, Journal
from node.validator.keyring import BARRED, Keyring, read_barred
from node.validator.recover import recover
from node.validator.store import FOLDER as CHAIN
from node.validator.store import Store
from node.validator.sync import synchronise
from tests.node.losses import LOSSES, certify, cut, flip, start
from vm.refusal import Refused


@pytest.fixture
def config(tmp_path: Path) -> ValidatorConfig:
    """A validator's home that has certified a few heights: journal first, then store."""
    net = write_testnet(tmp_path / "net", now=datetime(2026, 3, 1, tzinfo=UTC))
    found = load(ValidatorConfig, net.home("hospital-1", "validator"), {})
    certify(found, 1, 2, 3)
    return found


def code_of(act: Callable[[], object]) -> str:
    """The code with which something is refused."""
    with pytest.raises(Refused) as refused:
        act()
    return refused.value.code


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_journal_bars_the_key_for_ever(loss: str, config: ValidatorConfig) -> None:
    """The node refuses to start; recovered, it starts and does not vote, however often."""
    lose, code = LOSSES[loss]
    folder = config.store.folder
    lose(folder / FOLDER)

    found = code_of(lambda: start(config))
    done = recover(config)
    votes = [start(config), start(config)]

    assert found == code
    assert done.barred == Keyring(config.member, folder, b"").publics()
    assert read_barred(folder) == set(done.barred)
    assert votes == [False, False]
    assert code_of(lambda: recover(config)) == "journal.sound"


def test_no_state_sync_begins_with_an_older_copy_of_a_journal(config: ValidatorConfig) -> None:
    """With a snapshot the store notes what the journal need not know: that would cover the loss."""
    cut(config.store.folder / FOLDER)

    assert code_of(lambda: asyncio.run(synchronise(config))) == "journal.lost"


def test_a_damaged_journal_is_kept_for_a_person_to_see(config: ValidatorConfig) -> None:
    """Byte for byte, beside the new one; a second loss does not overwrite the first."""
    place = config.store.folder / FOLDER
    flip(place)
    damaged = (place / SEGMENT).read_bytes()

    first = recover(config)
    second = recover(config, restored=True)

    assert first.aside is not None
    assert (first.aside / SEGMENT).read_bytes() == damaged
    assert second.aside not in (None, first.aside)


def test_a_sound_journal_is_left_alone(config: ValidatorConfig) -> None:
    """A command given by mistake costs no seat."""
    before = (config.store.folder / FOLDER / SEGMENT).read_bytes()

    assert code_of(lambda: recover(config)) == "journal.sound"
    assert (config.store.folder / FOLDER / SEGMENT).read_bytes() == before
    assert not (config.store.folder / BARRED).exists()
    assert start(config)


def test_a_home_that_was_put_back_whole_is_recovered_on_demand(config: ValidatorConfig) -> None:
    """Nothing in it tells that it is old: the operator has to say so."""
    assert start(config)

    recover(config, restored=True)

    assert not start(config)


def test_a_running_validator_is_not_recovered(config: ValidatorConfig) -> None:
    """One process per journal."""
    with Journal(config.store.folder / FOLDER):
        assert code_of(lambda: recover(config, restored=True)) == "journal.locked"


def test_a_store_that_was_lost_costs_nothing(config: ValidatorConfig) -> None:
    """The journal knows what was promised, and the chain can be fetched again."""
    shutil.rmtree(config.store.folder / CHAIN)

    assert start(config)


def test_no_part_that_is_wiped_or_put_back_lets_a_barred_key_vote(
    config: ValidatorConfig, tmp_path: Path
) -> None:
    """Journal, bars and store each stand for the others; only all three from before pass."""
    folder, before = config.store.folder, tmp_path / "before"
    shutil.copytree(folder, before)
    cut(folder / FOLDER)
    recover(config)
    after = tmp_path / "after"
    shutil.copytree(folder, after)

    for old in ([FOLDER], [BARRED], [CHAIN], [FOLDER, BARRED], [BARRED, CHAIN], [FOLDER, CHAIN]):
        shutil.rmtree(folder)
        shutil.copytree(after, folder)
        for name in old:
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
                shutil.copytree(before / name, folder / name)
            else:
                (folder / name).unlink()
        try:
            votes = start(config)
        except Refused as refused:
            votes = refused.code not in ("journal.lost", "journal.damaged")
        assert not votes, old


class Crash(BaseException):
    """The power goes out."""


@pytest.mark.parametrize("step", ["bar", "_set_aside", "create_journal", "bind_journal"])
@pytest.mark.parametrize("before", [True, False])
def test_a_crash_while_recovering_never_lets_the_key_vote(
    config: ValidatorConfig, monkeypatch: pytest.MonkeyPatch, step: str, before: bool
) -> None:
    """Whatever was done, the node refuses or observes, and another recovery completes it."""
    cut(config.store.folder / FOLDER)
    place: object = Store if step == "bind_journal" else module
    act = getattr(place, step)

    def crash(*arguments: object, **options: object) -> None:
        if not before:
            act(*arguments, **options)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(place, step, crash)
        with pytest.raises(Crash):
            recover(config)

    with suppress(Refused):
        assert not start(config)
    with suppress(Refused):  # it was complete
        recover(config)
    assert not start(config)

"""What an auditor keeps: found again after any crash, and refused when it is not what it was."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from node.light.history import History, begin, pin_of
from node.light.store import (
    APART_MAX,
    CONFLICTS,
    CONFLICTS_MAX,
    NEWEST,
    NEWEST_BYTES_MAX,
    TRUST,
    Store,
)
from tests.harness import genesis_of
from tests.node.light.liar import following, honest
from tests.node.network import Network, grow, open_network
from vm.refusal import Refused
from vm.trust import Pin


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A chain of two sets of validators."""
    with open_network(tmp_path) as made:
        grow(made)
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "followed")


def followed(network: Network, pin: Pin | None = None) -> History:
    """What is followed of a chain."""

    async def main() -> History:
        async with following(network, honest(network), pin=pin) as follower:
            held = (await follower.round()).held
            assert held is not None
            return held

    return asyncio.run(main())


def pinned(network: Network) -> Pin:
    """A pin under the second set."""
    header = network.chain.store.header(network.chain.epochs[1].first)
    assert header is not None
    return pin_of(header)


def refusal(store: Store, network: Network, pin: Pin | None = None) -> Refused:
    """Why a store is not read."""
    with pytest.raises(Refused) as caught:
        store.load(network.genesis, pin)
    return caught.value


def test_an_empty_store_holds_nothing(network: Network, store: Store) -> None:
    """It begins where the auditor says."""
    assert store.load(network.genesis, None) is None
    assert store.load(network.genesis, Pin(1, bytes(32))) is None


def test_what_was_followed_is_found_again(network: Network, store: Store) -> None:
    """From genesis and from a pin; the second store knows its pin without being told."""
    held = followed(network)
    store.save(held)
    from_pin = followed(network, pinned(network))
    other = Store(store.folder / "other")
    other.save(from_pin)

    assert store.load(network.genesis, None) == held
    assert other.load(network.genesis, None) == from_pin
    assert other.load(network.genesis, pinned(network)) == from_pin


def test_a_store_of_another_chain_is_refused(network: Network, store: Store) -> None:
    """One folder for each chain."""
    store.save(followed(network))

    with pytest.raises(Refused, match="another folder") as caught:
        store.load(genesis_of(5), None)

    assert caught.value.code == "store.chain"


def test_a_store_that_begins_elsewhere_than_the_pin_is_refused(
    network: Network, store: Store
) -> None:
    """Else a pin would be given and not heeded."""
    store.save(followed(network))

    refused = refusal(store, network, pinned(network))

    assert refused.code == "store.pin"
    assert "from genesis" in refused.message


@pytest.mark.parametrize("name", [TRUST, NEWEST])
@pytest.mark.parametrize("data", [b"", b"\x00", b"garbage" * 1_000, bytes(NEWEST_BYTES_MAX + 1)])
def test_garbage_is_refused_with_what_to_do(
    network: Network, store: Store, name: str, data: bytes
) -> None:
    """It is never taken for an empty store, which would begin anew without a word."""
    store.save(followed(network))
    (store.folder / name).write_bytes(data)

    refused = refusal(store, network)

    assert refused.code == "store.damaged"
    assert str(store.folder / name) in refused.message


@pytest.mark.parametrize("name", [TRUST, NEWEST])
def test_a_changed_byte_is_never_believed(network: Network, store: Store, name: str) -> None:
    """Everything is verified again: whoever can write the file cannot choose what is trusted."""
    held = followed(network)
    store.save(held)
    path = store.folder / name
    sound = path.read_bytes()

    for place in range(0, len(sound), 7):
        path.write_bytes(sound[:place] + bytes((sound[place] ^ 1,)) + sound[place + 1 :])
        assert refusal(store, network).code in ("store.damaged", "store.chain")


def test_a_checkpoint_without_its_steps_is_refused(network: Network, store: Store) -> None:
    """A newest checkpoint alone says nothing."""
    held = followed(network)
    store.save(held)
    Store(store.folder).save(begin(network.genesis))

    assert refusal(store, network).code == "store.damaged"


@pytest.mark.parametrize("last", range(8))
def test_a_process_that_is_killed_leaves_a_store_that_loads(
    network: Network, store: Store, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any call to the system: the old history is there, or the new one, or one between."""
    old = followed(network)
    store.save(old)
    grown = network.chain.epochs[-1].first
    while network.chain.head.height < grown + 3:
        network.block()
    new = followed(network)
    calls = 0

    class Killed(BaseException):
        pass

    def counted(call: object) -> object:
        def run(*arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls > last:
                raise Killed
            return call(*arguments, **named)  # type: ignore[operator]

        return run

    with monkeypatch.context() as patched:
        for name in ("open", "fsync", "pwrite"):
            patched.setattr(f"node.wire.disk.os.{name}", counted(getattr(os, name)))
        with suppress(Killed):
            Store(store.folder).save(new)

    found = store.load(network.genesis, None)
    assert found is not None
    assert found.newest in (old.newest, new.newest)
    assert found.steps in (old.steps, new.steps)


HOLD = """
import sys
from pathlib import Path
from node.light.store import Store
with Store(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_writes(store: Store) -> None:
    """And the lock is gone with its holder, however he ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Refused) as caught, store.locked():
            pass
        holder.kill()
        holder.wait()
        with store.locked():
            pass

    assert caught.value.code == "store.locked"


def test_a_folder_that_cannot_be_written_is_said(network: Network, tmp_path: Path) -> None:
    """Where a file stands in the way, or the disk is full."""
    (tmp_path / "file").write_bytes(b"")
    store = Store(tmp_path / "file")

    with pytest.raises(Refused) as locked, store.locked():
        pass
    with pytest.raises(Refused) as saved:
        store.save(begin(network.genesis))

    assert locked.value.code == saved.value.code == "store.unwritable"


def test_evidence_is_kept_once_and_not_without_end(store: Store) -> None:
    """A forger with stolen keys must not fill the disk."""
    first = store.note("1.json", b"one", ruling=True)
    again = store.note("1.json", b"two", ruling=True)
    for number in range(CONFLICTS_MAX):
        store.note(f"more-{number}.json", b"", ruling=True)

    assert first == again == store.folder / CONFLICTS / "1.json"
    assert first is not None
    assert first.read_bytes() == b"one"
    assert store.note("last.json", b"", ruling=True) is None
    assert len(list((store.folder / CONFLICTS).iterdir())) == CONFLICTS_MAX


def test_forks_by_retired_keys_leave_room_for_those_of_who_rules(store: Store) -> None:
    """The attack: forks that cost nothing fill the folder, and the true one leaves no evidence."""
    for number in range(APART_MAX):
        assert store.note(f"{number}.json", b"", ruling=False) is not None

    assert store.note("one-more.json", b"", ruling=False) is None
    assert store.note("0.json", b"the true one", ruling=True) == store.folder / CONFLICTS / "0.json"

"""State sync among liars: each is named, and nothing unverified is kept."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.validator.install import Sync
from node.validator.snapshot import (
    BlockReceipts,
    Offer,
    Snapshot,
    WindowPart,
)
from node.validator.store import Store
from tests.node.network import Network
from tests.node.validator.dialogue import PEERS, WINDOW, Dialogue, Lie, core, source_of
from tests.node.validator.test_prune import everything
from vm import tree
from vm.range import LAST_PATH, StateRange


def _first(lie: Callable[[StateRange], StateRange]) -> Lie:
    return lambda reply: lie(reply) if isinstance(reply, StateRange) else reply


def _bent(reply: Snapshot) -> Snapshot:
    header = replace(reply.header, state=bytes(32))
    return replace(reply, headers=(*reply.headers[:-1], header))


LIES: dict[str, tuple[Lie, str]] = {
    "a leaf left out": (_first(lambda r: replace(r, leaves=r.leaves[1:])), "state_range."),
    "a value changed": (
        _first(
            lambda r: (
                replace(r, leaves=(replace(r.leaves[0], value=b"x"), *r.leaves[1:]))
                if r.leaves
                else replace(r, right=(b"\x01" * 32,))
            )
        ),
        "state_range.",
    ),
    "nothing at all": (
        _first(lambda r: StateRange(LAST_PATH, (), (), (), None, None)),
        "state_range.",
    ),
    "another state": (lambda r: _bent(r) if isinstance(r, Snapshot) else r, "audit.header"),
    "headers of another history": (
        lambda r: (
            replace(r, headers=(replace(r.headers[0], time_ms=1), *r.headers[1:]))
            if isinstance(r, Snapshot)
            else r
        ),
        "snapshot.history",
    ),
    "a frontier of another history": (
        lambda r: (
            replace(r, frontier=tree.Frontier(r.frontier.size, r.frontier.peaks[::-1]))
            if isinstance(r, Snapshot)
            else r
        ),
        "snapshot.history",
    ),
    "fewer headers": (
        lambda r: replace(r, headers=r.headers[1:]) if isinstance(r, Snapshot) else r,
        "snapshot.height",
    ),
    "no quorum": (
        lambda r: (
            replace(r, certificate=replace(r.certificate, votes=r.certificate.votes[1:]))
            if isinstance(r, Snapshot)
            else r
        ),
        "audit.certificate.no_quorum",
    ),
    "receipts left out": (
        lambda r: WindowPart((BlockReceipts(()),)) if isinstance(r, WindowPart) else r,
        "snapshot.receipts",
    ),
    "receipts of too many blocks": (
        lambda r: WindowPart(r.blocks * 9) if isinstance(r, WindowPart) else r,
        "snapshot.receipts",
    ),
    "something else": (
        lambda r: Offer((), 0, 0) if isinstance(r, StateRange) else r,
        "snapshot.reply",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_liar_is_dropped_and_named(name: str, network: Network, store: Store) -> None:
    """Whatever it lies about; the sync ends with the true state from the others."""
    lie, code = LIES[name]
    liar = "b" if code.startswith("state_range") or name == "something else" else "a"
    talk = Dialogue(core(network), source_of(network), store, lies={liar: lie})

    assert talk.run()
    Sync(store).install()

    [drop] = talk.dropped
    assert drop.peer == liar
    assert drop.code.startswith(code)
    assert "expected" in drop.message
    head, row = store.head(), network.chain.store.row(24)
    assert head is not None
    assert row is not None
    assert head.header == row.header.digest


def test_receipts_end_with_the_snapshot(network: Network, store: Store) -> None:
    """All of the window's are true, and one block more is behind it."""
    source = source_of(network)
    whole = source.receipts(24, 21, 10**6).blocks
    lie = WindowPart((*whole, BlockReceipts(())))
    lies: dict[str, Lie] = {"a": lambda r: lie if isinstance(r, WindowPart) else r}
    talk = Dialogue(core(network, peers=("a",), enough=1), source, store, lies=lies)

    assert not talk.run(100)

    [drop] = talk.dropped
    assert (drop.code, len(whole)) == ("snapshot.receipts", WINDOW)
    assert "at most 4 blocks" in drop.message


def test_nothing_of_liars_alone_is_kept(network: Network, store: Store) -> None:
    """With every peer dropped the sync is hopeless, and no leaf is in the store."""
    lie = _first(lambda r: replace(r, end=LAST_PATH, leaves=(), right=()))
    talk = Dialogue(core(network), source_of(network), store, lies=dict.fromkeys(PEERS, lie))

    assert not talk.run(200)

    assert talk.sync.hopeless
    assert {drop.peer for drop in talk.dropped} == set(PEERS)
    assert not any(key.startswith(b"ql") for key in everything(store))


@settings(max_examples=20)
@given(data=st.data())
def test_any_one_liar_and_any_silence_lead_to_the_state(
    tmp_path_factory: pytest.TempPathFactory, network: Network, data: st.DataObject
) -> None:
    """As long as one honest peer answers."""
    names = data.draw(st.permutations(PEERS))
    lie = LIES[data.draw(st.sampled_from(sorted(LIES)))][0]
    store = Store(tmp_path_factory.mktemp("sync") / "store")

    talk = Dialogue(
        core(network),
        source_of(network),
        store,
        lies={names[0]: lie},
        silent=frozenset(data.draw(st.sets(st.just(names[1])))),
    )

    assert talk.run()
    assert {drop.peer for drop in talk.dropped} <= {names[0]}
    Sync(store).install()
    store.close()

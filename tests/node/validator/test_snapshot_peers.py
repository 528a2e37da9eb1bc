"""Whom state sync asks for what, and whom it leaves alone."""

from node.validator.snapshot import (
    CHOICE_TICKS,
    GAPS_MAX,
    REST_TICKS,
    SILENT_TICKS,
    SPARE_TICKS,
    Ask,
    AskOffer,
    AskRange,
    AskSnapshot,
    Begin,
    Effect,
    Missing,
    Offer,
    Reply,
    Request,
)
from node.validator.store import Store
from tests.node.network import Network
from tests.node.validator.dialogue import PEERS, Dialogue, answer, core, source_of
from vm.shape import pack, unpack


def test_requests_are_spread_over_peers(network: Network, store: Store) -> None:
    """After the first range each peer fills another gap; nobody has two requests at a time."""
    talk = Dialogue(core(network), source_of(network), store)

    assert talk.run()

    ranges = [ask for ask in talk.asked if isinstance(ask.request, AskRange)]
    assert {ask.peer for ask in ranges} == set(PEERS)
    assert len({ask.request for ask in ranges}) == len(ranges)  # and none is asked twice


def test_gaps_are_bounded(network: Network) -> None:
    """However small the ranges are, no more than so many gaps are open at a time."""
    sync, source = core(network), source_of(network)
    waiting = [effect for effect in sync.start() if isinstance(effect, Ask)]
    most = 0
    while waiting:
        ask = waiting.pop(0)
        if isinstance(ask.request, AskRange):
            gap = ask.request.gap
            reply: Reply = source.range(ask.request.height, gap.start, gap.stop, 0)
        else:
            reply = answer(source, ask.request)
        effects = sync.received(ask.peer, ask.request, reply)
        waiting += [effect for effect in effects if isinstance(effect, Ask)]
        most = max(most, len(sync.missing.gaps))
        assert unpack(Missing, pack(sync.missing)) == sync.missing

    assert most == GAPS_MAX
    assert sync.missing.gaps == ()


def asks(effects: list[Effect]) -> dict[str, Request]:
    """Whom a step asks for what."""
    return {effect.peer: effect.request for effect in effects if isinstance(effect, Ask)}


def test_the_snapshot_is_one_that_enough_peers_have(network: Network) -> None:
    """A lone peer's newer one is not taken before the others had time to tell."""
    sync = core(network)
    sync.start()

    alone = sync.received("a", AskOffer(), Offer((16, 24), 30, 1))
    two = sync.received("b", AskOffer(), Offer((8, 16), 30, 1))

    assert alone == []
    assert asks(two) == {"a": AskSnapshot(16)}


def test_a_snapshot_of_one_peer_is_better_than_none(network: Network) -> None:
    """When the others are silent, what there is will do: it is verified all the same."""
    sync = core(network)
    sync.start()
    sync.received("a", AskOffer(), Offer((16, 24), 30, 1))

    found = [asks(sync.tick()) for _ in range(CHOICE_TICKS)]

    assert found[-1] == {"a": AskSnapshot(24)}
    assert not any(found[:-1])


def test_a_silent_peers_request_is_given_to_another(network: Network) -> None:
    """Nothing comes for a while: another peer is asked for the same."""
    sync, source = core(network), source_of(network)
    sync.start()
    for peer in PEERS:
        sync.received(peer, AskOffer(), source.offer())
    taken = next(name for name in PEERS if isinstance(sync._peers[name].request, AskSnapshot))

    found: dict[str, Request] = {}
    for _ in range(SPARE_TICKS):
        found |= asks(sync.tick())

    assert found
    assert taken not in found
    assert set(found.values()) == {AskSnapshot(24)}


def test_a_slow_peer_is_left_alone_while_bytes_come(network: Network) -> None:
    """There is no time in which an answer must be whole, only one between two parts of it."""
    sync, source = core(network, peers=("a",), enough=1), source_of(network)
    sync.start()
    request = asks(sync.received("a", AskOffer(), source.offer()))["a"]

    for _ in range(10 * SILENT_TICKS):
        sync.progressed("a")
        assert sync.tick() == []

    effects = sync.received("a", request, answer(source, request))
    assert any(isinstance(effect, Begin) for effect in effects)


def test_without_a_byte_it_is_asked_again_after_a_rest(network: Network) -> None:
    """A peer that is down for a while is not forgotten."""
    sync, source = core(network, peers=("a",), enough=1), source_of(network)
    sync.start()
    sync.received("a", AskOffer(), source.offer())

    found = [asks(sync.tick()) for _ in range(SILENT_TICKS + REST_TICKS)]

    assert found[-1] == {"a": AskSnapshot(24)}
    assert not any(found[:-1])


def test_a_snapshot_that_all_have_pruned_is_given_up(network: Network, store: Store) -> None:
    """The next one is begun, and nothing of the first is kept."""
    sync, source = core(network, peers=("a",), enough=1), source_of(network)
    sync.start()
    sync.received("a", AskOffer(), Offer((16,), 20, 1))
    begun = sync.received("a", AskSnapshot(16), source.snapshot(16))
    request = asks(begun)["a"]

    sync.failed("a", request, gone=True)
    for _ in range(REST_TICKS):
        effects = sync.tick()
    assert asks(effects) == {"a": AskOffer()}
    effects = sync.received("a", AskOffer(), Offer((24,), 30, 20))

    assert asks(effects) == {"a": AskSnapshot(24)}
    assert sync.snapshot is None


def test_a_late_reply_to_an_old_request_is_no_lie(network: Network) -> None:
    """A request that was given up may still be answered: nobody is dropped for it."""
    sync, source = core(network, peers=("a",), enough=1), source_of(network)
    sync.start()
    sync.received("a", AskOffer(), source.offer())

    assert sync.received("a", AskOffer(), source.offer()) == []
    assert not sync.hopeless


def test_nothing_older_than_what_we_have_is_taken(network: Network) -> None:
    """A node that executed height 24 has no use for its snapshot."""
    sync = core(network, executed=24)
    sync.start()

    for peer in PEERS:
        sync.received(peer, AskOffer(), source_of(network).offer())

    assert sync.snapshot is None
    assert all(not isinstance(peer.request, AskSnapshot) for peer in sync._peers.values())

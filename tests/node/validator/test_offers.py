"""Which of the snapshots that peers offer is taken, when some of them never give it."""

from node.validator.snapshot import (
    STALLED_TICKS,
    Ask,
    AskOffer,
    Complete,
    Effect,
    KeepLeaves,
    Offer,
)
from tests.node.network import Network
from tests.node.validator.dialogue import answer, core, source_of

TRUE = Offer((24,), 30, 1)
FALSE = 10**9  # a height that the chain has not


def ticks_until_complete(
    network: Network, offers: dict[str, Offer], tricklers: str, enough: int
) -> int:
    """How long a sync takes if `tricklers` send a byte now and then of whatever they offered."""
    sync, source = core(network, peers=tuple(offers), enough=enough), source_of(network)
    waiting: list[Effect] = sync.start()
    for ticks in range(10 * STALLED_TICKS):
        while able := [
            effect
            for effect in waiting
            if isinstance(effect, Ask)
            and (effect.peer not in tricklers or isinstance(effect.request, AskOffer))
        ]:
            waiting = []
            for ask in able:
                offered = isinstance(ask.request, AskOffer)
                reply = offers[ask.peer] if offered else answer(source, ask.request)
                waiting += sync.received(ask.peer, ask.request, reply)
        if any(isinstance(effect, Complete) for effect in waiting):
            assert not sync.missing.gaps
            return ticks
        for peer in tricklers:
            sync.progressed(peer)
        waiting = sync.tick()
    raise AssertionError("expected a whole snapshot, found none")


def test_an_offer_of_one_peer_does_not_hold_up_what_enough_have(network: Network) -> None:
    """All have told at once, so nothing is waited for; and who says a height twice is still one."""
    offers = {"a": Offer((FALSE, FALSE), FALSE, FALSE), "b": TRUE, "c": TRUE}

    assert ticks_until_complete(network, offers, "a", enough=2) == 0


def test_a_snapshot_of_which_nothing_comes_is_given_up_for_another(network: Network) -> None:
    """No two have the same one: each is tried in its turn, however slowly a liar trickles."""
    offers = {
        "a": Offer((FALSE, FALSE + 1), FALSE, FALSE),
        "b": Offer((FALSE + 2, FALSE + 3), FALSE, FALSE),
        "c": TRUE,
    }

    assert ticks_until_complete(network, offers, "ab", enough=3) <= 3 * STALLED_TICKS


def test_a_slow_peer_is_not_given_up_while_no_other_has_more(network: Network) -> None:
    """Its snapshot is the only one: what was kept of it stays, whatever time passes."""
    sync, source = core(network, peers=("a",), enough=1), source_of(network)
    waiting: list[Effect] = sync.start()
    kept = 0
    for _ in range(8):
        ask = next(effect for effect in waiting if isinstance(effect, Ask))
        reply = TRUE if isinstance(ask.request, AskOffer) else answer(source, ask.request)
        waiting = sync.received(ask.peer, ask.request, reply)
        kept += any(isinstance(effect, KeepLeaves) for effect in waiting)
    before = sync.missing

    for _ in range(3 * STALLED_TICKS):
        sync.progressed("a")
        sync.tick()

    assert kept
    assert sync.snapshot is not None
    assert sync.missing == before

"""What a watching auditor's machine exports to Prometheus; everything in it was verified here."""

from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    generate_latest,
)

from node.light.follow import Round, State

PATH = "/metrics"


class Metrics:
    """Gauges and counters of one watch. Labels are the URLs that it was given, and states."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._height = Gauge(
            "concilium_followed_height",
            "Height of the newest checkpoint that goes on from all earlier ones",
            registry=self._registry,
        )
        self._time = Gauge(
            "concilium_followed_time_seconds",
            "Block time of that checkpoint, seconds since 1970",
            registry=self._registry,
        )
        self._epoch = Gauge(
            "concilium_followed_epoch",
            "Number of the newest epoch that was followed",
            registry=self._registry,
        )
        self._node_height = Gauge(
            "concilium_node_height",
            "Height of the newest checkpoint that a node showed",
            ["url"],
            registry=self._registry,
        )
        self._node_state = Gauge(
            "concilium_node_state",
            "1 for the state that a node was in in the last round, else 0",
            ["url", "state"],
            registry=self._registry,
        )
        self._rounds = Counter(
            "concilium_watch_rounds", "Rounds over all nodes", registry=self._registry
        )
        self._conflicts = Counter(
            "concilium_conflicts", "Forks found, each counted once", registry=self._registry
        )

    def observe(self, found: Round) -> None:
        """Take in what came of a round."""
        self._rounds.inc()
        for seen in found.seen:
            for state in State:
                self._node_state.labels(seen.url, state.value).set(seen.state is state)
            if seen.certified is not None:
                self._node_height.labels(seen.url).set(seen.certified.header.height)
        self._conflicts.inc(len(found.conflicts))
        held = found.held
        if held is None or held.newest is None:
            return
        self._height.set(held.newest.header.height)
        self._time.set(held.newest.header.time_ms / 1_000)
        self._epoch.set(held.trust.epochs[-1].number)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


def build_app(metrics: Metrics) -> web.Application:
    """An HTTP interface with nothing but `/metrics`."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get(PATH, answer)
    return app

"""Base models that a peer fetched: the newest few stay on its disk, however long it runs."""

from node.wire.exchange import Exchange
from vm.record import Model

CACHE_BYTES_MAX = 2 * 1024**3  # twenty models of 25 million parameters


class Bases:
    """Fetches base models through an exchange, and forgets what was not asked for longest."""

    def __init__(self, exchange: Exchange, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._exchange = exchange
        self._bytes_max = bytes_max
        self._sizes: dict[str, int] = {}  # by address, longest unused first

    async def fetch(self, model: Model) -> bytes:
        """The weights' file of a model version; raises `Refused("blob.*")`."""
        content = await self._exchange.fetch(model.weights, model.weights_bytes)
        self._sizes.pop(model.weights, None)
        self._sizes[model.weights] = model.weights_bytes
        while sum(self._sizes.values()) > self._bytes_max and len(self._sizes) > 1:
            oldest = next(iter(self._sizes))
            del self._sizes[oldest]
            await self._exchange.forget(oldest)
        return content

"""Following events goes on at another node, whatever one of them says."""

import asyncio

from aiohttp import web

from node.client.client import Client
from tests.harness import as_read
from tests.node.client.asking import DEAD, FIRST_EVENT
from tests.node.network import HOSPITALS, Network, register_dataset
from tests.node.serving import serve, serve_app


def test_events_go_on_at_another_node(network: Network) -> None:
    """Heights come once each, in order, past a dead node and a stream that repeats itself."""
    for _ in range(3):
        network.block()

    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(FIRST_EVENT * 2)
        return response

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/v1/events", broken)
        async with (
            serve_app(app) as bad,
            serve(network) as (url, node),
            Client(network.genesis, [DEAD, bad, url]) as client,
        ):
            found = []
            async for event in client.events(0):
                found.append(event.height)
                if event.height == 4:
                    node.waiting[b""] = as_read(register_dataset(network, HOSPITALS[1]))
                    node.execute()
                if event.height == 5:
                    break
            assert found == [1, 2, 3, 4, 5]
            assert event.records[0].key == ["hospital-2.opt"]

    asyncio.run(main())


def test_an_event_beyond_the_chain_does_not_silence_the_next_stream(network: Network) -> None:
    """A node that claims height 2^53 would otherwise have us wait at the others for ever."""

    async def boast(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(FIRST_EVENT.replace(b'"height": 1', b'"height": %d' % 2**53))
        return response

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/v1/events", boast)
        async with (
            serve_app(app) as bad,
            serve(network) as (url, _),
            asyncio.timeout(20),
            Client(network.genesis, [bad, url]) as client,
        ):
            found = []
            async for event in client.events(0):
                found.append(event.height)
                if len(found) == 2:
                    break
            assert found == [2**53, 1]

    asyncio.run(main())

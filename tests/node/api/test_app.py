"""The HTTP interface, over a real chain with certificates by the validators' keys."""

import pytest

from node.api import pool
from node.api.problem import PROBLEMS
from tests.node.api.asking import assert_problem, post, run
from tests.node.network import HOSPITALS, Network, register_dataset
from tests.node.serving import Node, call, get
from vm.shape import pack


def test_paths_and_methods_that_are_not_there_are_problems(network: Network) -> None:
    """Also what the router refuses is a problem document."""

    async def check(url: str, _: Node) -> None:
        assert_problem(await get(f"{url}/v1/nothing"), 404, "route.unknown")
        got = await call("DELETE", f"{url}/v1/blocks")
        assert_problem(got, 405, "method.unknown")
        assert "GET" in got.headers["Allow"]

    run(network, check)


def test_a_bug_of_ours_is_answered_without_its_traceback(network: Network) -> None:
    """The client learns that the node failed, and nothing of how."""

    async def check(url: str, node: Node) -> None:
        node.judge = lambda transaction: 1 / 0  # type: ignore[assignment]
        got = await post(url, [pack(register_dataset(network, HOSPITALS[0]))])
        assert_problem(got, 500, "internal")
        assert "ZeroDivision" not in str(got.body)

    run(network, check)


def test_every_problem_type_resolves(network: Network) -> None:
    """The `type` of each listed problem is a path that says what it means."""

    async def check(url: str, _: Node) -> None:
        for code, known in PROBLEMS.items():
            got = await get(f"{url}/v1/problems/{code}")
            assert got.body == {"code": code, "title": known.title, "status": known.status}
        assert_problem(await get(f"{url}/v1/problems/none"), 404, "problem.missing")
        listed = (await get(f"{url}/v1/problems?limit=100")).body
        assert [item["code"] for item in listed["items"]] == sorted(PROBLEMS)
        assert listed["next"] is None

    run(network, check)


def test_reads_beyond_the_bound_are_turned_away(
    learned: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full pool answers 503 at once instead of queueing without end."""
    monkeypatch.setattr(pool, "READS_MAX", 0)

    async def check(url: str, _: Node) -> None:
        assert_problem(await get(f"{url}/v1/members"), 503, "api.busy")
        for path in ("/livez", "/v1/status", "/v1/problems", "/openapi.json", "/docs"):
            assert (await get(url + path)).status == 200  # what says so does not wait

    run(learned, check)


def test_health_and_status(network: Network) -> None:
    """Liveness depends on nothing; readiness says why not; status is the node's own word."""

    async def check(url: str, node: Node) -> None:
        node.ready = (False, "catching up")
        assert (await get(f"{url}/livez")).status == 200
        got = await get(f"{url}/readyz")
        assert (got.status, got.body["reason"]) == (503, "catching up")
        node.ready = (True, "")
        assert (await get(f"{url}/readyz")).status == 200
        status = (await get(f"{url}/v1/status")).body
        assert status["chain"] == network.chain.id.hex()
        assert status["peers"] == 3

    run(network, check)

"""The description: valid, whole, and what a browser shows of it."""

import re
from html.parser import HTMLParser

import pytest
from openapi_spec_validator import validate
from pydantic import BaseModel

from node.api.app import build_api
from node.api.docs import POLICY, STYLE, STYLE_DIGEST, write_page
from node.api.openapi import describe
from node.api.problem import PROBLEMS
from node.api.routes import OTHERS, READS
from tests.node.api.asking import run
from tests.node.network import Network
from tests.node.serving import Node, get


def test_the_description_is_valid_openapi_3_1() -> None:
    """By the validator of others."""
    document = describe(public=True)
    assert document["openapi"] == "3.1.0"
    validate(document)


def test_every_route_that_is_served_is_described(network: Network) -> None:
    """Path and method, each once, and nothing that is not there."""

    async def check(_: str, node: Node) -> None:
        served = {
            (route.resource.canonical, route.method.lower())
            for route in build_api(node.context).router.routes()
            if route.resource is not None and route.method != "HEAD"
        }
        described = {
            (path, method)
            for path, found in describe(public=True)["paths"].items()
            for method in found
        }
        assert described == served
        assert len(READS) + len(OTHERS) == len(served)

    run(network, check)


def test_every_operation_says_what_comes_of_it() -> None:
    """A summary, an answer with headers, the problems by status, and who may ask."""
    for path, methods in describe(public=True)["paths"].items():
        for method, found in methods.items():
            where = f"{method} {path}"
            assert found["summary"], where
            assert "400" in found["responses"], where
            assert found["security"], where
            first = next(iter(found["responses"].values()))
            assert first["content"], where
            for parameter in found["parameters"]:
                assert parameter["in"] == "path" or parameter["description"], where
                if parameter["schema"].get("type") == "integer":
                    assert {"minimum", "maximum"} <= set(parameter["schema"]), where


def test_where_a_reader_is_needed_on_a_public_network_is_said() -> None:
    """Wherever what is restricted is shown whatever is asked for: strangers get 401 there."""
    needed = {
        path
        for path, methods in describe(public=True)["paths"].items()
        for found in methods.values()
        if {} not in found["security"]
    }

    update = "/v1/tasks/{id}/rounds/{number}/updates/{organisation}"
    assert needed == {
        "/v1/tokens",
        "/v1/access-log",
        "/v1/models/{id}/versions/{version}/lineage",
        "/v1/usages",
        "/v1/usages/{model}",
        "/v1/models/{id}/uses/{organisation}",
        "/v1/models/{id}/uses/{organisation}/{number}",
        *(
            f"{update}/{path}"
            for noun, name in (
                ("verdicts", "verifier"),
                ("audits", "auditor"),
                ("visits", "auditor"),
            )
            for path in (noun, f"{noun}/{{{name}}}")
        ),
    }


def codes(path: str, method: str = "get") -> set[str]:
    """The problems that an operation is described with."""
    found = describe(public=True)["paths"][path][method]["responses"]
    return {
        code
        for answer in found.values()
        for code in re.findall(r"`([a-z_.]+)`", answer.get("description", ""))
    }


def test_problems_are_described_where_they_can_happen() -> None:
    """Of a body where one is taken, of readers where one is asked for."""
    body = {"body.slow", "body.too_large", "body.media_type", "body.invalid"}

    assert body <= codes("/v1/transactions", "post")
    assert not {"reader.required", "body.unwanted"} & codes("/v1/transactions", "post")
    for path in ("/v1/members", "/v1/holdouts"):
        assert {"reader.required", "reader.too_many", "body.unwanted"} <= codes(path)
        assert not body & codes(path)
    assert not {code for code in codes("/livez") if code.startswith("reader.")}


def test_every_code_that_a_route_names_is_a_problem() -> None:
    """A read may name only codes that have a status and a title."""
    for read in READS:
        assert set(read.codes) <= set(PROBLEMS), read.path
        assert issubclass(read.body, BaseModel)


def test_description_and_page_are_served_with_a_policy_that_lets_nothing_run(
    network: Network,
) -> None:
    """The page loads nothing: no script, and the one style by its digest."""

    async def check(url: str, _: Node) -> None:
        assert (await get(f"{url}/openapi.json")).body == describe(public=True)
        got = await get(f"{url}/docs")
        assert got.headers["Content-Type"] == "text/html; charset=utf-8"
        assert got.headers["Content-Security-Policy"] == POLICY
        assert got.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in POLICY
        assert STYLE_DIGEST in POLICY
        assert got.body.decode() == write_page(describe(public=True))

    run(network, check)


class Page(HTMLParser):
    """What of a page a browser would look up."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what it names."""
        found = dict(attrs)
        self.tags.append(tag)
        self.ids.add(found.get("id") or "")
        self.links.add(found.get("href") or "")
        assert not any(name.startswith("on") or name in ("src", "style") for name in found)


def test_the_page_shows_every_path_and_its_links_lead_somewhere() -> None:
    """Each link within the page has its target; nothing is loaded from elsewhere."""
    document = describe(public=True)
    text = write_page(document)
    page = Page()
    page.feed(text)

    within = {link[1:] for link in page.links if link.startswith("#")}
    assert within <= page.ids
    assert page.links - {f"#{name}" for name in within} == {"/openapi.json", "/v1/problems", ""}
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert page.tags.count("section") == sum(map(len, document["paths"].values())) + len(
        document["components"]["schemas"]
    )
    assert STYLE in text


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><b>', "a & b", "`<i>`"])
def test_the_page_shows_text_as_text(text: str) -> None:
    """Whatever a description holds, it is no markup."""
    document = describe(public=True)
    document["info"]["description"] = text
    page = Page()
    page.feed(write_page(document))
    assert not {"script", "b", "i"} & set(page.tags)

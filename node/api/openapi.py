"""The interface described as OpenAPI 3.1, from the models that validate and the table of routes."""

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from node.api.answer import COMMON, DESK, Read
from node.api.export import CSV, NDJSON
from node.api.problem import CONTENT_TYPE, PROBLEMS, TYPE_PATH
from node.api.resource import DIGEST, NAME, NUMBERS
from node.api.routes import OPENAPI, OTHERS, READS, Other
from node.api.security import SCHEMES, is_open, requirements
from node.api.transactions import LOOKUP, MSGPACK
from node.api.views import ProblemView
from vm.shape import CODE_BYTES_MAX, HEIGHT_MAX, NAME_BYTES_MAX

SCHEMA = "#/components/schemas/{model}"
TEXT = {"type": "string"}
ABOUT = (
    "What a validator of a Concilium network shows of the chain: certified heights only. In every "
    "answer `proof` suffices to check it against the genesis document, or a pinned checkpoint; the "
    "rest is the node's reading of it, for people."
)
UNREADABLE = {  # before there is a request that a route could answer
    "text/plain": {"schema": TEXT | {"description": "What is no HTTP, or too long a request line"}}
}
KEPT = {
    "ETag": {"description": "Strong: of exactly these bytes", "schema": TEXT},
    "Cache-Control": {
        "description": "`immutable` where no later block changes the answer, else `no-cache`",
        "schema": TEXT,
    },
    "Vary": {"description": "Accept, and who asks", "schema": TEXT},
}


def describe(public: bool) -> dict[str, Any]:
    """The whole document; of a `public` network some of it is for nobody in particular."""
    paths: dict[str, dict[str, Any]] = {}
    for read in READS:
        paths.setdefault(read.path, {})["get"] = _read(read, public)
    for other in OTHERS:
        paths.setdefault(other.path, {})[other.method] = _other(other, public)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Concilium", "version": version("concilium"), "description": ABOUT},
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "servers": [{"url": "/", "description": "This node"}],
        "security": [{}] if public else [{name: []} for name in SCHEMES],
        "tags": [{"name": name} for name in sorted({_tag(path) for path in paths})],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": SCHEMES,
            "responses": {
                "NotModified": {"description": "As the client holds it", "headers": KEPT}
            },
            "schemas": _schemas(),
        },
    }


def _schemas() -> dict[str, Any]:
    answers = {read.body for read in READS} | {other.body for other in OTHERS if other.body}
    ordered = sorted(answers | {ProblemView}, key=lambda model: model.__name__)
    _, schemas = models_json_schema(
        [(model, "serialization") for model in ordered], ref_template=SCHEMA
    )
    taken = [other.takes for other in OTHERS if other.takes]
    _, bodies = models_json_schema([(model, "validation") for model in taken], ref_template=SCHEMA)
    found = schemas["$defs"] | bodies["$defs"]
    for query in {read.query for read in READS} | {other.query for other in OTHERS}:
        found |= query.model_json_schema(ref_template=SCHEMA).get("$defs", {})
    return dict(sorted(found.items()))


def _read(read: Read, public: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _ref(read.body)}}
    if read.columns:
        columns = ", ".join(read.columns)
        content[CSV] = {"schema": TEXT | {"description": f"RFC 4180: {columns}"}}
        content[NDJSON] = {"schema": TEXT | {"description": "Each line is one of `items`"}}
    operation = _operation("get", read.path, read.summary, read.query, read.codes, public)
    answers = {"200": {"description": read.summary, "headers": KEPT, "content": content}}
    if read.path == "/readyz":
        answers["503"] = {"description": "Not ready", "content": content}
    operation["responses"] = (
        answers | {"304": {"$ref": "#/components/responses/NotModified"}} | operation["responses"]
    )
    return operation


def _other(other: Other, public: bool) -> dict[str, Any]:
    schema = {"type": "object"} if other.path == OPENAPI else TEXT
    content = {other.media_type: {"schema": _ref(other.body) if other.body else schema}}
    operation = _operation(
        other.method, other.path, other.summary, other.query, other.codes, public
    )
    answers: dict[str, Any] = {
        str(other.status): {"description": other.summary, "content": content}
    }
    if other.takes is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {"schema": _ref(other.takes)},
                MSGPACK: {"schema": TEXT | {"format": "binary"}},
            },
        }
    elif other.status == 200 and other.media_type != "text/event-stream":
        answers["200"]["headers"] = KEPT
        answers["304"] = {"$ref": "#/components/responses/NotModified"}
    operation["responses"] = answers | operation["responses"]
    return operation


def _operation(
    method: str, path: str, summary: str, query: type[BaseModel], codes: Iterable[str], public: bool
) -> dict[str, Any]:
    return {
        "operationId": "_".join((method, *re.findall(r"\w+", path))),
        "summary": summary,
        "tags": [_tag(path)],
        "parameters": [*_path_parameters(path), *_query_parameters(query)],
        "responses": _problems((*codes, *COMMON, *(() if is_open(method, path) else DESK))),
        "security": requirements(method, path, public),
    }


def _problems(codes: Iterable[str]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code in sorted(set(codes)):
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    content: dict[str, Any] = {CONTENT_TYPE: {"schema": _ref(ProblemView)}}
    return {
        str(status): {
            "description": "; ".join(f"`{code}`: {PROBLEMS[code].title}" for code in found),
            "content": content | (UNREADABLE if status == 400 else {}),
        }
        for status, found in sorted(by_status.items())
    }


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _part(path, name)}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _part(path: str, name: str) -> dict[str, Any]:
    if name in NUMBERS:
        return {"type": "integer", "minimum": 0, "maximum": HEIGHT_MAX}
    if path == LOOKUP:
        return TEXT | {"pattern": f"^{DIGEST.pattern}$"}
    if path.startswith(TYPE_PATH):
        return TEXT | {"pattern": r"^[a-z_]+(?:\.[a-z_]+)*$", "maxLength": CODE_BYTES_MAX}
    return TEXT | {"pattern": f"^{NAME.pattern}$", "maxLength": NAME_BYTES_MAX}


def _query_parameters(query: type[BaseModel]) -> list[dict[str, Any]]:
    schema = query.model_json_schema(ref_template=SCHEMA)
    required = schema.get("required", ())
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "description": found.get("description", ""),
            "schema": _parameter(found),
        }
        for name, found in schema.get("properties", {}).items()
    ]


def _parameter(found: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter is given or left out: it cannot be null."""
    kept = {k: v for k, v in found.items() if k not in ("title", "description", "default")}
    given = [part for part in kept.get("anyOf", ()) if part != {"type": "null"}]
    if len(given) == 1:
        return dict(given[0])
    if given:
        return {"anyOf": given}
    return kept | ({"default": found["default"]} if "default" in found else {})


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": SCHEMA.format(model=model.__name__)}


def _tag(path: str) -> str:
    parts = path.strip("/").split("/")
    return parts[1] if parts[0] == "v1" else "node"

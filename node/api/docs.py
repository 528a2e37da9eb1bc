"""The description for people: one page of plain HTML, made of the OpenAPI document, no script."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --link: #06c; }
@media (prefers-color-scheme: dark) { :root { --link: #6bf; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
a { color: var(--link); }
code { font-family: ui-monospace, monospace; font-size: .9em; overflow-wrap: anywhere; }
nav ul { columns: 24rem; padding: 0; list-style: none; }
section { border-top: 1px solid var(--line); padding: .5rem 0; }
h3 { margin: .5rem 0; font-size: 1.05rem; }
.method { background: var(--soft); border-radius: .3rem; padding: .1rem .4rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .5rem; text-align: left;
         vertical-align: top; }
@media print { nav { display: none; } section { break-inside: avoid; } }
"""
STYLE_DIGEST = base64.b64encode(sha256(STYLE.encode()).digest()).decode()
POLICY = (  # nothing is loaded and nothing runs; this one style is let through by its digest
    f"default-src 'none'; style-src 'sha256-{STYLE_DIGEST}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


def write_page(document: Mapping[str, Any]) -> str:
    """The page."""
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}: HTTP interface</title><style>{STYLE}</style></head><body>"
        f"<h1>{title}</h1><p>{_text(info['description'])}</p>"
        f'<p><a href="/openapi.json">OpenAPI 3.1</a> · <a href="/v1/problems">problems</a></p>'
        f"{_security(document)}<h2>Paths</h2>{_contents(document)}"
        f"{''.join(_paths(document))}<h2>Schemas</h2>{''.join(_schemas(document))}</body></html>\n"
    )


def _security(document: Mapping[str, Any]) -> str:
    rows = (
        (f"<code>{escape(name)}</code>", _text(found["description"]))
        for name, found in document["components"]["securitySchemes"].items()
    )
    return "<h2>Who asks</h2>" + _table(("scheme", "what it is"), rows)


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _contents(document: Mapping[str, Any]) -> str:
    links = (
        f'<li><a href="#{escape(found["operationId"])}"><code>{method} {escape(path)}</code></a>'
        for method, path, found in _operations(document)
    )
    return f"<nav><ul>{''.join(links)}</ul></nav>"


def _paths(document: Mapping[str, Any]) -> Iterator[str]:
    for method, path, found in _operations(document):
        parameters = (
            (
                f"<code>{escape(item['name'])}</code>",
                item["in"] + (", required" if item["required"] else ""),
                _type(item["schema"]),
                _text(item.get("description", "")),
            )
            for item in found["parameters"]
        )
        answers = (
            (escape(status), _content(answer), _text(answer["description"]))
            for status, answer in _answers(document, found)
        )
        yield (
            f'<section id="{escape(found["operationId"])}"><h3><span class="method">{method}'
            f"</span> <code>{escape(path)}</code></h3><p>{_text(found['summary'])}</p>"
            f"{_table(('parameter', 'in', 'type', ''), parameters)}"
            f"{_table(('status', 'content', ''), answers)}</section>"
        )


def _answers(
    document: Mapping[str, Any], operation: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for status, answer in operation["responses"].items():
        shared = document["components"]["responses"]
        yield status, shared[answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer


def _content(answer: Mapping[str, Any]) -> str:
    return "<br>".join(
        f"<code>{escape(kind)}</code> {_type(found['schema'])}"
        for kind, found in answer.get("content", {}).items()
    )


def _schemas(document: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in document["components"]["schemas"].items():
        rows = (
            (f"<code>{escape(field)}</code>", _type(found), _text(found.get("description", "")))
            for field, found in schema.get("properties", {}).items()
        )
        yield (
            f'<section id="schema-{escape(name)}"><h3><code>{escape(name)}</code></h3>'
            f"<p>{_text(schema.get('description', ''))}</p>"
            f"{_table(('member', 'type', ''), rows)}</section>"
        )


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, with a link where it has a name."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    for joined in ("anyOf", "allOf"):
        if joined in schema:
            return " or ".join(_type(part) for part in schema[joined])
    if "items" in schema:
        return f"array of {_type(schema['items'])}"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    kind = escape(str(schema.get("format", schema.get("type", "any"))))
    if "pattern" in schema:
        kind += f" <code>{escape(schema['pattern'])}</code>"
    if "maximum" in schema:
        kind += f" {schema.get('minimum', 0)} to {schema['maximum']}"
    return kind


def _table(heads: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""


def _text(text: str) -> str:
    """A sentence, with what stands in backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))

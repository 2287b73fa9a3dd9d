"""The page `/docs`: the OpenAPI description made readable, in one HTML document that needs nothing from elsewhere.

FastAPI's own page loads its program from a public server, which a machine without the internet can't reach.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
details { border: 1px solid #ddd; border-radius: 6px; margin: .5rem 0; padding: .5rem .8rem }
summary { cursor: pointer } summary b { display: inline-block; width: 4.5rem; color: #06c }
code, pre { font: 14px/1.4 ui-monospace, monospace; background: #f5f5f5; border-radius: 4px; padding: 0 .25rem }
pre { padding: .6rem; overflow: auto } td, th { text-align: left; padding: 0 1rem 0 0; vertical-align: top }
"""


def api_page(description: dict[str, Any]) -> str:
    """An OpenAPI 3.1 document as HTML."""
    info = description["info"]
    routes = [
        _route(verb, path, operation)
        for path, operations in sorted(description["paths"].items())
        for verb, operation in operations.items()
    ]
    models = [_model(name, schema) for name, schema in sorted(description["components"]["schemas"].items())]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])} API</title>",
        f"<style>{_STYLE}</style><h1>{escape(info['title'])} API {escape(info['version'])}</h1>",
        *(f"<p>{_prose(paragraph)}</p>" for paragraph in info["description"].strip().split("\n\n")),
        '<p>For programs: <a href="openapi.json">openapi.json</a>.</p>',
        *("<h2>Routes</h2>", *routes, "<h2>Models</h2>", *models),
    ]
    return "\n".join(parts)


def _route(verb: str, path: str, operation: dict[str, Any]) -> str:
    said = _prose(operation.get("description", ""))
    asked = operation.get("requestBody", {}).get("content", {})
    answered = {code: answer.get("content", {}) for code, answer in operation["responses"].items() if code[0] == "2"}
    rows = [(one["name"], one["in"], _kind(one["schema"])) for one in operation.get("parameters", ())]
    rows += [("body", "JSON", _kind(content["schema"])) for content in asked.values()]
    rows += [(code, "answer", _kind(body["schema"])) for code, content in answered.items() for body in content.values()]
    title = f"<b>{verb.upper()}</b> <code>{escape(path)}</code>"
    return f"<details><summary>{title}</summary><p>{said}</p>{_table(rows)}</details>"


def _model(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (f"{field}{'' if field in required else ' (optional)'}", _kind(kind), _prose(kind.get("description", "")))
        for field, kind in schema.get("properties", {}).items()
    ]
    body = _table(rows) if rows else f"<pre>{escape(json.dumps(schema.get('enum', schema), indent=1))}</pre>"
    return f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>{body}</details>'


def _table(rows: list[tuple[str, str, str]]) -> str:
    """The first column is text, the others are HTML."""
    lines = (f"<tr><td><code>{escape(first)}</code><td>{second}<td>{third}" for first, second, third in rows)
    return f"<table>{''.join(lines)}</table>"


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words, its models as links."""
    return " or ".join(dict.fromkeys(_words(schema))) or "anything"


def _words(schema: dict[str, Any]) -> Iterator[str]:
    if name := schema.get("$ref", "").rpartition("/")[2]:
        yield f'<a href="#{escape(name)}">{escape(name)}</a>'
    for choice in (*schema.get("anyOf", ()), *schema.get("allOf", ())):
        yield from _words(choice)
    if "enum" in schema:
        yield from (f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    elif "const" in schema:
        yield f"<code>{escape(str(schema['const']))}</code>"
    elif schema.get("type") == "array":
        yield f"list of {_kind(schema.get('items', {}))}"
    elif "type" in schema:
        yield escape(schema["type"])


def _prose(text: str) -> str:
    """Text with its `code` marked."""
    pieces = escape(text, quote=False).split("`")
    return "".join(f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces))

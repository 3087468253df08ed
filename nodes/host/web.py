"""What the browser may ask the server for, and what it is told while a node works. Everything here only reads."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from server import PromptServer

from ..errors import UserError

# A page is a file that anyone may have put there: it runs no script, loads nothing, and is of no origin. The rule is written
# into the page too, as the host replaces the header when it is started with --disable-api-nodes.
_RULE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
_RULE_IN_PAGE = f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_RULE}">'
_INERT = {
    "Content-Security-Policy": f"sandbox allow-popups; {_RULE}",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def serve_record(path: str, find: Callable[[str], dict[str, Any]]) -> None:
    """Answer `GET path?name=...` by the JSON that `find(name)` gives; 400 with the sentence of a UserError."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            found = await asyncio.to_thread(find, request.query.get("name", ""))
        except UserError as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response(found, headers={"Cache-Control": "no-store"})

    _get(path, answer)


def serve_page(path: str, find: Callable[[str], Path]) -> None:
    """Answer `GET path?name=...` by the HTML file that `find(name)` gives; 404 with the sentence of a UserError."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            page = await asyncio.to_thread(lambda: find(request.query.get("name", "")).read_bytes())
        except (UserError, OSError) as error:
            return web.Response(text=str(error) if isinstance(error, UserError) else "It cannot be read.", status=404)
        return web.Response(body=_RULE_IN_PAGE.encode() + page, headers={**_INERT, "Content-Type": "text/html; charset=utf-8"})

    _get(path, answer)


def tell(event: str, record: dict[str, Any]) -> None:
    """Send a record to every browser that is connected."""
    if (server := _server()) is not None:
        server.send_sync(event, record)


def _get(path: str, answer: Callable) -> None:
    if (server := _server()) is not None:
        server.routes.get(path)(answer)


def _server() -> PromptServer | None:
    """None where the nodes are used without one, as in some tests."""
    return getattr(PromptServer, "instance", None)

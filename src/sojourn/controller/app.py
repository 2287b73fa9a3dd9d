"""The controller as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from sqlalchemy.exc import DataError, DisconnectionError, SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from sojourn import __version__
from sojourn.controller.api_page import api_page
from sojourn.controller.body_limit import BodyLimit
from sojourn.controller.controller import Controller
from sojourn.controller.routes import router
from sojourn.errors import Invalid, SojournError, Unknown, Unreachable

log = logging.getLogger(__name__)

DESCRIPTION = """
Sessions are running Jupyter kernels (or any program) in sandboxes on nodes; the controller knows where each of them is,
starts and stops them, and moves them between nodes while their clients stay connected.

Show an api token: `Authorization: Bearer TOKEN`. Every error is `{"code", "message", "hint"}`: what happened to which
object, and what to do next. The same API in Python: `sojourn.Client` and `sojourn.AsyncClient`.
"""
_ERROR = {
    "type": "object",
    "required": ["code", "message", "hint"],
    "properties": {name: {"type": "string"} for name in ("code", "message", "hint")},
}


def build_app(controller: Controller) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(controller.run())
        running.add_done_callback(_cry_out)
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    errors = {"description": "Refused, or failed.", "content": {"application/json": {"schema": _ERROR}}}
    app = FastAPI(
        title="Sojourn",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        responses={"default": errors},
        docs_url=None,
        redoc_url=None,
    )
    app.state.controller = controller
    app.add_middleware(BodyLimit)
    app.include_router(router)
    app.add_route("/docs", _docs, include_in_schema=False)
    app.add_exception_handler(SojournError, _refused)
    app.add_exception_handler(RequestValidationError, _misunderstood)
    app.add_exception_handler(HTTPException, _no_such_route)
    app.add_exception_handler(SQLAlchemyError, _not_written)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, _defect)
    return app


def _cry_out(running: asyncio.Task[None]) -> None:
    if not running.cancelled() and (why := running.exception()):
        log.critical("no time passes for this controller any more; start it again", exc_info=why)


async def _docs(request: Request) -> HTMLResponse:
    return HTMLResponse(api_page(request.app.openapi()))


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SojournError)
    return JSONResponse(error.to_wire(), error.http_status)


async def _misunderstood(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return await _refused(request, Invalid(f"{where}: {first['msg']}.", "The page /docs shows what is understood."))


async def _no_such_route(request: Request, error: Exception) -> JSONResponse:
    """What Starlette refuses by itself: a path or a method that is none."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail.lower()}."
    said = Unknown(what, "The page /docs shows every route.").to_wire()
    return JSONResponse(said, error.status_code, error.headers)


async def _not_written(request: HTTPConnection, error: Exception) -> JSONResponse | None:
    """Its transaction is undone. One whose commit was on the way may have been written: whoever asks again sees."""
    if not isinstance(request, Request):
        log.warning("a line broke: %s", error)
        return None
    if isinstance(error, DataError):
        unfit = Invalid(f"That can't be written down: {error.orig}", "Write less, and only text.")
        return await _refused(request, unfit)
    if isinstance(error, DisconnectionError) or getattr(error, "connection_invalidated", False):
        lost = Unreachable("The controller has lost its database.", "Ask again: it begins anew when that is there.")
        return await _refused(request, lost)
    log.error("the database failed", exc_info=error)
    return await _defect(request, error)


async def _defect(request: Request, error: Exception) -> JSONResponse:
    return await _refused(request, SojournError(f"The controller failed: {error!r}", "See its log."))

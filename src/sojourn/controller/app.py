"""The controller as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from sojourn import __version__
from sojourn.controller.controller import Controller
from sojourn.controller.routes import router
from sojourn.errors import Invalid, SojournError

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
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    errors = {"description": "Refused, or failed.", "content": {"application/json": {"schema": _ERROR}}}
    app = FastAPI(
        title="Sojourn", version=__version__, description=DESCRIPTION, lifespan=lifespan, responses={"default": errors}
    )
    app.state.controller = controller
    app.include_router(router)
    app.add_exception_handler(SojournError, _refused)
    app.add_exception_handler(RequestValidationError, _misunderstood)
    app.add_exception_handler(Exception, _defect)
    return app


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SojournError)
    return JSONResponse(error.to_wire(), error.http_status)


async def _misunderstood(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return await _refused(request, Invalid(f"{where}: {first['msg']}.", "The page /docs shows what is understood."))


async def _defect(request: Request, error: Exception) -> JSONResponse:
    return await _refused(request, SojournError(f"The controller failed: {error!r}", "See its log."))

"""The front's HTTP API (contract 6), for the provisioner and the launcher."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from sojourn.errors import Invalid, SojournError, Unauthorized
from sojourn.front.host import Front
from sojourn.front.words import AdoptRequest, KernelView, LeaseRequest, OpenRequest, SignalRequest, StartRequest


def make_app(front: Front, token: str) -> FastAPI:
    """The API of one front; every request must carry the bearer token."""

    def authorize(authorization: Annotated[str, Header()] = "") -> None:
        if not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise Unauthorized("That is not the front's token.", "Read it from front.json.")

    app = FastAPI(title="Sojourn's front", dependencies=[Depends(authorize)], docs_url=None, redoc_url=None)
    app.add_exception_handler(SojournError, _tell)
    app.add_exception_handler(RequestValidationError, _tell_invalid)
    _add_routes(app, front)
    return app


def _add_routes(app: FastAPI, front: Front) -> None:
    @app.post("/kernels")
    async def open_kernel(wish: OpenRequest) -> KernelView:
        return await front.open(wish)

    @app.post("/kernels/adopt")
    async def adopt_kernel(wish: AdoptRequest) -> KernelView:
        return await front.adopt(wish)

    @app.get("/kernels")
    async def kernels() -> list[KernelView]:
        return front.kernels()

    @app.get("/kernels/{session}")
    async def kernel(session: str) -> KernelView:
        return front.kernel(session)

    @app.post("/kernels/{session}/signal")
    async def signal(session: str, wish: SignalRequest) -> None:
        front.signal(session, wish.signum)

    @app.post("/kernels/{session}/start")
    async def start(session: str, wish: StartRequest) -> KernelView:
        return front.start(session, wish)

    @app.post("/kernels/{session}/lease")
    async def lease(session: str, wish: LeaseRequest) -> None:
        front.lease(session, wish.seconds)

    @app.delete("/kernels/{session}")
    async def close(session: str) -> None:
        await front.close(session)


async def _tell(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SojournError)
    return JSONResponse(error.to_wire(), status_code=error.http_status)


async def _tell_invalid(request: Request, error: Exception) -> JSONResponse:
    return await _tell(request, Invalid(f"The front does not understand that request: {error}"))

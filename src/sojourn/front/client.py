"""How others reach the front: `ensure` finds or starts it, `FrontClient` speaks its API."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from sojourn.errors import SojournError, Unreachable, from_wire
from sojourn.front.connection import Connection
from sojourn.front.words import (
    AdoptRequest,
    Card,
    ControllerAddress,
    KernelView,
    LeaseRequest,
    OpenRequest,
    SignalRequest,
    StartRequest,
)
from sojourn.model import Program, SessionSpec
from sojourn.model.base import Word
from sojourn.settings import Controller, cap_log, data_folder

START_SECONDS = 20.0
AT_ONCE_SECONDS = 10.0
"""For what a front answers from memory. Jupyter asks it from its event loop, which a front that hangs must not stop."""
WORK_SECONDS = 60.0
SHIPPING_SECONDS = 3600.0
"""For a node's environment to be brought to where the kernel starts, the first time."""
"""For what a front has to ask a controller."""
SECRETS = ("SOJOURN_TOKEN", "JUPYTER_TOKEN", "JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN", "JPY_PARENT_PID", "TMPDIR")
"""What of its environment is the starter's own: tokens, and a folder for what is to end with it. Whoever is started to
outlive it must not hold on to them."""


def front_folder() -> Path:
    return data_folder() / "front"


def ensure(controller: Controller) -> FrontClient:
    """The user's front, started if it does not run; what it opens belongs to `controller`. Raises Unreachable."""
    cap_log(front_folder() / "front.log")
    front = _find(controller)
    if front:
        return front
    started = _start()
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if front := _find(controller):
            return front
        if started.poll():
            break
        time.sleep(0.02)
    raise Unreachable("The front did not start.", f"Its log is {front_folder() / 'front.log'}.")


class FrontClient:
    """Speaks to a front. Raises the front's errors, and Unreachable when it does not answer."""

    def __init__(self, card: Card, controller: Controller) -> None:
        self._controller = ControllerAddress(url=controller.url, token=controller.token)
        headers = {"Authorization": f"Bearer {card.token}"}
        self._http = httpx.Client(base_url=card.url, headers=headers, trust_env=False)

    def open(
        self, spec: SessionSpec, connection: dict[str, Any], language: str = "python", lease_seconds: float = 600.0
    ) -> str:
        """Start a kernel in a new session and host it; returns the session's id, before the kernel is ready.

        `{connection_file}` in the program's argv stands for the kernel's own connection file; `connection` is the
        clients'.
        """
        wish = OpenRequest(
            controller=self._controller,
            spec=spec,
            connection=Connection.model_validate(connection),
            language=language,
            lease_seconds=lease_seconds,
        )
        seconds = SHIPPING_SECONDS if spec.environment else WORK_SECONDS
        return KernelView.model_validate(self._ask("POST", "/kernels", wish, seconds)).session

    def adopt(self, session: str, controller: Controller | None = None, *, language: str = "") -> KernelView:
        """Host the kernel of a session that was not started here, as of a fork. Its connection file for clients lies in
        `connections` of the front's folder. `controller`: whose session it is, if not the one this client was made for.
        Raises Unknown, and Invalid for a session that holds no kernel."""
        owner = ControllerAddress(url=controller.url, token=controller.token) if controller else self._controller
        wish = AdoptRequest(controller=owner, session=session, language=language)
        return KernelView.model_validate(self._ask("POST", "/kernels/adopt", wish, WORK_SECONDS))

    def kernels(self) -> list[KernelView]:
        return [KernelView.model_validate(one) for one in self._ask("GET", "/kernels")]

    def kernel(self, session: str) -> KernelView:
        return KernelView.model_validate(self._ask("GET", f"/kernels/{session}"))

    def signal(self, session: str, signum: int) -> None:
        """To the kernel's process group, wherever it is."""
        self._ask("POST", f"/kernels/{session}/signal", SignalRequest(signum=int(signum)))

    def start(self, session: str, program: Program | None = None, connection: dict[str, Any] | None = None) -> None:
        """Start the kernel's program again in its sandbox; one that still runs is killed."""
        outer = Connection.model_validate(connection) if connection else None
        self._ask("POST", f"/kernels/{session}/start", StartRequest(program=program, connection=outer))

    def lease(self, session: str, seconds: float) -> None:
        """Keep the kernel for so long from now, even with no client attached."""
        self._ask("POST", f"/kernels/{session}/lease", LeaseRequest(seconds=seconds))

    def close(self, session: str) -> None:
        """Stop the session."""
        self._ask("DELETE", f"/kernels/{session}", seconds=WORK_SECONDS)

    def _ask(self, method: str, path: str, wish: Word | None = None, seconds: float = AT_ONCE_SECONDS) -> Any:
        try:
            said = wish.model_dump(mode="json") if wish else None
            answer = self._http.request(method, path, json=said, timeout=seconds)
            body = answer.json()
        except (httpx.HTTPError, ValueError) as silent:
            raise Unreachable(f"The front does not answer: {silent or type(silent).__name__}.") from silent
        if answer.status_code >= 400:
            raise from_wire(body) if "code" in body else SojournError(f"The front refused {path}: {body}")
        return body


def _find(controller: Controller) -> FrontClient | None:
    try:
        card = Card.model_validate_json((front_folder() / "front.json").read_bytes())
        front = FrontClient(card, controller)
        front.kernels()
    except (OSError, ValidationError, SojournError):
        return None
    return front


def _start() -> subprocess.Popen[bytes]:
    folder = front_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
    with (folder / "front.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "sojourn.front"],
            env=environment,
            cwd="/" if os.name == "posix" else None,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **detached(),
        )


def detached() -> dict[str, Any]:
    """The arguments of Popen that make a process outlive its starter's terminal."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS}
    return {"start_new_session": True}

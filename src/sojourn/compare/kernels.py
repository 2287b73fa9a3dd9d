"""Kernels of the notebook's own kernelspec: as plain processes here, or as sessions, with our code carried in."""

from __future__ import annotations

import ast
import json
import logging
import queue
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.manager import KernelManager

from sojourn.compare.notebook import Notebook
from sojourn.errors import Invalid, SojournError, Unreachable
from sojourn.jupyter.kernel_session import kernel_command

OURS, PLAIN = "sojourn-provisioner", "local-provisioner"
READY_SECONDS = 60.0
LOOK_SECONDS = 0.5
"""How often to look whether a kernel that does not answer has died."""
_PACKAGES = ("sojourn", "sojourn.compare")
"""Empty in the kernel, where it has not imported Sojourn itself: they only hold what is carried."""
_STAGE = "sojourn.compare.inside.stage"


class KernelDied(SojournError):
    """It ended by itself: killed for its memory, or by a defect in compiled code."""


def spec_of(notebook: Notebook) -> KernelSpec:
    """The notebook's kernelspec. Raises Invalid: it is not installed here, or of another language."""
    manager = KernelSpecManager()
    try:
        spec = manager.get_kernel_spec(notebook.kernel)
    except NoSuchKernel as missing:
        known = ", ".join(sorted(manager.find_kernel_specs()))
        raise Invalid(
            f"{notebook.path.name} is for the kernel {notebook.kernel!r}, which is not installed here.",
            f"Those that are: {known}. The notebook's metadata say which one it is for.",
        ) from missing
    if spec.language.lower() != "python":
        raise Invalid(f"The kernel {notebook.kernel!r} speaks {spec.language}.", "The ways but CRIU know Python only.")
    return spec


class Kernel:
    """One that runs. Made by `kernel()`."""

    def __init__(self, manager: Any, client: Any) -> None:
        self._manager, self._client = manager, client

    @property
    def session(self) -> str:
        """The id of the session, if it is one."""
        session: str = self._manager.provisioner.session
        return session

    def run(self, notebook: Notebook, ran: Callable[[int], object] = int) -> None:
        """Run its cells; `ran` is told how many have run. Raises Invalid, naming the cell that failed."""
        for count, cell in enumerate(notebook.cells, 1):
            try:
                content = self._execute(cell.source)
            except KernelDied as died:
                raise Invalid(f"The kernel died in cell {cell.number} of {notebook.path.name}.", died.hint) from died
            if content["status"] != "ok" and not cell.may_fail:
                what = ": ".join(filter(None, [content.get("ename"), content.get("evalue")])) or "it was interrupted"
                raise Invalid(
                    f"Cell {cell.number} of {notebook.path.name} failed: {what}",
                    "Only a notebook that runs from top to bottom has a state to compare. "
                    "A cell that is to fail has the tag raises-exception.",
                )
            ran(count)

    def ask(self, act: str, **arguments: Any) -> dict[str, Any]:
        """An answer of `inside.stage`, which may be {"error": …}. Raises KernelDied."""
        question = json.dumps({"act": act, **arguments})
        stage = f"__import__('sys').modules[{_STAGE!r}]"
        # As a cell: what a way does to the kernel (Kishu holds requests back until the cell is over) needs its hooks.
        content = self._execute(f"{stage}.hear({question!r})", silent=True, user_expressions={"said": f"{stage}.said"})
        said = content.get("user_expressions", {}).get("said", content)
        if content["status"] != "ok" or said["status"] != "ok":
            return {"error": f"{said.get('ename')}: {said.get('evalue')}"}
        found: dict[str, Any] = json.loads(ast.literal_eval(said["data"]["text/plain"]))
        return found

    def take_in(self) -> None:
        """Our modules, which leave no name behind. Raises Unreachable."""
        content = self._execute(f"exec({_program()!r}, {{}})", silent=True)
        if content["status"] != "ok":
            what = f"{content.get('ename')}: {content.get('evalue')}"
            raise Unreachable(f"What compares could not be carried into the kernel: {what}", "It takes Python 3.10.")

    def _execute(self, code: str, silent: bool = False, user_expressions: Any = None) -> dict[str, Any]:
        """The content of the reply, whenever it comes."""
        asked = self._client.execute(
            code, silent=silent, store_history=not silent, user_expressions=user_expressions, allow_stdin=False
        )
        while True:
            try:
                reply = self._client.get_shell_msg(timeout=LOOK_SECONDS)
            except queue.Empty:
                if not self._manager.is_alive():
                    raise KernelDied("the kernel died", "Was there too little memory?") from None
                continue
            finally:
                self._hear()
            if reply["parent_header"].get("msg_id") == asked:
                content: dict[str, Any] = reply["content"]
                return content

    def _hear(self) -> None:
        """Take what the cells have said off the line; nobody looks at it."""
        with suppress(queue.Empty):
            while True:
                self._client.get_iopub_msg(timeout=0)


@contextmanager
def kernel(spec: KernelSpec, folder: Path, session_on: str | None = None) -> Iterator[Kernel]:
    """A kernel that works in `folder`, ready, with our code in it: a plain process here, or a session on that node.
    Raises Unreachable when it does not start, and what sessions are refused with."""
    manager = KernelManager()
    manager._kernel_spec = _own(spec, session_on)
    with _quiet():
        manager.start_kernel(cwd=str(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = manager.client()
        client.start_channels()
        try:
            try:
                client.wait_for_ready(timeout=READY_SECONDS)
            except RuntimeError as silent:
                raise Unreachable(f"The kernel {spec.display_name!r} does not start: {silent}") from silent
            made = Kernel(manager, client)
            made.take_in()
            yield made
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def _own(spec: KernelSpec, session_on: str | None) -> KernelSpec:
    """The kernelspec under the provisioner that is wanted, whatever its own is."""
    provisioner = spec.metadata.get("kernel_provisioner", {})
    config = provisioner.get("config", {}) if provisioner.get("provisioner_name") == OURS else {}
    own = {"provisioner_name": PLAIN, "config": {}}
    if session_on is not None:
        own = {"provisioner_name": OURS, "config": {**config, "needs": session_on}}
    return KernelSpec(
        argv=list(kernel_command(spec.argv)),
        env=spec.env,
        display_name=spec.display_name,
        language=spec.language,
        metadata={**spec.metadata, "kernel_provisioner": own},
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what jupyter_client says of kernels that end: here that is an outcome, which is told as one."""
    log = logging.getLogger("traitlets")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _program() -> str:
    package = files("sojourn")
    sources = dict.fromkeys(_PACKAGES, ("", True))
    sources["sojourn.errors"] = (package.joinpath("errors.py").read_text("utf-8"), False)
    for name, folder in (("sojourn.objects", "objects"), ("sojourn.compare.inside", "compare/inside")):
        sources |= _modules(name, package.joinpath(folder))
    finder = package.joinpath("compare/inside/carried.py").read_text("utf-8")
    return f"{finder}\ncarry({sources!r})\nimport {_STAGE}\n"


def _modules(name: str, folder: Traversable) -> dict[str, tuple[str, bool]]:
    found = {}
    for file in folder.iterdir():
        stem, dot, ending = file.name.rpartition(".")
        if dot and ending == "py":
            is_package = stem == "__init__"
            found[name if is_package else f"{name}.{stem}"] = (file.read_text("utf-8"), is_package)
    return found

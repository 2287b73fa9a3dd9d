"""The kernel "Python 3 (Sojourn)", as Jupyter finds it."""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager

from sojourn.front.client import ensure, front_folder
from sojourn.model.sessions import Cpu
from sojourn.settings import Controller, write_private

NAME = "sojourn"


def kernel_json(launcher: str, cpu: Cpu = "node") -> dict[str, Any]:
    """The kernelspec. Clients that know provisioners use ours; the others (VS Code) start the launcher, in whose
    environment the settings have to stand."""
    config = {} if cpu == "node" else {"cpu": cpu}
    return {
        **({"env": {"SOJOURN_CPU": cpu}} if config else {}),
        "argv": [launcher, "-f", "{connection_file}"],
        "display_name": f"Python {sys.version_info.major} (Sojourn)",
        "language": "python",
        "metadata": {
            "debugger": True,
            "supported_encryption": ["curve"],
            "kernel_provisioner": {"provisioner_name": "sojourn-provisioner", "config": config},
        },
    }


def install(*, user: bool = True, prefix: str | None = None, cpu: Cpu = "node") -> Path:
    """Install the kernelspec for the user, below `prefix` (an environment), or else in this environment.

    An older one is replaced. `cpu`: which CPU its kernels may use. Returns its folder.
    """
    launcher = Path(sys.executable).with_name("sojourn-kernel" + (".exe" if sys.platform == "win32" else ""))
    with tempfile.TemporaryDirectory() as draft:
        (Path(draft) / "kernel.json").write_text(json.dumps(kernel_json(str(launcher), cpu), indent=1) + "\n")
        for logo in files("ipykernel").joinpath("resources").iterdir():
            if logo.name.startswith("logo-"):
                (Path(draft) / logo.name).write_bytes(logo.read_bytes())
        Path(draft).chmod(0o755)
        where = {"user": True} if user and prefix is None else {"prefix": prefix or sys.prefix}
        return Path(KernelSpecManager().install_kernel_spec(draft, NAME, **where))


def installed() -> bool:
    """Whether Jupyter finds the kernelspec, wherever it lies."""
    return NAME in KernelSpecManager().find_kernel_specs()


def connections_folder() -> Path:
    """For Jupyter Server's `external_connection_dir`: the front writes a connection file there for each kernel."""
    return front_folder() / "connections"


def offer_left_kernels(controller: Controller) -> None:
    """Let a Jupyter Server that starts now list the kernels that live already, those an earlier one left behind too.

    It takes notice of connection files that name a kernelspec. The provisioner's do not, else a server would list each
    of its own kernels twice.
    """
    front = ensure(controller)
    for kernel in front.kernels():
        if kernel.running:
            path = connections_folder() / f"kernel-{kernel.session}.json"
            write_private(path, {"kernel_name": NAME} | kernel.connection)
        else:
            front.close(kernel.session)

"""The kernel "Python 3 (Sojourn)", as Jupyter finds it."""

from __future__ import annotations

import json
import re
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


def kernel_json(launcher: str, cpu: Cpu = "node", image: str = "", title: str = "Sojourn") -> dict[str, Any]:
    """The kernelspec. Clients that know provisioners use ours; the others (VS Code) start the launcher, in whose
    environment the settings have to stand."""
    config = {**({} if cpu == "node" else {"cpu": cpu}), **({"image": image} if image else {})}
    return {
        **({"env": {f"SOJOURN_{name.upper()}": value for name, value in config.items()}} if config else {}),
        "argv": [launcher, "-f", "{connection_file}"],
        "display_name": f"Python {sys.version_info.major} ({title})",
        "language": "python",
        "metadata": {
            "debugger": True,
            "supported_encryption": ["curve"],
            "kernel_provisioner": {"provisioner_name": "sojourn-provisioner", "config": config},
        },
    }


def install(
    *, user: bool = True, prefix: str | None = None, cpu: Cpu = "node", image: str = "", name: str = ""
) -> Path:
    """Install the kernelspec for the user, below `prefix` (an environment), or else in this environment.

    An older one of that name is replaced. `cpu`: which CPU its kernels may use. `image`: what they start from; such a
    kernelspec stands beside the other. `name`: what Jupyter calls it. Returns its folder.
    """
    launcher = Path(sys.executable).with_name("sojourn-kernel" + (".exe" if sys.platform == "win32" else ""))
    stem = stem_of(image)
    title = f"Sojourn, {stem}" if stem else "Sojourn"
    with tempfile.TemporaryDirectory() as draft:
        body = kernel_json(str(launcher), cpu, image, title)
        (Path(draft) / "kernel.json").write_text(json.dumps(body, indent=1) + "\n")
        for logo in files("ipykernel").joinpath("resources").iterdir():
            if logo.name.startswith("logo-"):
                (Path(draft) / logo.name).write_bytes(logo.read_bytes())
        Path(draft).chmod(0o755)
        where = {"user": True} if user and prefix is None else {"prefix": prefix or sys.prefix}
        called = name or (f"{NAME}-{stem}" if stem else NAME)
        return Path(KernelSpecManager().install_kernel_spec(draft, called, **where))


def stem_of(image: str) -> str:
    """What people call an image: its name without the registry, and without the version if that is the latest."""
    name = image.rstrip("/").rpartition("/")[2].removesuffix(":latest")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")


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

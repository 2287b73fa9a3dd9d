"""Where things live, and what the user has set.

Settings come from, in this order: an argument, an environment variable (`SOJOURN_CONTROLLER`, `SOJOURN_TOKEN`,
`SOJOURN_STORE`, `SOJOURN_CPU`, `SOJOURN_IMAGE`, `SOJOURN_HOME`), the file `config.toml` in the configuration folder.
`SOJOURN_HOME` puts everything of this user below one folder, which is also how tests keep apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from sojourn.errors import Invalid

if TYPE_CHECKING:
    from sojourn.model.sessions import Cpu


def home() -> Path | None:
    """The one folder that holds everything, if the user asked for that."""
    value = os.environ.get("SOJOURN_HOME")
    return Path(value).expanduser().resolve() if value else None


def config_folder() -> Path:
    return (home() or Path(platformdirs.user_config_dir("sojourn"))) / ("config" if home() else "")


def data_folder() -> Path:
    """State that must survive a reboot: the controller's database, tokens, what the front hosts."""
    return (home() or Path(platformdirs.user_data_dir("sojourn"))) / ("data" if home() else "")


def nodes_folder() -> Path:
    """Where agents on this machine keep their sandboxes. A root agent's must not lie in anybody's home folder."""
    if home() is None and hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/sojourn/nodes")
    return data_folder() / "nodes"


def file_settings() -> dict[str, Any]:
    path = config_folder() / "config.toml"
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as wrong:
        raise Invalid(f"{path} is not valid TOML: {wrong}", "Mend or remove the file.") from wrong


@dataclass(frozen=True)
class Controller:
    """How to reach a controller."""

    url: str
    token: str


def configured_controller() -> Controller | None:
    """The controller the user has chosen; None means: the embedded one."""
    settings = file_settings().get("controller", {})
    url = os.environ.get("SOJOURN_CONTROLLER") or settings.get("url")
    if not url:
        return None
    token = os.environ.get("SOJOURN_TOKEN") or settings.get("token") or ""
    return Controller(url.rstrip("/"), token)


def store_url() -> str:
    """Where checkpoints are kept, as this machine's controller is told: `file:///folder`, `s3://bucket/prefix?…`."""
    chosen = os.environ.get("SOJOURN_STORE") or file_settings().get("store", {}).get("url")
    return str(chosen) if chosen else (data_folder() / "store").as_uri()


def kernels_cpu() -> Cpu:
    """Which CPU kernels may use whose settings don't say. Raises Invalid."""
    chosen = os.environ.get("SOJOURN_CPU") or file_settings().get("kernels", {}).get("cpu") or "node"
    if chosen == "fleet":
        return "fleet"
    if chosen == "node":
        return "node"
    raise Invalid(f"Kernels can't use the CPU {chosen!r}.", "SOJOURN_CPU, or `cpu` in [kernels], is node or fleet.")


def kernels_image() -> str | None:
    """The image for kernels whose settings name none; None: their node's own root."""
    chosen = os.environ.get("SOJOURN_IMAGE") or file_settings().get("kernels", {}).get("image")
    return str(chosen) if chosen else None


def kernels_mounts() -> tuple[dict[str, Any], ...]:
    """What is said of folders for kernels whose settings say nothing of any, as a kernel's `mounts`. Raises Invalid."""
    said = file_settings().get("kernels", {}).get("mounts", [])
    if isinstance(said, list) and all(isinstance(one, dict) for one in said):
        return tuple(said)
    raise Invalid(
        "`mounts` in [kernels] is no list of folders.", 'Write [[kernels.mounts]], path = "{cwd}", mode = "left".'
    )


LOG_BYTES = 16 << 20


def cap_log(path: Path) -> None:
    """A log that has grown long becomes NAME.1 and begins anew. Whoever writes it may go on, if it appends."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES:
            shutil.copyfile(path, path.with_name(f"{path.name}.1"))
            os.truncate(path, 0)


def write_private(path: Path, body: dict[str, Any]) -> None:
    """Replace a JSON file in one step, readable by this user alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(body, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)

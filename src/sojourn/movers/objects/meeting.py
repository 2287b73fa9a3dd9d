"""The folders of a session that moves by objects: the very same ones at the target, or brought there, or told of.

    source                              target
    folders: what is seen of them  →
                                   ←    met: whether files of the working folder are to be brought, notes; or refused

A sandbox with a root of its own may share only the source's own folders. A plain process sees its node as it is: of
folders that are other ones there it is told, and a working folder that its node lacks is made, and filled.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sojourn.errors import MoveFailed
from sojourn.model import Sight
from sojourn.movers.parcels import Parcels
from sojourn.sandbox import canary
from sojourn.sandbox.base import Sandbox
from sojourn.sandbox.folders import is_inside


@dataclass(frozen=True)
class Meeting:
    files: bool
    """The working folder's are to be brought."""
    notes: tuple[str, ...] = ()


def working_folder(sandbox: Sandbox) -> str:
    return sandbox.plan.spec.program.cwd


def offer(parcels: Parcels, sandbox: Sandbox, move: str) -> Meeting:
    """The source's side. Raises what the target refuses."""
    folders, user = _shared(sandbox), _user(sandbox)
    with canary.canaries(folders, move, user) as seen:
        parcels.send(folders={path: sight.model_dump(mode="json") for path, sight in seen.items()})
        met = parcels.answer("met")
    return Meeting(bool(met["files"]), tuple(met["notes"]))


def accept(parcels: Parcels, sandbox: Sandbox, move: str, made: bool) -> Meeting:
    """The target's side; `made`: the working folder was, for this session. Raises Incompatible."""
    said: Any = parcels.expect("folders")
    known = {path: Sight.model_validate(sight) for path, sight in said.items()}
    seen = canary.look(known, _user(sandbox), move)
    if _is_apart(sandbox):
        with parcels.refusing():
            canary.require_same(known, "the source", seen, f"node {sandbox.plan.node}")
    cwd, node = working_folder(sandbox), sandbox.plan.node
    others = [path for path, sight in known.items() if not canary.is_same(sight, seen[path]) and path != cwd]
    notes = [f"{path} is another folder on {node}" for path in others]
    brought = made and cwd in known
    if cwd in known and not made and not canary.is_same(known[cwd], seen[cwd]):
        notes.append(f"{cwd} is another folder on {node}, and its files were left as they are")
    parcels.send(met={"files": brought, "notes": notes})
    return Meeting(brought, tuple(notes))


def make_working_folder(sandbox: Sandbox) -> bool:
    """Where a plain process has none on its node; whether it was made. Raises MoveFailed."""
    folder = Path(working_folder(sandbox))
    if _is_apart(sandbox) or folder.is_dir():
        return False
    try:
        folder.mkdir(parents=True)
    except OSError as refused:
        raise MoveFailed(
            f"The session works in {folder}, which can't be made on node {sandbox.plan.node}: {refused.strerror}.",
            "Make that folder there, for the user of its agent.",
        ) from refused
    return True


def _is_apart(sandbox: Sandbox) -> bool:
    """From its node: with a root of its own."""
    return sandbox.plan.kind == "runc"


def _shared(sandbox: Sandbox) -> list[str]:
    """What its target has to have, too; of a plain process whatever it was started with."""
    shared = [mount.path for mount in sandbox.plan.spec.mounts if mount.mode == "shared"]
    cwd = working_folder(sandbox)
    if not _is_apart(sandbox):
        return list(dict.fromkeys((cwd, *shared)))
    seen = any(is_inside(cwd, path) or cwd == path for path in shared)
    return list(dict.fromkeys((*([cwd] if seen else []), *shared)))


def _user(sandbox: Sandbox) -> canary.User:
    if _is_apart(sandbox):
        return canary.User(sandbox.plan.spec.program.uid, sandbox.plan.spec.program.gid)
    return canary.User(*((os.getuid(), os.getgid()) if hasattr(os, "getuid") else (0, 0)))

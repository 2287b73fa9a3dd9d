"""What a session stands on: the root file system below its writable layer, wherever it goes.

At home, where it was born, that is the node's own root. Elsewhere it is made of layers (`sojourn.environment`) with the
files of home's root that the session may need, at the same paths: of the other node's own root it sees nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sojourn.environment.contents import Contents
from sojourn.environment.depot import Depot
from sojourn.environment.parts import Part, parts_of
from sojourn.errors import Incompatible
from sojourn.model import EnvironmentLayer, Ground, SessionSpec
from sojourn.movers.inspection import in_use
from sojourn.sandbox.base import Sandbox, own_python
from sojourn.sandbox.folders import OWN, enclosing, is_inside
from sojourn.sandbox.runc import RuncSandbox

_MOST_NAMED = 4


def environment_of(sandbox: RuncSandbox) -> list[Contents]:
    """What another node needs in the place of this session's root, the topmost first. The first time on a node every
    file is read; afterwards only those that have changed are."""
    depot = depot_of(sandbox)
    if sandbox.layers:
        return [depot.contents(layer["id"]) for layer in sandbox.layers]
    return [depot.own(part) for part in parts(sandbox)]


def parts(sandbox: RuncSandbox) -> tuple[Part, ...]:
    """Of the node's own root: the environments of the session's program and of its rider, and the system. What lies in
    a folder that is the session's affair goes, or stays, with that folder."""
    return _parts(sandbox.plan.spec, [sandbox.facts["python"]])


def _parts(spec: SessionSpec, others: Sequence[str]) -> tuple[Part, ...]:
    def elsewhere(path: str) -> bool:
        around = enclosing(f"{path}/.", spec.mounts)
        return around is not None and around.mode != "left"

    program = spec.program
    return parts_of(program.argv[0], others, elsewhere=elsewhere, search=program.env.get("PATH"))


def taken_along(spec: SessionSpec) -> tuple[str, ...]:
    """Called by the agent before a session is born: the folders that its program runs from, and that lie in one which
    is left behind."""
    if spec.image is not None or all(mount.mode != "left" for mount in spec.mounts):
        return ()
    if spec.ground:
        prefixes = [part for part in _layered(spec.ground) if part.name in part.paths]
        return tuple(sorted(part.name for part in prefixes if enclosing(part.name, spec.mounts)))
    try:
        parts = _parts(spec, [own_python()])
    except Incompatible:  # there is no such program: its start will say so
        return ()
    inner = [Path(path) for part in parts for path in part.paths if enclosing(path, spec.mounts)]
    return tuple(sorted(str(path) for path in inner if path.is_dir() and not path.is_symlink()))


def _layered(ground: Ground) -> list[Part]:
    return [Part.model_validate(layer["part"]) for layer in ground.layers]


def offered(spec: SessionSpec, depot: Depot) -> list[Contents]:
    """Called by the agent: what a session needs of this node's root that is to start on another node."""
    return [depot.own(part) for part in _parts(spec, [own_python()])]


def begin_on(sandbox: Sandbox, ground: Ground) -> None:
    """Called by the agent before it creates a sandbox that is to stand on another node's root. Raises Incompatible when
    a layer of it is not here."""
    assert isinstance(sandbox, RuncSandbox), "plain processes have no root of their own"
    sandbox.facts["root"] = ground.root
    stand_on(sandbox, ground.layers)


def require_complete(sandbox: RuncSandbox, environment: Sequence[Contents]) -> None:
    """Whether all that the session uses at this moment is in its environment, or its own. Raises Incompatible, naming
    the files."""
    missing = sorted(path for path in in_use(sandbox.pids()) if not _travels(path, sandbox, environment))
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        raise Incompatible(
            f"The other node has another root, and session {sandbox.plan.session[:12]} uses what is no part of its "
            f"environment ({', '.join(one.part.name for one in environment)}): "
            f"{', '.join(missing[:_MOST_NAMED])}{more}.",
            "Let it go of these files, or start it with their folders carried (`mounts`), or from an image.",
        )


def _travels(path: str, sandbox: RuncSandbox, environment: Iterable[Contents]) -> bool:
    if path.startswith(OWN) or any(is_inside(path, mount.path) for mount in sandbox.plan.spec.mounts):
        return True
    return os.path.lexists(sandbox.files.upper / path.lstrip("/")) or any(one.entry(path) for one in environment)


def needed_elsewhere(sandbox: Sandbox) -> tuple[EnvironmentLayer, ...]:
    """Called by the agent for a move that is planned. Raises Incompatible where the session uses more than that."""
    assert isinstance(sandbox, RuncSandbox), "plain processes do not move"
    found = environment_of(sandbox)
    require_complete(sandbox, found)
    return tuple(EnvironmentLayer(id=one.id, part=one.part.name, size_bytes=one.size_bytes) for one in found)


def settle(sandbox: RuncSandbox, origin: Mapping[str, Any]) -> bool:
    """At the target, once the sandbox has inherited `origin`: have the session stand on what is here. False when its
    environment, or a part of it, has to come first."""
    layers: list[dict[str, Any]] = list(origin.get("layers", []))
    if sandbox.plan.spec.image is not None:
        return True
    if sandbox.root == sandbox.plan.root and _is_unchanged(sandbox, layers):
        return True
    if layers and all(depot_of(sandbox).here(layer["id"]) for layer in layers):
        stand_on(sandbox, layers)
        return True
    return False


def _is_unchanged(sandbox: RuncSandbox, layers: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the node's own root is still what these layers were made of."""
    own = (depot_of(sandbox).own(Part.model_validate(layer["part"])).id == layer["id"] for layer in layers)
    return all(own)


def stand_on(sandbox: RuncSandbox, layers: Sequence[Mapping[str, Any]]) -> None:
    """Raises Incompatible when one of the layers is not here."""
    depot, lower = depot_of(sandbox), []
    for layer in layers:
        folder = depot.here(layer["id"])
        if folder is None:
            raise Incompatible(
                f"Node {sandbox.plan.node} lacks the environment {layer['part']['name']} ({layer['id'][:8]}).",
                "Choose the node where the session was saved, or the one where it was born.",
            )
        depot.note_use(layer["id"])
        lower.append(str(folder))
    sandbox.stand_on(layers, lower)


def named(environment: Iterable[Contents]) -> list[dict[str, Any]]:
    """As a sandbox's facts keep it."""
    return [{"id": one.id, "part": one.part.model_dump(mode="json")} for one in environment]


def depot_of(sandbox: RuncSandbox) -> Depot:
    if sandbox.plan.depot is None:
        raise Incompatible(f"Node {sandbox.plan.node} keeps no environments of other nodes.", "Restart its agent.")
    return Depot(Path(sandbox.plan.depot), sandbox.hidden)

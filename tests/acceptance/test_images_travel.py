"""Sessions from an image that podman has: built here, brought to a node, moved, woken; the image goes along.

Each node is a machine of its own as far as podman goes: it sees another folder where podman keeps its images.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from tests.acceptance.conftest import why_no_live_move
from tests.acceptance.image_root import pack

from sojourn.cli.images import bring
from sojourn.client import Client
from sojourn.errors import DoesNotFit, Refused
from sojourn.sandbox import images
from sojourn.sandbox.mounts import remove_tree
from sojourn.testing import end_kernel, execute, session_of, start_kernel
from sojourn.testing.parts import Parts, _machine, serving, until

pytestmark = pytest.mark.acceptance

BASE, MINE = "localhost/sojourn-test-base:latest", "localhost/sojourn-test:latest"
RECIPE = f"""
FROM {BASE}
ENV FROM_RECIPE=yes
RUN touch /made-by-the-recipe
"""


def keep_apart(machine: int, folder: Path) -> None:
    """From here on a node's podman keeps its images in this folder."""
    for place in ("/var/lib/containers", "/run/containers"):
        own = folder / place[1:]
        own.mkdir(parents=True)
        Path(place).mkdir(parents=True, exist_ok=True)
        subprocess.run(["nsenter", "--target", str(machine), "--mount", "mount", "--bind", own, place], check=True)


def unmount_below(folder: Path) -> None:
    """podman leaves its own folder bound to itself."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        if line.split()[1].startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", line.split()[1]], check=True)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A machine with podman and an image that was built there; no node."""
    if reason := why_no_live_move() or images.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("laptop")
    settings = folder / "storage.conf"
    settings.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/images"\nrunroot = "{folder}/run"\n')
    try:
        with patch.dict(os.environ, CONTAINERS_STORAGE_CONF=str(settings)):
            build_mine(folder)
            yield settings
    finally:
        unmount_below(folder)
        remove_tree(folder)


def build_mine(folder: Path) -> None:
    importing = subprocess.Popen(["podman", "import", "--quiet", "-", BASE], stdin=subprocess.PIPE)
    assert importing.stdin
    with importing.stdin as stream:
        pack(stream)
    assert importing.wait() == 0
    recipe = folder / "Containerfile"
    recipe.write_text(RECIPE)
    built = images.build(folder / "run", recipe, MINE, {}, ("--network", "none"), lambda _: None)
    assert images.lacking(built.id) == []


@pytest.fixture
def nodes(laptop: Path, tmp_path: Path) -> Iterator[Client]:
    """`here` and `there`, each with no image."""
    machines = {}
    for name in ("here", "there"):
        machines[name] = _machine()
        keep_apart(machines[name].pid, tmp_path / name)
    with patch.dict(os.environ):
        del os.environ["CONTAINERS_STORAGE_CONF"]
        folder = tmp_path / "parts"
        folder.mkdir()
        with serving(Parts(folder, machines, {})) as made, Client(made.controller.url, made.controller.token) as client:
            try:
                yield client
            finally:
                for session in client.sessions():
                    client.stop(session.id)
                until(lambda: not client.sessions(), "the end of the sessions")
    for name in machines:
        remove_tree(tmp_path / name)


def test_an_image_that_was_built_on_a_laptop_goes_wherever_its_session_goes(laptop: Path, nodes: Client) -> None:
    with pytest.raises(DoesNotFit, match=f"it has no image {MINE}"):
        start_kernel(image=MINE, shared=["{cwd}"])
    with patch.dict(os.environ, CONTAINERS_STORAGE_CONF=str(laptop)):
        (came,) = bring(nodes, MINE, ["here"], show=False)
    assert (came.error, came.way) == (None, "")

    manager, kernel = start_kernel(image=MINE, shared=["{cwd}"])
    session = session_of(manager)
    assert execute(kernel, "import os; x = 41; print(os.environ['FROM_RECIPE'])") == "yes"
    assert "/made-by-the-recipe" in execute(kernel, "!ls -d /made* /usr")
    plan = nodes.move(session, "there", dry_run=True).plan
    assert (plan.image, plan.image_bytes > 10**7) == (MINE, True)
    report = nodes.move(session, "there", wait="filled").move.report
    assert [one.what for one in report.shipments] == ["image"]
    assert "42 True" in execute(kernel, "print(x + 1, os.path.exists('/made-by-the-recipe'))")

    (view,) = [one for one in nodes.images() if MINE in one.image.names]
    assert (view.nodes, len(view.sessions)) == (("here", "there"), 1)
    kept = nodes.remove_image(MINE).nodes
    assert (kept["here"], kept["there"]["code"]) == (None, "busy")

    nodes.suspend(session)
    with pytest.raises(Refused, match="sleeps, and needs image"):
        nodes.remove_image(MINE)
    assert nodes.resume(session, "here", wait="filled").node == "here"
    assert "43 True" in execute(kernel, "print(x + 2, os.path.exists('/made-by-the-recipe'))")
    end_kernel(manager, kernel)

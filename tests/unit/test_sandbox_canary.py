"""The very same folder, or only one of that name."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from sojourn.errors import Incompatible
from sojourn.model import Sight
from sojourn.sandbox.canary import PREFIX, STALE_SECONDS, User, canaries, forget, is_same, look, named, require_same

ME = User(os.getuid(), os.getgid()) if sys.platform != "win32" else User(0, 0)
NOBODY = User(65534, 65534)
as_root = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root, to act as somebody else")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    (made / "table").write_text("1 2 3")
    return made


@pytest.fixture
def readable(tmp_path: Path) -> Path:
    """A way that anybody may go; pytest's own folders are private."""
    for part in (tmp_path, *list(tmp_path.parents)[:2]):
        part.chmod(0o755)
    return tmp_path


def test_a_canary_is_seen_in_the_same_folder_alone_and_then_gone(folder: Path, tmp_path: Path) -> None:
    namesake = shutil.copytree(folder, tmp_path / "namesake")
    with canaries([str(folder)], "move1", ME) as seen:
        known = seen[str(folder)]
        assert is_same(known, look([str(folder)], ME, "move1")[str(folder)])
        assert not is_same(known, look([str(namesake)], ME, "move1")[str(namesake)])
        shutil.copytree(folder, tmp_path / "another move's")
        assert not is_same(known, look([str(folder)], ME, "move2")[str(folder)])
    assert [path.name for path in folder.iterdir()] == ["table"]


def test_another_folder_is_refused_by_name_and_with_a_cure() -> None:
    known = {"/data": Sight(of="m", canary="yellow")}
    require_same(known, "node here", {"/data": Sight(of="m", canary="yellow")}, "node there")
    for seen in ({"/data": Sight(of="m", canary="grey")}, {"/data": Sight()}, {}):
        with pytest.raises(Incompatible, match="/data of node there is another folder than /data of node here") as no:
            require_same(known, "node here", seen, "node there")
        assert "carry it" in no.value.hint


def test_canaries_of_an_agent_that_was_killed_are_swept(folder: Path) -> None:
    for move, age in (("dead", STALE_SECONDS + 60), ("alive", 0)):
        canary = folder / f"{PREFIX}{move}"
        canary.touch()
        os.utime(canary, (time.time() - age,) * 2)
    forget([str(folder)], "mine", ME)
    assert {path.name for path in folder.iterdir()} == {"table", f"{PREFIX}alive"}


def test_for_a_wake_a_folder_has_an_id_of_its_own_which_a_copy_has_not(folder: Path, tmp_path: Path) -> None:
    path = str(folder)
    known = named([path], ME)[path]
    assert known.id
    assert named([path], ME)[path].id == known.id, "it stays"
    assert (folder / ".sojourn/.gitignore").read_text() == "*\n"
    (folder / "table").unlink()
    assert is_same(known, look([path], ME)[path])
    copy = str(shutil.copytree(folder, tmp_path / "copy"))
    assert not is_same(known, look([copy], ME)[copy])
    with pytest.raises(Incompatible) as refused:
        require_same({copy: known}, "node here", look([copy], ME), "node there")
    (Path(copy) / ".sojourn/stands-for").write_text(f"{known.id}\n")
    assert f"echo {known.id} >>{copy}/.sojourn/stands-for" in refused.value.hint
    assert is_same(known, look([copy], ME)[copy]), "its owner says so"
    assert named([copy], ME)[copy].id not in (None, known.id), "a copy that is saved from gets an id of its own"


def test_on_one_node_a_folder_that_lost_its_id_is_still_itself(folder: Path) -> None:
    path = str(folder)
    known = named([path], ME)
    shutil.rmtree(folder / ".sojourn")
    require_same(known, "node here", look([path], ME), "node here")
    with pytest.raises(Incompatible):
        require_same(known, "node here", look([path], ME), "node there")


@as_root
def test_where_the_user_may_not_write_nothing_is_written_and_inodes_tell(readable: Path) -> None:
    folder, copy = readable / "data", readable / "copy"
    folder.mkdir()
    (folder / "table").write_text("1 2 3")
    shutil.copytree(folder, copy)
    with canaries([str(folder)], "move", NOBODY) as seen:
        known = seen[str(folder)]
        assert [path.name for path in folder.iterdir()] == ["table"]
    assert known.canary is None
    assert named([str(folder)], NOBODY)[str(folder)].id is None
    (folder / "new").touch()
    assert is_same(known, look([str(folder)], NOBODY)[str(folder)])
    assert not is_same(known, look([str(copy)], NOBODY)[str(copy)])
    (folder / "table").unlink()
    assert not is_same(known, look([str(folder)], NOBODY)[str(folder)]), "nothing of what was known is left"


@as_root
def test_what_is_put_belongs_to_the_user(readable: Path) -> None:
    folder = readable / "home"
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY.uid, NOBODY.gid)
    with canaries([str(folder)], "move", NOBODY) as seen:
        assert (folder / f"{PREFIX}move").stat().st_uid == NOBODY.uid
        assert seen[str(folder)].canary
    assert os.geteuid() == 0


def test_traps_are_not_read(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (folder / f"{PREFIX}link").symlink_to(secret)
    os.mkfifo(folder / f"{PREFIX}pipe")
    for trap in ("link", "pipe"):
        assert look([str(folder)], ME, trap)[str(folder)].canary is None
    with pytest.raises(ValueError, match="pattern"):
        Sight(of="../../secret")

"""Which parts of a node's root a program runs from, found out by looking, without ever running its interpreter."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from sojourn.errors import Incompatible
from sojourn.model.base import Word

# Paths are text here: they are compared and put together far more often than looked at, and pathlib takes its time.
# ruff: noqa: PTH110, PTH112, PTH114, PTH115, PTH119, PTH120

SYSTEM = "system"
_TOP = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/etc")
_NEEDLESS = tuple(f"/usr/{path}" for path in ("share/doc", "share/info", "share/man", "src"))
_NEEDLESS += tuple(f"{lib}/{path}" for lib in ("/lib", "/usr/lib") for path in ("debug", "firmware", "modules"))
_THE_NODES_OWN = tuple(
    f"/etc/{name}" for name in ("machine-id", "hostname", "hosts", "resolv.conf", "mtab", "fstab", ".updated")
)
_BARE = tuple(f"/var/{name}" for name in ("cache", "lib", "local", "lock", "log", "mail", "opt", "run", "spool", "tmp"))
_FIRST_PERSON = 1000
"""Lower user numbers belong to services."""
_MOST_LINKS = 40


class Part(Word):
    """A part of a node's root, of which a layer is made."""

    name: str
    """"system", or the path of a prefix."""
    paths: tuple[str, ...]
    """Absolute, sorted, none inside another: files, links, and folders with all that is below them."""
    without: tuple[str, ...] = ()
    """What is left out below these."""
    everybody: bool = False
    """Only what everybody may read: secrets stay behind."""
    bare: tuple[str, ...] = ()
    """Folders that are taken without what is in them, and links: what programs expect to find, and is each node's."""

    def covers(self, path: str) -> bool:
        """Whether an absolute path, if it is there at all, belongs to it."""
        return is_below(path, self.paths) and not is_below(path, self.without)


def parts_of(
    argv0: str,
    others: Sequence[str] = (),
    *,
    system: bool = True,
    elsewhere: Callable[[str], bool] = lambda path: False,
    search: str | None = None,
) -> tuple[Part, ...]:
    """What is needed to run the program `argv0`; the system comes last.

    `others`: further programs, and folders, that it needs. `system=False`: the session's system is an image.
    `elsewhere(path)`: whether the session has a folder by other means, because it is shared or carried. `search`: the
    PATH by which a bare name is found; else paths are absolute. Raises Incompatible, naming the program, when one is
    not there, or lies in a system that is left out.
    """
    found = _Search(elsewhere)
    for path in (_found(argv0, search), *others):
        within_system = found.follow(path)
        if within_system and not system and path not in others:
            raise Incompatible(
                f"{argv0} is part of this node's own system, and the session's system is an image.",
                "Start the kernel with a Python of the image, or from a virtual environment with a Python of its own.",
            )
    return (*found.prefixes(), *([system_part()] if system else []))


def _found(program: str, search: str | None) -> str:
    return program if program.startswith("/") else shutil.which(program, path=search) or program


def system_part() -> Part:
    """The node's system: programs, libraries and settings, as far as everybody may read them."""
    paths = sorted(path for path in _TOP if os.path.lexists(path))
    without = (*_NEEDLESS, *_THE_NODES_OWN)
    return Part(name=SYSTEM, paths=tuple(paths), without=without, everybody=True, bare=tuple(_bare()))


def _bare() -> Iterator[str]:
    """The rest of a root, as far as it is the same on each machine of its kind: mount points, people's homes."""
    top = {f"/{entry.name}" for entry in os.scandir("/") if entry.is_dir()} - {*_TOP, "/lost+found"}
    import pwd  # Windows, where agents run plain processes, has none

    homes = {user.pw_dir for user in pwd.getpwall() if user.pw_uid == 0 or user.pw_uid >= _FIRST_PERSON}
    found = {*top, *_BARE, *(os.path.realpath(home) for home in homes)}
    yield from sorted(path for path in found if os.path.lexists(path) and not is_below(path, _TOP) and path != "/")


def is_below(path: str, folders: Iterable[str]) -> bool:
    """Whether a path is one of these, or lies in one."""
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


class _Search:
    """Follows programs to all that they are made of: the links on the way, the prefixes that these lie in, what those
    are built upon, and the folders that they name."""

    def __init__(self, elsewhere: Callable[[str], bool]) -> None:
        self._elsewhere = elsewhere
        self._folders: dict[str, tuple[str, ...]] = {}
        """Each with what is left out of it."""
        self._single: dict[str, str] = {}
        """Links and lone files, each with what it belongs to."""

    def follow(self, path: str) -> bool:
        """A program or a folder. Whether it lies, in the end, in the system."""
        links, real = _way(path)
        if real is None:
            raise Incompatible(f"{path} is not on this node.", "Name a Python that is there, with its whole path.")
        stops = [*links, real]
        if os.path.isdir(real):
            owner = self._add_folder(real)
        else:
            found = [self._add_prefix(prefix) for stop in stops if (prefix := _prefix_of(stop))]
            owner = found[-1] if found else real
        for stop in stops:
            if not (os.path.isdir(stop) and not os.path.islink(stop)):
                self._single[stop] = owner
        return is_below(real, _TOP)

    def prefixes(self) -> Iterator[Part]:
        """The outermost, in order."""
        folders = {path: left_out for path, left_out in self._folders.items() if self._counts(path)}
        folders = {path: out for path, out in folders.items() if not _is_inside(path, folders)}
        singles = {p: o for p, o in self._single.items() if self._counts(p) and not _is_inside(p, folders, or_is=True)}
        for name in sorted({*folders, *(_owner(owner, folders) for owner in singles.values())}):
            own = [path for path, owner in singles.items() if _owner(owner, folders) == name]
            paths = sorted({*own, *([name] if name in folders else [])})
            yield Part(name=name, paths=tuple(paths), without=folders.get(name, ()))

    def _counts(self, path: str) -> bool:
        return not is_below(path, _TOP) and not self._elsewhere(path)

    def _add_prefix(self, prefix: str) -> str:
        if prefix in self._folders or is_below(prefix, _TOP):
            return prefix
        self._folders[prefix] = _other_environments(prefix)
        if home := _home_of(prefix):
            base = next((path for name in ("python3", "python") if os.path.exists(path := f"{home}/{name}")), None)
            if base:
                self.follow(base)
        for folder in _named_by(prefix):
            if os.path.isdir(folder) and not _is_too_much(folder):
                self.follow(folder)
        return prefix

    def _add_folder(self, folder: str) -> str:
        if folder not in self._folders and not is_below(folder, _TOP):
            self._folders[folder] = ()
        return folder


def _way(path: str) -> tuple[list[str], str | None]:
    """The symbolic links by which a path is reached, and the real path; None: it leads nowhere."""
    links: list[str] = []
    place, rest = "", [part for part in reversed(path.split("/")) if part]
    while rest:
        part = rest.pop()
        if part in {".", ".."}:
            place = place if part == "." else os.path.dirname(place).rstrip("/")
            continue
        step = f"{place}/{part}"
        try:
            is_link = stat.S_ISLNK(os.lstat(step).st_mode)
        except OSError:
            return links, None
        if not is_link:
            place = step
            continue
        if len(links) == _MOST_LINKS:
            return links, None
        links.append(step)
        target = os.readlink(step)
        place = "" if target.startswith("/") else place
        rest += [piece for piece in reversed(target.split("/")) if piece]
    return links, place or "/"


def _prefix_of(program: str) -> str | None:
    """The environment that a program's path lies in."""
    folder = os.path.dirname(program)
    prefix = os.path.dirname(folder)
    if os.path.basename(folder) != "bin" or len(prefix) < 2:
        return None
    return os.path.realpath(prefix) if _is_environment(prefix) else None


def _is_environment(prefix: str) -> bool:
    marks = ("pyvenv.cfg", "conda-meta")
    if any(os.path.exists(f"{prefix}/{mark}") for mark in marks):
        return True
    if any(folder.joinpath("os.py").exists() for folder in _libraries(prefix)):
        return True
    return os.path.isdir(f"{prefix}/lib") and not os.path.basename(prefix).startswith(".") and not _is_too_much(prefix)


def _libraries(prefix: str) -> Iterator[Path]:
    for lib in ("lib", "lib64"):
        yield from Path(prefix, lib).glob("python3*")


def _other_environments(prefix: str) -> tuple[str, ...]:
    """conda's base has all the others in it, and the packages that they are made of."""
    if not os.path.isdir(f"{prefix}/conda-meta"):
        return ()
    return tuple(f"{prefix}/{name}" for name in ("envs", "pkgs") if os.path.isdir(f"{prefix}/{name}"))


def _home_of(prefix: str) -> str | None:
    """The folder of the interpreter that a venv is built upon, as its pyvenv.cfg says (PEP 405)."""
    settings = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        settings.read_string("[venv]\n" + Path(prefix, "pyvenv.cfg").read_text())
    except (OSError, ValueError, configparser.Error):
        return None
    home = settings["venv"].get("home", "")
    return home.rstrip("/") if home.startswith("/") else None


def _named_by(prefix: str) -> Iterator[str]:
    """Folders that an environment's *.pth files add to what is imported: those of editable installs."""
    for library in _libraries(prefix):
        packages = library / "site-packages"
        for file in sorted(packages.glob("*.pth")):
            for line in _lines(file):
                if not line.startswith(("import ", "import\t", "#")) and line.strip():
                    yield os.path.normpath(packages / line.strip())
        for finder in sorted(packages.glob("__editable__*_finder.py")):
            yield from _mapped_by(finder)


def _mapped_by(finder: Path) -> Iterator[str]:
    """Where setuptools' own finder of an editable install looks: its MAPPING, package -> folder or module's file."""
    for line in _lines(finder):
        if found := re.match(r"MAPPING\b[^=]*=\s*(\{.*\})\s*$", line):
            try:
                mapping = ast.literal_eval(found[1])
            except (ValueError, SyntaxError):
                return
            yield from (os.path.dirname(path) for path in mapping.values() if isinstance(path, str))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []


def _is_too_much(folder: str) -> bool:
    """A whole disk, or all of somebody's home, is no folder of code, whatever names it."""
    import pwd

    real = os.path.realpath(folder)
    homes = {os.path.realpath(user.pw_dir) for user in pwd.getpwall()}
    return real.count("/") < 2 or real in homes or any(home.startswith(real + "/") for home in homes)


def _is_inside(path: str, folders: dict[str, tuple[str, ...]], or_is: bool = False) -> bool:
    return any(
        is_below(path, (folder,)) and not is_below(path, left_out) and (or_is or path != folder)
        for folder, left_out in folders.items()
    )


def _owner(path: str, folders: dict[str, tuple[str, ...]]) -> str:
    """Of the folders the one that something belongs to; itself, when it stands alone."""
    return next((f for f, out in folders.items() if is_below(path, (f,)) and not is_below(path, out)), path)

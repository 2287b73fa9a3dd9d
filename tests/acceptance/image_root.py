"""A root for an image, made of this machine's own Python and ipykernel: no registry is needed, and it is small."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import BinaryIO

PROGRAMS = ("sh", "cat", "env", "ls", "sleep", "touch")
"""What a shell command of a cell may use."""
SPARED = {"jedi", "debugpy"}
"""Of all that ipykernel needs, what it does without, and what is large."""
UNUSED = {"dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tests", "tkinter"}
UNUSED |= {"sitecustomize.py"}
"""Of the standard library."""
SITE = "usr/lib/python3/site"
FOLDERS = ("tmp", "root", "etc", "run", "var", "proc", "sys", "dev")
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}


def packages(name: str, found: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """A package and all that it needs -> its files."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in found or key in SPARED:
        return found
    try:
        package = distribution(name)
    except PackageNotFoundError:  # for another system
        return found
    found[key] = [Path(str(package.locate_file(file))) for file in package.files or () if ".." not in file.parts]
    for need in package.requires or ():
        if "extra ==" not in need:
            packages(re.split(r"[^A-Za-z0-9._-]", need)[0], found)
    return found


def libraries(*programs: Path) -> set[Path]:
    """What they are linked against."""
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", said) if "site-packages" not in path}


def interpreter() -> tuple[Path, Path]:
    """A Python like this one, the system's if it is, and its standard library."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = next(path for path in (Path("/usr/bin", version), Path(sys.base_prefix, "bin", version)) if path.exists())
    said = subprocess.run([found, "-c", "import os; print(os.__file__)"], capture_output=True, text=True, check=True)
    return found.resolve(), Path(said.stdout.strip()).parent


def contents() -> dict[str, Path]:
    """Path in the root -> file of this machine."""
    python, standard = interpreter()
    files = {f"usr/bin/{name}": Path("/usr/bin", name).resolve() for name in PROGRAMS} | {"usr/bin/python3": python}
    binaries = [*files.values(), *standard.glob("lib-dynload/*.so")]
    for own in packages("ipykernel", {}).values():
        for file in own:
            if file.is_file() and "site-packages" in file.parts:
                inside = file.parts[file.parts.index("site-packages") + 1 :]
                files["/".join((SITE, *inside))] = file
                binaries += [file] if ".so" in file.suffixes else []
    for file in standard.rglob("*"):
        if file.is_file() and not UNUSED & set(file.parts):
            files[str(file)[1:]] = file
    for library in libraries(*binaries):
        top, rest = library.parts[1], library.parts[2:]
        files["/".join((LINKS.get(top, top), *rest))] = library
    return files


def pack(stream: BinaryIO) -> None:
    """The root as a tar. Files keep their times, so that what Python has compiled of them stays good."""
    python_path = f"import sys\nsys.path.append('/{SITE}')\n".encode()
    with tarfile.open(fileobj=stream, mode="w|") as tar:
        for name in FOLDERS:
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(folder)
        for name, target in LINKS.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        for name, file in contents().items():
            there = tar.gettarinfo(str(file.resolve()), name)
            there.uid = there.gid = 0
            with file.open("rb") as body:
                tar.addfile(there, body)
        add(tar, str(interpreter()[1] / "sitecustomize.py")[1:], python_path)
        add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")


def add(tar: tarfile.TarFile, name: str, body: bytes) -> None:
    there = tarfile.TarInfo(name)
    there.size = len(body)
    tar.addfile(there, io.BytesIO(body))

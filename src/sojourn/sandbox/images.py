"""Images, as this machine's podman has them: all that speaks to podman.

No mount of podman's has to be kept, counted and undone: a session's overlay is put together from the layers in podman's
own storage. An image travels as podman saves it in the form of Docker's archives, the one that keeps an image's id
whether it was made as Docker's or as OCI's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

from sojourn.errors import Incompatible, Refused, SandboxFailed, Unknown
from sojourn.model.images import Image

PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3", "/opt/conda/bin/python3", "/opt/venv/bin/python3")
"""Where an interpreter for the rider is looked for in an image."""
OLDEST_PYTHON = (3, 11)

_ASK_SECONDS = 60.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What programs of an image without a PATH of its own get, from any container runtime."""
_NOT_THE_IMAGES = ("HOME", "USER", "HOSTNAME", "TERM")
"""Variables that speak of who runs a program, and not of the image."""
_MODEST = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""Where this machine's own limits are low, podman's defaults are above them, and no container starts."""
_LAST_WORDS = 12
"""Lines of podman's that are shown when it fails."""

Say = Callable[[str], None]
"""Called with each line that podman says."""


def missing() -> str:
    """Why this machine can have no images; empty if it can."""
    return "" if shutil.which("podman") else "podman is missing"


# ── what is there ────────────────────────────────────────────────────────────────────────────────────────────


def images() -> list[Image]:
    """Every image of this machine, without its environment. Raises Incompatible without podman."""
    listed = json.loads(_podman("images", "--no-trunc", "--format", "json") or "[]")
    return [
        Image(
            id=one["Id"],
            names=tuple(one.get("Names") or ()),
            size_bytes=one.get("Size", 0),
            created_at=float(one.get("Created", 0)),
        )
        for one in listed
    ]


def find(reference: str) -> Image:
    """The image of that name or id. Raises Unknown when it is not here, Incompatible without podman."""
    said = _inspect(reference)
    return Image(
        id=said["Id"],
        names=tuple(said.get("RepoTags") or ()),
        size_bytes=said.get("Size", 0),
        created_at=_seconds(said.get("Created", "")),
        env=_environment((said.get("Config") or {}).get("Env") or ()),
    )


def layers_of(reference: str) -> tuple[list[str], str]:
    """The folders of an image's layers, the topmost first, and its identity. Raises Incompatible when this node lacks
    it, or keeps images in another way."""
    try:
        said = _inspect(reference)
    except Unknown as absent:
        raise Incompatible(absent.message, absent.hint) from absent
    driver, data = said["GraphDriver"]["Name"], said["GraphDriver"].get("Data") or {}
    if driver != "overlay":
        raise Incompatible(
            f"podman keeps its images as {driver!r} here; overlay is needed.", "Set driver = overlay in storage.conf."
        )
    folders = [data.get("UpperDir", ""), *data.get("LowerDir", "").split(":")]
    return [folder for folder in folders if folder], said["Id"]


def free_bytes() -> int:
    """On the disk where podman keeps its images."""
    return shutil.disk_usage(_podman("info", "--format", "{{.Store.GraphRoot}}").strip()).free


# ── coming and going ─────────────────────────────────────────────────────────────────────────────────────────


def pull(reference: str, say: Say) -> Image:
    """From its registry. Raises SandboxFailed with podman's last words."""
    _run(("pull", "--", reference), say, f"podman could not pull {reference}", last_words=1)
    return find(reference)


@contextmanager
def saved(image: str) -> Iterator[BinaryIO]:
    """An image as a stream of bytes, as `load` takes it. Raises SandboxFailed when podman ends without having said it
    all; who leaves early just leaves."""
    _require()
    with tempfile.TemporaryFile() as words:
        saving = subprocess.Popen(
            ["podman", "save", "--quiet", "--format", "docker-archive", "--", image],
            stdout=subprocess.PIPE,
            stderr=words,
        )
        assert saving.stdout
        try:
            yield saving.stdout  # type: ignore[misc]
            if saving.wait():
                raise SandboxFailed(f"podman could not save image {image[:12]}: {_end_of(words)}")
        finally:
            saving.stdout.close()
            saving.terminate()
            saving.wait()


def load(pieces: Iterable[bytes], image: str, name: str) -> Image:
    """Take in what `saved` gives, piece by piece, and call it `name`. What does not come whole, or is another image,
    is not there afterwards. Raises SandboxFailed, and what `pieces` raises."""
    _require()
    with tempfile.TemporaryFile() as words:
        loading = subprocess.Popen(
            ["podman", "load", "--quiet"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=words
        )
        assert loading.stdin
        try:
            with suppress(BrokenPipeError):  # it says why
                for piece in pieces:
                    loading.stdin.write(piece)
        finally:
            _close(loading.stdin)
            failed = loading.wait()
        if failed:
            raise SandboxFailed(f"podman could not take in image {name}: {_end_of(words)}")
    if not _is_here(image):
        raise SandboxFailed(f"What came as image {name} is another one than {image[:12]}.")
    tag(image, name)
    return find(image)


def tag(image: str, name: str) -> None:
    """An id is no name: nothing is done then."""
    if not image.startswith(name.removeprefix("sha256:")):
        _podman("tag", "--", image, name)


def remove(reference: str) -> None:
    """Take a name away, and with its last name the image. Raises Refused with podman's reason."""
    try:
        _podman("image", "rm", "--", reference)
    except SandboxFailed as why:
        raise Refused(f"podman keeps image {reference}: {why.message}") from why


# ── making one ───────────────────────────────────────────────────────────────────────────────────────────────


def recipe() -> str:
    """The default recipe, a Containerfile."""
    return files("sojourn.sandbox").joinpath("recipe", "Containerfile").read_text()


def build(
    folder: Path, containerfile: Path, name: str, arguments: Mapping[str, str], more: Sequence[str], say: Say
) -> Image:
    """Build a recipe with podman. `arguments`: of the recipe (ARG); `more`: podman's own options. Raises SandboxFailed
    with podman's last words."""
    given = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
    command = ("build", "--file", str(containerfile), "--tag", name, *given, *more, str(folder))
    _run(command, say, f"podman could not build {name}")
    return find(name)


def lacking(image: str) -> list[str]:
    """What a kernel needs and does not find in an image, in sentences; none: it will do. Runs a container of it."""
    script = _CHECK.format(pythons=" ".join(PYTHONS), oldest=OLDEST_PYTHON)
    isolated = ("--rm", "--network", "none", *_MODEST)
    command = ["podman", "run", *isolated, "--entrypoint", "/bin/sh", image, "-c", script]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS)
    said = asked.stdout.split("\n")
    if "checked" not in said:
        return [f"It could not be tried: {_tail(asked.stderr) or 'it has no /bin/sh'}"]
    return [sentence for word, sentence in _LACKING.items() if word not in said]


_CHECK = """
for python in {pythons}; do
    [ -x $python ] && $python -c 'import sys; sys.exit(sys.version_info < {oldest})' && echo rider
    [ -x $python ] && break
done
python3 -c 'import ipykernel' 2>/dev/null && echo ipykernel
echo checked
"""
_LACKING = {
    "rider": f"There is no Python {'.'.join(map(str, OLDEST_PYTHON))} or newer where Sojourn looks for one to run its "
    f"rider: the first of {', '.join(PYTHONS)} that is there must be one. Take a newer base (`--python`, `--base`).",
    "ipykernel": "`python3` finds no ipykernel. Add `RUN python3 -m pip install ipykernel` to the recipe.",
}


# ── podman ───────────────────────────────────────────────────────────────────────────────────────────────────


def _require() -> None:
    if missing():
        raise Incompatible("Images need podman, which this machine lacks.", "Install podman, or name no image.")


def _podman(*words: str) -> str:
    """What it says. Raises SandboxFailed with its last words, Incompatible without podman."""
    _require()
    asked = subprocess.run(["podman", *words], capture_output=True, text=True, timeout=_ASK_SECONDS)
    if asked.returncode:
        raise SandboxFailed(_tail(asked.stderr) or f"podman {words[0]} failed.")
    return asked.stdout


def _inspect(reference: str) -> dict[str, Any]:
    _require()
    try:
        found: list[dict[str, Any]] = json.loads(_podman("image", "inspect", "--", reference))
    except SandboxFailed as absent:
        raise Unknown(
            f"There is no image {reference} here.", f"`sojourn image pull {reference}` fetches it."
        ) from absent
    return found[0]


def _is_here(image: str) -> bool:
    try:
        return find(image).id == image
    except Unknown:
        return False


def _run(words: Sequence[str], say: Say, failure: str, last_words: int = _LAST_WORDS) -> None:
    """Something that lasts. What it says is passed on line by line, and kept for the case that it fails."""
    _require()
    said: list[str] = []
    running = subprocess.Popen(
        ["podman", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert running.stdout
    try:
        for line in running.stdout:
            said.append(line.rstrip())
            say(line.rstrip())
        if running.wait():
            raise SandboxFailed(f"{failure}:{chr(10) if last_words > 1 else ' '}" + "\n".join(said[-last_words:]))
    finally:
        running.stdout.close()
        running.terminate()
        running.wait()


def _environment(pairs: Iterable[str]) -> dict[str, str]:
    env = dict(pair.partition("=")[::2] for pair in pairs)
    return {"PATH": _PATH} | {name: value for name, value in env.items() if name not in _NOT_THE_IMAGES}


def _seconds(moment: str) -> float:
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return 0.0


def _close(pipe: BinaryIO | Any) -> None:
    with suppress(BrokenPipeError):
        pipe.close()


def _end_of(words: BinaryIO | Any) -> str:
    words.seek(0)
    return _tail(words.read().decode(errors="replace"))


def _tail(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("Error: ") if lines else ""

"""The documentation is whole: every command, option, route, setting and frame type stands in it, and every link leads
somewhere."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import nbformat
import pytest
import typer
from fastapi.routing import APIRoute, APIWebSocketRoute

from sojourn.cli.main import app
from sojourn.controller.routes import router
from sojourn.directive import find_directive
from sojourn.tunnel import frames

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TYPERS_OWN = {"--help", "--install-completion", "--show-completion"}


def page(name: str) -> str:
    return (DOCS / name).read_text()


def commands(group: click.Command, before: str = "sojourn") -> Iterator[tuple[str, click.Command]]:
    for name, command in getattr(group, "commands", {}).items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before} {name}")
        if getattr(command, "invoke_without_command", True):
            yield f"{before} {name}", command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_documented_with_its_options(line: str) -> None:
    text = page("commands.md")
    heads = [head for head in re.findall(r"^(`sojourn .*)$", text, re.M) if line in head]
    assert heads, f"docs/commands.md has no entry for `{line}`"
    options = {name for parameter in COMMANDS[line].params for name in parameter.opts if name.startswith("--")}
    for option in options - TYPERS_OWN:
        negative = option.replace("--", "--no-", 1)
        assert any(option in head or negative in head for head in heads), f"{line} {option}"


def test_no_documented_command_is_made_up() -> None:
    heads = re.findall(r"^`(sojourn .*)$", page("commands.md"), re.M)
    for head in heads:
        for line in re.findall(r"sojourn [a-z]+(?: [a-z]+)?", head):
            assert any(line == known or line.startswith(f"{known} ") or known == line for known in COMMANDS), line


def shape(path: str) -> str:
    return re.sub(r"{[^}]*}", "{}", path)


def routes() -> set[str]:
    """`GET /api/nodes` and the like, as the controller has them."""
    return {
        f"{method} {shape(route.path)}"
        for route in router.routes
        if isinstance(route, APIRoute | APIWebSocketRoute)
        for method in getattr(route, "methods", {"WS"})
    }


def test_every_route_is_documented_and_no_other() -> None:
    table = [line for line in page("api.md").splitlines() if line.startswith("| `")]
    named = {name for line in table for name in re.findall(r"`([A-Z]+ /api/[^`?]*)`", line.split("|")[1])}
    assert {shape(name) for name in named} == routes()


def test_no_message_advises_a_command_that_is_made_up() -> None:
    for file in (ROOT / "src").rglob("*.py"):
        for line in re.findall(r"`(sojourn [a-z]+(?: [a-z]+)?)", file.read_text()):
            assert any(line == known or line.startswith(f"{known} ") for known in COMMANDS), f"{file.name}: {line}"


def test_every_environment_variable_is_documented() -> None:
    used: set[str] = set()
    for file in (ROOT / "src").rglob("*.py"):
        used |= set(re.findall(r"\bSOJOURN_[A-Z_]+\b", file.read_text()))
    assert used <= set(re.findall(r"SOJOURN_[A-Z_]+", page("settings.md")))


@pytest.mark.parametrize(("kind", "name"), sorted(frames.NAMES.items()))
def test_every_frame_type_is_documented_with_its_number(kind: int, name: str) -> None:
    assert f"| `{name}` | {kind} |" in page("tunnel.md")


@pytest.mark.parametrize("field", frames.Hello.__slots__)
def test_every_field_of_the_handshake_is_documented(field: str) -> None:
    assert f"`{field}`" in page("tunnel.md")


@pytest.mark.parametrize("file", [*DOCS.glob("*.md"), *ROOT.glob("*.md")], ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", file.read_text()):
        assert target.startswith("http") or (file.parent / target).exists(), f"{file.name} → {target}"


def test_every_page_is_reached_from_the_index() -> None:
    listed = set(re.findall(r"^([a-z-]+)$", page("index.md"), re.M))
    assert {file.stem for file in DOCS.glob("*.md")} - {"index"} <= listed


def test_the_example_moves_itself_in_its_second_cell() -> None:
    notebook = nbformat.read(ROOT / "examples/moving.ipynb", 4)
    nbformat.validate(notebook)
    second = notebook.cells[1]
    assert second.source.splitlines()[0] == "%%on there"
    directive = find_directive(second.source, {})
    assert directive is not None
    assert directive.place == "there"
    assert notebook.metadata.kernelspec.name == "sojourn"


def test_every_verb_of_the_makefile_is_explained() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.M)
    assert phony
    for verb in phony[1].split():
        assert re.search(rf"^{verb}:.*## \S", text, re.M), verb


def test_the_lock_holds_every_dependency_with_hashes_and_no_host() -> None:
    """But not the libraries that a bench makes states of: it takes those that it finds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["project"]["dependencies"],
        *(each for extra in project["project"]["optional-dependencies"].values() for each in extra),
        *(each for name, group in project["dependency-groups"].items() if name != "states" for each in group),
    ]
    lock = (ROOT / "requirements.lock").read_text()
    locked = {normal(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.M)}
    assert {normal(re.split(r"[^A-Za-z0-9._-]", each)[0]) for each in wanted} <= locked
    assert "://" not in lock
    assert all("--hash=" in entry for entry in re.split(r"\n(?=\S)", lock.strip()))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

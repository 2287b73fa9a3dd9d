"""From a kernel's command and environment to the session it asks for."""

import os
import sys
from pathlib import Path

import pytest

from sojourn.errors import Invalid
from sojourn.jupyter.kernel_session import (
    IN_KERNEL,
    Wishes,
    kept_environment,
    kernel_command,
    kernel_spec,
    mounts,
    session_name,
    with_magic,
    witnessed,
)
from sojourn.model.resources import Needs
from sojourn.model.sessions import Mount, Program, SessionSpec

LEFT = Mount(path="/raw", mode="left")


def test_an_ipython_kernel_starts_through_the_magic_with_its_options():
    argv = ["/env/bin/python", "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    command, files = with_magic(argv)
    assert command == ("/env/bin/python", "-Xfrozen_modules=off", IN_KERNEL, "-f", "{connection_file}")
    assert "def load_ipython_extension" in files[IN_KERNEL]


@pytest.mark.parametrize("argv", [("R", "--slave", "-f", "{connection_file}"), ("python", "-m", "other"), ("x",)])
def test_other_kernels_stay_as_they_are(argv):
    assert with_magic(argv) == (argv, {})


def test_our_own_launcher_is_resolved_to_the_kernel_it_would_start():
    script = Path(sys.executable).with_name("sojourn-kernel")
    python = str(Path(sys.executable).with_name("python"))
    expected = (python, "-m", "ipykernel_launcher", "-f", "{connection_file}")
    assert kernel_command([str(script), "-f", "{connection_file}"]) == expected
    through_module = ["/env/bin/python", "-m", "sojourn.jupyter.launcher", "-f", "{connection_file}"]
    assert kernel_command(through_module) == ("/env/bin/python", *expected[1:])


def test_from_an_image_it_is_the_images_python_and_shell(tmp_path):
    client = {"PYTHONPATH": "/lib", "VIRTUAL_ENV": "/env", "CONDA_PREFIX": "/conda", "SHELL": "/bin/zsh", "LANG": "C"}
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = kernel_spec(command, client, str(tmp_path), "unique", wishes=Wishes(image="localhost/data"))
    assert (spec.program.argv[0], spec.program.env) == ("python3", {"LANG": "C"})
    foreign = kernel_spec(["/opt/R/bin/R", "-f"], client, str(tmp_path), "unique", wishes=Wishes(image="localhost/r"))
    assert foreign.program.argv[0] == "/opt/R/bin/R"
    without = kernel_spec(command, client, str(tmp_path), "unique")
    assert (without.program.argv[0], without.program.env) == (sys.executable, client)


def test_tokens_and_the_parent_stay_outside():
    secret = (
        "SOJOURN_TOKEN",
        "SOJOURN_HOME",
        "JUPYTER_TOKEN",
        "JUPYTERHUB_API_TOKEN",
        "JPY_API_TOKEN",
        "JPY_PARENT_PID",
    )
    secret += ("JUPYTER_DEFAULT_PROVISIONER_NAME",)
    kept = {"PATH": "/bin", "JPY_SESSION_NAME": "a.ipynb", "MY_TOKEN": "the user's own"}
    assert kept_environment(dict.fromkeys(secret, "x") | kept) == kept


@pytest.mark.parametrize(
    ("notebook", "name"),
    [("/work/Große Daten (2).ipynb", "Große-Daten-2-abcdef"), ("", "kernel-abcdef"), ("..", "kernel-abcdef")],
)
def test_a_session_is_named_after_its_notebook(notebook, name):
    assert session_name({"JPY_SESSION_NAME": notebook}, "abcdef0123") == name


def test_the_working_folder_and_home_are_shared(tmp_path):
    home, inside, other = tmp_path / "home", tmp_path / "home" / "project", tmp_path / "other"
    for folder in (home, inside, other):
        folder.mkdir()
    shared = lambda *paths: tuple(Mount(path=str(path)) for path in paths)  # noqa: E731
    assert mounts(Wishes(), str(inside), str(home)) == shared(home)
    assert mounts(Wishes(), str(other), str(home)) == shared(home, other)
    assert mounts(Wishes(), "/", str(tmp_path / "nowhere")) == ()


def test_a_carried_folder_is_not_shared_too(tmp_path):
    wishes = Wishes(carried=("{cwd}",))
    assert mounts(wishes, str(tmp_path), str(tmp_path)) == (Mount(path=str(tmp_path), mode="carried"),)


def test_more_may_be_said_of_a_folder_and_then_that_counts(tmp_path):
    home, work = tmp_path / "home", tmp_path / "home/work"
    work.mkdir(parents=True)
    wishes = Wishes(
        mounts=(
            {"path": "{cwd}", "mode": "carried", "exclude": ["*.zarr"]},
            {"path": "raw", "mode": "left"},
            {"path": "/nowhere/here"},
        )
    )
    assert mounts(wishes, str(work), str(home)) == (
        Mount(path=str(home)),
        Mount(path=str(work), mode="carried", exclude=("*.zarr",)),
        Mount(path=str(work / "raw"), mode="left"),
        Mount(path="/nowhere/here"),
    )


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"path": "/data", "mode": "borrowed"}, "mode: Input should be 'shared', 'carried' or 'left'"),
        ({"mode": "left"}, "path: Field required"),
        ({"path": "/data", "excludes": ["x"]}, "excludes: Extra inputs"),
        ({"path": "/data", "exclude": ["x"]}, "it is shared"),
        ({"path": "/data", "mode": "carried", "exclude": ["!"]}, "makes no sense"),
    ],
)
def test_a_folder_that_makes_no_sense(entry, why):
    with pytest.raises(Invalid, match=why):
        mounts(Wishes(mounts=(entry,)), "/tmp", "/tmp")


def test_while_a_kernel_starts_its_folders_can_be_told_from_others_of_their_names(tmp_path):
    shared = Mount(path=str(tmp_path))
    spec = SessionSpec(program=Program(argv=("true",), uid=os.getuid(), gid=os.getgid()), mounts=(shared, LEFT))
    with witnessed(spec, "kernel1") as seen:
        sight = seen.mounts[0].seen
        assert (tmp_path / ".sojourn-canary-kernel1").read_text() == sight.canary
        assert sight.of == "kernel1"
        assert seen.mounts[1] == LEFT
    assert list(tmp_path.iterdir()) == []


def test_the_spec_holds_it_all(tmp_path):
    wishes, needs = Wishes(image="docker.io/library/python:3.12", sandbox="runc", cpu="fleet"), Needs(labels=("gpu",))
    spec = kernel_spec(["R", "{connection_file}"], {"HOME": str(tmp_path)}, str(tmp_path), "abc", needs, wishes)
    assert spec.program.argv == ("R", "{connection_file}")
    assert spec.program.cwd == str(tmp_path)
    assert spec.needs == needs
    assert (spec.image, spec.sandbox, spec.cpu, spec.ends_with_program) == (wishes.image, "runc", "fleet", False)


def test_of_a_folder_that_is_named_twice_holds_what_is_said_last(tmp_path: Path) -> None:
    """A notebook may lie in the home itself."""
    wishes = Wishes(mounts=({"path": "{home}", "mode": "left"}, {"path": "{cwd}", "mode": "carried"}))
    assert mounts(wishes, str(tmp_path), str(tmp_path)) == (Mount(path=str(tmp_path), mode="carried"),)

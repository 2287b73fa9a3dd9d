"""Parts: what a program runs from is found by looking at made-up trees."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from sojourn.environment.parts import Part, parts_of, system_part
from sojourn.errors import Incompatible


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def link(path: Path, target: Path | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def python(prefix: Path) -> Path:
    """A Python of its own, as pyenv or uv install one."""
    write(prefix / "lib/python3.12/os.py")
    write(prefix / "bin/python3.12")
    link(prefix / "bin/python3", "python3.12")
    return prefix


def venv(prefix: Path, home: Path) -> Path:
    write(prefix / "pyvenv.cfg", f"home = {home}\nversion_info = 3.12.1\n")
    write(prefix / "lib/python3.12/site-packages/six.py")
    link(prefix / "bin/python", home / "python3")
    return prefix


def folders(found: tuple[Part, ...]) -> dict[str, tuple[str, ...]]:
    assert found[-1].name == "system"
    return {part.name: part.paths for part in found[:-1]}


def test_a_venv_is_built_upon_a_python_behind_a_link(tmp_path: Path) -> None:
    base = python(tmp_path / "uv/cpython-3.12.1")
    short = link(tmp_path / "uv/cpython-3.12", "cpython-3.12.1")
    own = venv(tmp_path / "work/.venv", short / "bin")

    found = folders(parts_of(f"{own}/bin/python"))

    assert found == {str(own): (str(own),), str(base): (str(short), str(base))}


def test_a_venv_of_the_systems_python_is_one_part(tmp_path: Path) -> None:
    own = venv(tmp_path / ".venv", Path("/usr/bin"))
    assert folders(parts_of(f"{own}/bin/python")) == {str(own): (str(own),)}


def test_condas_base_goes_without_its_other_environments(tmp_path: Path) -> None:
    base = python(tmp_path / "conda")
    for name in ("conda-meta", "pkgs/numpy", "envs/other/bin"):
        (base / name).mkdir(parents=True)

    (part, _) = parts_of(f"{base}/bin/python3")

    assert part.covers(f"{base}/lib/python3.12/os.py")
    assert not part.covers(f"{base}/pkgs/numpy")
    assert not part.covers(f"{base}/envs/other/bin")


def test_an_environment_in_condas_base_is_a_part_beside_it(tmp_path: Path) -> None:
    base, inner = python(tmp_path / "conda"), python(tmp_path / "conda/envs/lab")
    for prefix in (base, inner):
        (prefix / "conda-meta").mkdir()
    found = folders(parts_of(f"{inner}/bin/python3", [f"{base}/bin/python3"]))
    assert list(found) == [str(base), str(inner)]


def test_editable_installs_are_found_both_ways(tmp_path: Path) -> None:
    own = venv(tmp_path / ".venv", Path("/usr/bin"))
    packages = own / "lib/python3.12/site-packages"
    one, two = write(tmp_path / "one/src/one/a.py"), write(tmp_path / "two/lib/two/b.py")
    write(packages / "_one.pth", f"# a note\nimport sys\n{one.parent.parent}\n/nowhere\n")
    mapping = {"two": str(two.parent)}
    write(packages / "__editable___two_0_1_finder.py", f"MAPPING: dict[str, str] = {mapping!r}\nNAMESPACES = {{}}\n")

    found = folders(parts_of(f"{own}/bin/python"))

    assert set(found) == {str(own), str(one.parent.parent), str(two.parent.parent)}


def test_no_part_lies_in_another(tmp_path: Path) -> None:
    own = venv(tmp_path / "project/.venv", Path("/usr/bin"))
    write(own / "lib/python3.12/site-packages/project.pth", str(tmp_path / "project"))
    assert folders(parts_of(f"{own}/bin/python")) == {str(tmp_path / "project"): (str(tmp_path / "project"),)}


def test_a_home_is_no_folder_of_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home/ada"
    own = venv(home / ".venv", Path("/usr/bin"))
    write(own / "lib/python3.12/site-packages/careless.pth", f"{home}\n/\n")
    person = type("Person", (), {"pw_dir": str(home), "pw_uid": 1000})
    monkeypatch.setattr(pwd, "getpwall", lambda: [person])
    assert folders(parts_of(f"{own}/bin/python")) == {str(own): (str(own),)}


def test_a_lone_program_is_a_part_by_itself(tmp_path: Path) -> None:
    program = write(tmp_path / "tools/kernel")
    assert folders(parts_of(str(program))) == {str(program): (str(program),)}


def test_a_program_with_its_libraries_beside_it_goes_with_them(tmp_path: Path) -> None:
    julia = tmp_path / "julia-1.11"
    write(julia / "bin/julia")
    write(julia / "lib/libjulia.so")
    assert folders(parts_of(f"{julia}/bin/julia")) == {str(julia): (str(julia),)}


def test_a_bare_name_is_found_as_the_program_would_be(tmp_path: Path) -> None:
    own = venv(tmp_path / ".venv", Path("/usr/bin"))
    (own / "bin/python").unlink()
    write(own / "bin/python").chmod(0o755)
    assert list(folders(parts_of("python", search=f"/nowhere:{own}/bin"))) == [str(own)]
    with pytest.raises(Incompatible, match="kernel"):
        parts_of("kernel", search=f"{own}/bin")


def test_what_the_session_has_anyway_is_no_part(tmp_path: Path) -> None:
    own = venv(tmp_path / "home/.venv", python(tmp_path / "pythons/3.12") / "bin")
    found = parts_of(f"{own}/bin/python", elsewhere=lambda path: path.startswith(str(tmp_path / "home")))
    assert list(folders(found)) == [str(tmp_path / "pythons/3.12")]


def test_a_python_that_is_not_there_is_named(tmp_path: Path) -> None:
    own = venv(tmp_path / ".venv", tmp_path / "removed/bin")
    with pytest.raises(Incompatible, match=r"\.venv/bin/python"):
        parts_of(f"{own}/bin/python")


def test_with_an_image_a_python_of_the_system_is_refused(tmp_path: Path) -> None:
    own = venv(tmp_path / ".venv", Path("/usr/bin"))
    alone = venv(tmp_path / "alone", python(tmp_path / "python") / "bin")
    with pytest.raises(Incompatible, match=r"\.venv/bin/python"):
        parts_of(f"{own}/bin/python", system=False)
    assert [part.name for part in parts_of(f"{alone}/bin/python", system=False)] == [
        str(tmp_path / "alone"),
        str(tmp_path / "python"),
    ]


def test_the_system_keeps_its_secrets_and_its_name() -> None:
    part = system_part()
    assert part.everybody
    assert part.covers("/usr/bin/env")
    assert part.covers("/etc/passwd")
    for own in ("/etc/machine-id", "/etc/resolv.conf", "/usr/share/doc/x", "/opt/conda", "/home"):
        assert not part.covers(own)

"""The doctor on made-up machines: what it finds, and the commands it prescribes."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from sojourn.doctor import checks, criu, cures, kernel, packages
from sojourn.doctor.findings import Cure, Finding, State
from sojourn.doctor.machine import Answer, Distribution, Machine, read_distribution
from sojourn.sandbox.criu_path import PRIVATE

BOOKWORM = Distribution("debian", "12", "Debian GNU/Linux 12 (bookworm)", "debian")
TRIXIE = Distribution("debian", "13", "Debian GNU/Linux 13 (trixie)", "debian")
FEDORA = Distribution("fedora", "42", "Fedora Linux 42", "fedora")
ARCH = Distribution("arch", "", "Arch Linux", "other")


class MadeUp(Machine):
    """A machine of files, programs and what these answer."""

    def __init__(
        self,
        distribution: Distribution = TRIXIE,
        system: str = "Linux",
        root: bool = True,
        programs: dict[str, str] | None = None,
        answers: dict[str, Answer] | None = None,
        files: dict[str, str] | None = None,
    ) -> None:
        self.__dict__["system"] = system
        self.__dict__["distribution"] = distribution
        self.root = root
        self.programs = programs or {}
        self.answers = answers or {}
        self.files = files or {}
        self.ran: list[str] = []

    @property
    def is_root(self) -> bool:
        return self.root

    def environment(self, name: str) -> str | None:
        return None

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def exists(self, path: str) -> bool:
        return path in self.files

    def is_writable(self, path: str) -> bool:
        return True

    def find(self, program: str) -> str | None:
        return self.programs.get(program)

    def run(self, *argv: str, timeout_seconds: float = 30) -> Answer:
        self.ran.append(" ".join(argv))
        return self.answers.get(" ".join(argv), Answer(127, "no such program"))


def with_criu(version: str, offered: str, **other: object) -> MadeUp:
    return MadeUp(
        programs={"criu": "/usr/sbin/criu"},
        answers={
            "/usr/sbin/criu --version": Answer(0, f"Version: {version}\n"),
            "/usr/sbin/criu check": Answer(0, "Looks good.\n"),
            "apt-cache policy criu": Answer(0, f"criu:\n  Installed: (none)\n  Candidate: {offered}\n"),
        },
        **other,  # type: ignore[arg-type]
    )


# ── which system ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("os_release", "family"),
    [
        ('ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian"', "debian"),
        ("ID=ubuntu\nID_LIKE=debian", "debian"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"', "debian"),
        ("ID=fedora", "fedora"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"', "fedora"),
        ("ID=arch", "other"),
        ("", "other"),
    ],
)
def test_the_family_decides_the_package_manager(os_release: str, family: str) -> None:
    assert read_distribution(os_release).family == family


def test_another_system_is_degraded_not_broken() -> None:
    findings = checks.examine(MadeUp(system="Darwin", root=False))
    assert [finding.name for finding in findings] == ["system", "rights", "jupyterlab", "encryption"]
    assert all(finding.state is not State.MISSING for finding in findings)
    assert "Linux" in findings[0].detail


def test_without_root_the_cure_names_the_command_in_full() -> None:
    finding = checks.check_rights(MadeUp(root=False))
    assert finding.state is State.DEGRADED
    assert finding.cure is not None
    line = finding.cure.line(is_root=False)
    assert line.startswith("sudo /")
    assert line.endswith("/sojourn up")
    assert not finding.cure.automatic


# ── CRIU ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_criu_is_well() -> None:
    assert criu.check_version(with_criu("9.1.1", "9.1.1-1")) == Finding("criu", State.OK, "9.1.1 at /usr/sbin/criu")


def test_an_old_criu_is_replaced_by_the_package_where_that_is_new_enough() -> None:
    finding = criu.check_version(with_criu("3.17.1", "9.1.1-1"))
    assert finding.state is State.MISSING
    assert finding.cure == Cure("apt-get install --yes --no-install-recommends criu", downloads=True)


@pytest.mark.parametrize("offered", ["3.17.1-2+deb12u2", "(none)"])
def test_an_old_criu_gets_a_private_folder_where_the_package_is_old_too(offered: str) -> None:
    finding = criu.check_version(with_criu("3.17.1", offered, distribution=BOOKWORM))
    assert finding.cure == Cure(f"{shlex.quote(sys.executable)} -m sojourn.doctor.private_criu", downloads=True)


def test_no_criu_on_fedora_is_installed_by_dnf() -> None:
    finding = criu.check_version(MadeUp(FEDORA))
    assert finding.cure == Cure("dnf install --assumeyes criu", downloads=True)


def test_no_criu_on_an_unknown_system_is_for_the_person() -> None:
    finding = criu.check_version(MadeUp(ARCH))
    assert finding.cure is not None
    assert not finding.cure.automatic


def test_the_private_criu_comes_before_the_path() -> None:
    machine = with_criu("3.17.1", "3.17.1", files={str(PRIVATE): ""})
    assert criu.find_criu(machine) == str(PRIVATE)


def test_criu_check_quotes_its_error() -> None:
    machine = with_criu("9.1", "9.1")
    machine.answers["/usr/sbin/criu check"] = Answer(1, "Warn: x\nError (criu/vdso.c): vdso: Unexpected\nmore\n")
    finding = criu.check_kernel(machine)
    assert finding.state is State.MISSING
    assert "vdso: Unexpected" in finding.detail
    assert finding.cure is None  # a new criu that fails here has no command that cures it


def test_criu_check_is_not_asked_without_root() -> None:
    machine = with_criu("9.1", "9.1", root=False)
    assert criu.check_kernel(machine).state is State.DEGRADED
    assert "/usr/sbin/criu check" not in machine.ran


@pytest.mark.parametrize(
    ("text", "version"), [("Version: 4.2.1\nGitID: v4", (4, 2, 1)), ("1:4.1.1-1", (4, 1, 1)), ("none", ())]
)
def test_versions(text: str, version: tuple[int, ...]) -> None:
    assert criu.version_in(text) == version


# ── the rest of the machine ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mounts", "state", "words"),
    [
        ("cgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0", State.OK, "version 1"),
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", State.OK, "version 2"),
        ("tmpfs /run tmpfs rw 0 0", State.MISSING, "no freezer"),
    ],
)
def test_cgroups(mounts: str, state: State, words: str) -> None:
    files = {"/proc/mounts": mounts, "/sys/fs/cgroup/cgroup.controllers": ""}
    finding = checks.check_cgroups(MadeUp(files=files))
    assert finding.state is state
    assert words in finding.detail


@pytest.mark.parametrize(
    ("capabilities", "limit", "state"),
    [
        ("CapEff:\t000001ffffffffff", 1048576, State.OK),
        ("CapEff:\t00000000a80425fb", 1048576, State.DEGRADED),
        ("CapEff:\t00000000a80425fb", 2**31, State.OK),
    ],
)
def test_pipe_limits_matter_without_the_capability(capabilities: str, limit: int, state: State) -> None:
    files = {"/proc/self/status": f"Name:\tx\n{capabilities}\n", "/proc/sys/fs/pipe-max-size": f"{limit}\n"}
    assert checks.check_pipes(MadeUp(files=files)).state is state


FILTERS = {"/proc/sys/kernel/seccomp/actions_avail": "kill_process trap errno log allow\n"}


@pytest.mark.parametrize(
    ("files", "said", "state", "words"),
    [
        (FILTERS, "runc version 1.1.5\nlibseccomp: 2.5.4\n", State.OK, "filter"),
        (FILTERS, "runc version 1.1.5\n", State.MISSING, "/usr/sbin/runc can't"),
        ({}, "runc version 1.1.5\nlibseccomp: 2.5.4\n", State.MISSING, "the kernel can't"),
    ],
)
def test_sandboxes_need_seccomp(files: dict[str, str], said: str, state: State, words: str) -> None:
    answers = {"/usr/sbin/runc --version": Answer(0, said)}
    finding = checks.check_seccomp(MadeUp(programs={"runc": "/usr/sbin/runc"}, answers=answers, files=files))
    assert finding.state is state
    assert words in finding.detail


def test_a_kernel_that_refuses_a_feature_loses_lazy_moves_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernel.FEATURES, "userfaultfd", lambda: "Function not implemented")
    finding = checks.check_kernel_features(MadeUp())
    assert finding.state is State.DEGRADED
    assert "userfaultfd: Function not implemented" in finding.detail


@pytest.mark.parametrize(
    ("check", "package"),
    [(checks.check_pasta, "passt"), (checks.check_podman, "podman")],  # codespell:ignore passt
)
def test_what_moves_can_do_without_is_degraded(check: checks.Check, package: str) -> None:
    finding = check(MadeUp())
    assert finding.state is State.DEGRADED
    assert finding.cure is not None
    assert finding.cure.command.endswith(package)


def test_a_program_that_fails_is_not_taken_for_one_that_works() -> None:
    machine = MadeUp(programs={"runc": "/usr/sbin/runc"}, answers={"/usr/sbin/runc --version": Answer(1, "no")})
    assert checks.check_runc(machine).state is State.MISSING


def test_a_program_that_is_absent_answers_127() -> None:
    assert Machine().run("/no/such/program").code == 127


def test_a_program_that_hangs_is_given_up() -> None:
    assert Machine().run(sys.executable, "-c", "import time; time.sleep(9)", timeout_seconds=0.05).code == 124


# ── cures ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cures_are_run_once_each_and_only_those_that_need_no_decision() -> None:
    same = Cure("apt-get install --yes criu")
    findings = [
        Finding("criu", State.MISSING, "", same),
        Finding("criu check", State.MISSING, "", same),
        Finding("rights", State.DEGRADED, "", Cure("be root", automatic=False)),
        Finding("fine", State.OK, "", Cure("nothing")),
        Finding("hopeless", State.MISSING, ""),
    ]
    assert cures.automatic(findings) == [same]


def test_sudo_stands_before_a_cure_where_it_is_needed() -> None:
    assert Cure("modprobe overlay").line(is_root=False) == "sudo modprobe overlay"
    assert Cure("modprobe overlay").line(is_root=True) == "modprobe overlay"
    assert Cure("pip install x", needs_root=False).line(is_root=False) == "pip install x"


def test_fix_tells_each_command_and_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    sick = [Finding("a", State.MISSING, "", Cure("exit 3")), Finding("b", State.MISSING, "", Cure("true"))]
    monkeypatch.setattr(cures, "examine", lambda machine, prove=True, node=False: sick)
    told: list[str] = []
    assert cures.cure(MadeUp(ARCH), told.append) == sick
    assert told == ["$ exit 3", "That failed (exit code 3).", "$ true"]


def test_fix_reads_the_package_lists_before_it_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh Debian has empty lists: what it offers is known only after `apt-get update`."""
    lines: list[str] = []

    def run(argv: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        lines.append(argv[-1])
        return subprocess.CompletedProcess(argv, 0)

    def examine(machine: Machine, prove: bool = True, node: bool = False) -> list[Finding]:
        remedy = Cure("install the package" if lines else "take the long way", downloads=True)
        return [Finding("criu", State.MISSING, "", remedy)]

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(cures, "examine", examine)
    cures.cure(MadeUp(BOOKWORM), lambda line: None)
    assert lines == [packages.UPDATE["debian"], "install the package"]


def test_fix_does_nothing_where_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cures, "examine", lambda machine, prove=True, node=False: [Finding("a", State.OK, "")])
    told: list[str] = []
    cures.cure(MadeUp(), told.append)
    assert told == []


@pytest.mark.parametrize(
    ("url", "state"),
    [("", State.OK), ("http://127.0.0.1:1", State.OK), ("https://lab", State.OK), ("http://lab", State.DEGRADED)],
)
def test_it_says_whether_the_controller_is_spoken_to_in_the_open(
    url: str, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOJOURN_CONTROLLER", url)
    monkeypatch.setenv("SOJOURN_HOME", "/nonexistent")
    assert checks.check_encryption(MadeUp()).state is state

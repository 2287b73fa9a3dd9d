#!/usr/bin/env python3
"""Run other projects' own tests with Sojourn as the default kernel provisioner.

    python scripts/upstream.py                      every suite, local provisioner first, then ours
    python scripts/upstream.py nbclient papermill   only these
    python scripts/upstream.py --local-only         prove the harness

The tests come from the source distributions of the very versions installed here. A test that fails with us twice, the
second time with nothing beside it, fails the run, unless it fails with the local provisioner too (then it is the
environment) or is explained in `tests/upstream_exceptions.toml`. Needs `uv`, or `pip`, to fetch from the package index.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from sojourn.sandbox.mounts import remove_tree

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".upstream"
EXCEPTIONS = ROOT / "tests" / "upstream_exceptions.toml"
LONGEST = 420
"""Seconds that a suite may take."""
TEST_PACKAGES = ("flaky", "ipywidgets", "pytest-jupyter", "testpath", "xmltodict")
"""What the suites import beyond what is installed; they go into a folder of their own."""


@dataclass(frozen=True)
class Suite:
    """Test files of one package, as paths inside its source distribution."""

    name: str
    package: str
    files: tuple[str, ...]

    @property
    def source(self) -> Path:
        return FOLDER / f"{self.package}-{version(self.package)}"


SUITES = {
    suite.name: suite
    for suite in (
        Suite("kernel_test", "jupyter_kernel_test", ("test_ipykernel.py",)),
        Suite("nbclient", "nbclient", ("tests/test_client.py",)),
        Suite("client", "jupyter_client", ("tests/test_client.py", "tests/test_restarter.py", "tests/test_manager.py")),
        Suite("manager", "jupyter_client", ("tests/test_kernelmanager.py",)),
        Suite("multi", "jupyter_client", ("tests/test_multikernelmanager.py",)),
        Suite("papermill", "papermill", ("papermill/tests/test_execute.py",)),
    )
}


@dataclass(frozen=True)
class Outcome:
    """Of one test: "passed", "failed" or "skipped", the seconds it took and the failure's text."""

    verdict: str
    seconds: float
    text: str = ""


# ── fetching ─────────────────────────────────────────────────────────────────────────────────────────────────


def fetch(suite: Suite) -> None:
    """Bring the suite's source distribution below FOLDER, once."""
    if suite.source.exists():
        return
    with tempfile.TemporaryDirectory(dir=FOLDER) as draft:
        requirement = f"{suite.package}=={version(suite.package)}"
        run([*pip(), "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", draft, requirement])
        archive = next(Path(draft).glob("*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(draft, filter="data")
        next(path for path in Path(draft).iterdir() if path.is_dir()).rename(suite.source)


def fetch_test_packages() -> Path:
    """Install what the suites import into a folder of their own; returns the folder."""
    site = FOLDER / "site"
    if not site.exists():
        draft = FOLDER / ".site"
        run([*installer(), "--quiet", "--no-deps", "--target", str(draft), *TEST_PACKAGES])
        draft.rename(site)
    return site


def pip() -> list[str]:
    return [found] if (found := shutil.which("pip")) else ["uv", "tool", "run", "pip"]


def installer() -> list[str]:
    return ["uv", "pip", "install"] if shutil.which("uv") else [*pip(), "install"]


def run(command: list[str]) -> None:
    subprocess.run(command, check=True)


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────


def run_suite(
    suite: Suite, provisioner: str, environment: Mapping[str, str], only: Collection[str] = ()
) -> dict[str, Outcome]:
    """The outcome of every test of a suite, or of those with these names only, with the given provisioner as the
    default one."""
    with tempfile.TemporaryDirectory(prefix="upstream-") as scratch:
        report = Path(scratch) / "report.xml"
        variables = {**environment, "JUPYTER_DEFAULT_PROVISIONER_NAME": provisioner, "TMPDIR": scratch}
        command = [sys.executable, "-m", "pytest", *suite.files, f"--junitxml={report}", f"--basetemp={scratch}/base"]
        options = "-q -W ignore -o asyncio_default_fixture_loop_scope=function --timeout=120 -p no:cacheprovider "
        options += "--color=no --tb=short --no-showlocals --timeout-method=signal"
        if only:
            command += ["-k", " or ".join(sorted({test.rpartition("::")[2].partition("[")[0] for test in only}))]
        output = Path(scratch) / "output"
        with output.open("w") as file, suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [*command, *options.split()], cwd=suite.source, env=variables, stdout=file, stderr=file, timeout=LONGEST
            )
        if not report.exists():
            print(f"{suite.name}: pytest did not end as it should\n{indent(output.read_text(), 40)}")
            return {}
        return read_report(report)


def read_report(path: Path) -> dict[str, Outcome]:
    """The outcomes in a JUnit report, by `module.Class::test`."""
    outcomes = {}
    for case in ElementTree.parse(path).iter("testcase"):
        failure = next((case.find(tag) for tag in ("failure", "error") if case.find(tag) is not None), None)
        verdict = "failed" if failure is not None else "skipped" if case.find("skipped") is not None else "passed"
        text = (failure.text or "") if failure is not None else ""
        outcomes[f"{case.get('classname')}::{case.get('name')}"] = Outcome(verdict, float(case.get("time", 0)), text)
    return outcomes


def local_outcomes(suite: Suite, environment: Mapping[str, str], *, fresh: bool) -> dict[str, Outcome]:
    """What the local provisioner reaches; remembered until the package's version changes."""
    memory = FOLDER / f"local-{suite.name}-{version(suite.package)}.json"
    if fresh or not memory.exists():
        found = run_suite(suite, "local-provisioner", environment)
        memory.write_text(json.dumps({name: vars(outcome) for name, outcome in found.items()}))
    return {name: Outcome(**fields) for name, fields in json.loads(memory.read_text()).items()}


@contextmanager
def sojourn(sandbox: str) -> Iterator[dict[str, str]]:
    """The environment of a stack of its own, in a folder of its own, started here and stopped at the end."""
    home = Path(tempfile.mkdtemp(prefix="sojourn-upstream-"))
    environment = {**os.environ, "SOJOURN_HOME": str(home)}
    environment.pop("SOJOURN_CONTROLLER", None)
    embedded = "import sojourn.embedded as e; e."
    subprocess.run([sys.executable, "-c", embedded + f"start(sandbox={sandbox!r})"], env=environment, check=True)
    try:
        yield environment
    finally:
        subprocess.run([sys.executable, "-c", embedded + "stop()"], env=environment, check=True)
        remove_tree(home)


# ── judging ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Explained:
    """A test that fails with Sojourn for a known reason; `test` may hold wildcards."""

    suite: str
    test: str
    reason: str
    sandbox: str = "*"

    def covers(self, suite: Suite, test: str, sandbox: str) -> bool:
        here = self.suite == suite.name and self.sandbox in ("*", sandbox)
        return here and fnmatch.fnmatchcase(test.replace("[", "("), self.test.replace("[", "("))


def explained() -> list[Explained]:
    return [Explained(**entry) for entry in tomllib.loads(EXCEPTIONS.read_text()).get("exception", [])]


def judge(
    suite: Suite, ours: dict[str, Outcome], local: dict[str, Outcome], known: list[Explained], sandbox: str
) -> list[str]:
    """The tests that fail for no known reason, said on the way."""
    unexplained = []
    for test, outcome in ours.items():
        reason = next((each.reason for each in known if each.covers(suite, test, sandbox)), None)
        if outcome.verdict != "failed":
            continue
        if reason:
            print(f"  EXPLAINED {test}: {reason}")
        elif test in local and local[test].verdict == "failed":
            print(f"  LOCAL TOO {test}")
        else:
            print(f"  FAILED    {test}\n{indent(outcome.text)}")
            unexplained.append(test)
    return unexplained + missing(ours, local)


def missing(ours: dict[str, Outcome], local: dict[str, Outcome]) -> list[str]:
    """Tests that ran locally and not with us: a crash of the run must not pass for success."""
    absent = [test for test in local if test not in ours]
    for test in absent:
        print(f"  DID NOT RUN {test}")
    return absent


def indent(text: str, lines: int = 5) -> str:
    return "\n".join(f"      {line}" for line in text.splitlines()[-lines:])


def tally(outcomes: dict[str, Outcome]) -> str:
    verdicts = [outcome.verdict for outcome in outcomes.values()]
    counts = [f"{verdicts.count(kind)} {kind}" for kind in ("passed", "failed", "skipped") if kind in verdicts]
    return ", ".join(counts) or "nothing ran"


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; all when none is named")
    parser.add_argument("--local-only", action="store_true", help="only the local provisioner")
    parser.add_argument("--fresh", action="store_true", help="run the local provisioner again, not from memory")
    parser.add_argument("--sandbox", choices=("process", "runc"), default="process")
    parser.add_argument("--parallel", type=int, default=2, help="suites at a time")
    chosen = parser.parse_args()
    if wrong := set(chosen.suites) - set(SUITES):
        parser.error(f"no such suite: {', '.join(sorted(wrong))}")
    return chosen


def main() -> int:
    chosen = arguments()
    suites = [SUITES[name] for name in chosen.suites or SUITES]
    FOLDER.mkdir(exist_ok=True)
    for suite in suites:
        fetch(suite)
    environment = {**os.environ, "PYTHONPATH": str(fetch_test_packages())}
    started = time.monotonic()
    with ThreadPoolExecutor(chosen.parallel) as pool:
        local = list(pool.map(lambda suite: local_outcomes(suite, environment, fresh=chosen.fresh), suites))
    for suite, outcomes in zip(suites, local, strict=True):
        print(f"{suite.name}, local provisioner: {tally(outcomes)}", flush=True)
    if chosen.local_only:
        return 0
    bad = run_ours(suites, local, chosen, environment)
    verdict = f"{len(bad)} unexplained" if bad else "nothing unexplained"
    print(f"===== {verdict} in {time.monotonic() - started:.0f} s =====", *bad, sep="\n  ")
    return 1 if bad else 0


def run_ours(
    suites: list[Suite], local: list[dict[str, Outcome]], chosen: argparse.Namespace, environment: Mapping[str, str]
) -> list[str]:
    """Every suite with our provisioner; returns the unexplained failures."""
    known, again = explained(), []
    with sojourn(chosen.sandbox) as ours_environment:
        together = {**ours_environment, "PYTHONPATH": environment["PYTHONPATH"]}
        with ThreadPoolExecutor(chosen.parallel) as pool:
            results = pool.map(lambda suite: run_suite(suite, "sojourn-provisioner", together), suites)
            for suite, ours, beside in zip(suites, results, local, strict=True):
                print(f"{suite.name}, {chosen.sandbox} sandboxes: {tally(ours)}", flush=True)
                if bad := judge(suite, ours, beside, known, chosen.sandbox):
                    again.append((suite, beside, bad))
        return [
            f"{suite.name} {test}" for suite, beside, bad in again for test in once_more(suite, beside, bad, together)
        ]


def once_more(suite: Suite, local: dict[str, Outcome], bad: list[str], environment: Mapping[str, str]) -> list[str]:
    """Those that fail again, by themselves: a machine that was too busy for a moment is told from a defect."""
    print(f"{suite.name}, once more: {', '.join(bad)}", flush=True)
    ours = run_suite(suite, "sojourn-provisioner", environment, only=bad)
    beside = {test: local[test] for test in bad if test in local}
    return judge(suite, {test: ours[test] for test in bad if test in ours}, beside, [], "")


if __name__ == "__main__":
    sys.exit(main())

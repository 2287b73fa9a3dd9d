"""`sojourn doctor`: what this machine needs for sessions that move, and the commands that close the gap."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from sojourn.cli.arguments import AsJson

if TYPE_CHECKING:
    from sojourn.doctor import Finding

MARKS = {"ok": "✓", "degraded": "!", "missing": "✗"}


def add_to(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    as_json: AsJson = False,
    fix: Annotated[bool, typer.Option("--fix", help="Run the cures that need no decision, without asking.")] = False,
    node: Annotated[bool, typer.Option("--node", help="Only what a node needs: no JupyterLab.")] = False,
) -> None:
    """Check what moving sessions need on this machine.

    Each finding comes with the command that cures it here. Exits with 1 if something is missing.
    """
    from sojourn.doctor import Machine, State, cure, examine

    machine = Machine()
    findings = cure(machine, lambda line: print(line, flush=True), node) if fix else examine(machine, node=node)
    if as_json:
        _print_json(findings, machine.is_root)
    else:
        _print(findings, machine.is_root)
    if any(finding.state is State.MISSING for finding in findings):
        raise typer.Exit(1)


def _print_json(findings: list[Finding], is_root: bool) -> None:
    from sojourn.cli.screen import print_json

    print_json(
        [
            dataclasses.asdict(finding)
            | {
                "cure": finding.cure.line(is_root) if finding.cure else None,
                "automatic": bool(finding.cure and finding.cure.automatic),
            }
            for finding in findings
        ]
    )


def _print(findings: list[Finding], is_root: bool) -> None:
    from rich.text import Text

    from sojourn.cli.screen import STYLES, console

    screen = console()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        style = STYLES[finding.state]
        line = Text.assemble((f"{MARKS[finding.state]} ", style), f"{finding.name:{width}}  ", finding.detail)
        screen.print(line, soft_wrap=True)
        if finding.cure and finding.state != "ok":
            how = "cure: " if finding.cure.automatic else "do:   "
            screen.print(Text(f"  {'':{width}}  {how}{finding.cure.line(is_root)}", style="bold"), soft_wrap=True)
    screen.print(Text(_verdict(findings)), soft_wrap=True)


def _verdict(findings: list[Finding]) -> str:
    states = {finding.state.value for finding in findings}
    if "missing" in states:
        return "\nSessions can't move live here yet. `sojourn doctor --fix` runs the cures."
    if "degraded" in states:
        return "\nSojourn works here, with the limits above."
    return "\nSessions can move live on this machine."

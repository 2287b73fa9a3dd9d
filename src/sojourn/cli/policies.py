"""`sojourn policies`: the rules in force, what they would do now and why, and what they did lately."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sojourn.cli.arguments import AsJson
from sojourn.cli.connection import connect

if TYPE_CHECKING:
    from sojourn.client import Decided, Policies

RULES = ("idle", "spot", "right_size", "schedule", "drain")
OVERLAYS = ("users", "sessions", "nodes")


def add_to(app: typer.Typer) -> None:
    app.command()(policies)


def policies(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only what the rules would do now, and why.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the rules, what they would do, and what they did.

    The rules stand in the controller's config.toml, below [policies].
    """
    from sojourn.cli.screen import print_error, print_json

    with connect() as client:
        found = client.policies()
        names = {view.id: view.name or view.id[:8] for view in client.sessions(everything=True)}
    if as_json:
        return print_json(found.decisions if dry_run else found)
    if found.problem:
        print_error(*found.problem.split("\n", 1))
    if not dry_run:
        _print_rules(found)
    _print_now(found, names)
    return None if dry_run else _print_lately(found, names)


def _print_rules(found: Policies) -> None:
    from sojourn.cli.screen import print_table

    print_table(("RULE", "", "SETTINGS"), _rule_rows(found.rules), "", prose=True)
    for forecast in found.forecasts:
        print(f"Leaving {forecast}.")
    print()


def _rule_rows(rules: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name in RULES:
        settings = dict(rules.get(name, {}))
        on, dry_run = settings.pop("on", False), settings.pop("dry_run", False)
        yield name, ("dry run" if dry_run else "on") if on else "off", _settings(settings) if on else ""
    for kind in OVERLAYS:
        for pattern, settings in rules.get(kind, {}).items():
            yield f"{kind} {pattern}", "", _settings(settings)


def _settings(table: Mapping[str, Any], before: str = "") -> str:
    """In one line: `after 45m, idle.in_cells true`."""
    words = [
        _settings(value, f"{before}{name}.") if isinstance(value, Mapping) else f"{before}{name} {_value(value)}"
        for name, value in table.items()
    ]
    return ", ".join(words)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _print_now(found: Policies, names: Mapping[str, str]) -> None:
    from sojourn.cli.screen import print_table

    rows = ((_name(one, names), deed(one), _rule(one), one.why) for one in found.decisions)
    print_table(("SESSION", "WOULD NOW", "RULE", "WHY"), rows, "There is nothing to be done now.", prose=True)


def _print_lately(found: Policies, names: Mapping[str, str]) -> None:
    from sojourn.cli.screen import age, print_table

    if found.done:
        print()
        rows = (
            (age(one.at or 0.0), _name(one, names), deed(one), _rule(one), outcome(one), one.why) for one in found.done
        )
        print_table(("WHEN", "SESSION", "DID", "RULE", "OUTCOME", "WHY"), rows, "", prose=True)


def deed(one: Decided) -> str:
    return f"{one.kind} to {one.target}" if one.target else one.kind


def outcome(one: Decided) -> str:
    """What became of it, in a few words."""
    if one.error:
        return f"failed: {one.error.get('message', '')}"
    if one.dry_run or one.kind == "propose":
        return "only said"
    return "done" if one.ended_at else "under way"


def _rule(one: Decided) -> str:
    return f"{one.rule} (dry run)" if one.dry_run else one.rule


def _name(one: Decided, names: Mapping[str, str]) -> str:
    return names.get(one.session, one.session[:8])

"""`sojourn savings`: what suspending idle sessions saves, and how long people wait for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sojourn.cli.arguments import AsJson

if TYPE_CHECKING:
    from sojourn.policies import Rules
    from sojourn.savings import Comparison, Event, Sensitivity, Setting

USERS, DAYS, SEED = 50, 30, 1
"""The reference trace, which is taken where none is given."""
DISCOUNTS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8)
"""Of those that are varied, the ones there is room for on a screen."""

savings_app = typer.Typer(rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    app.add_typer(savings_app, name="savings")


@savings_app.callback(invoke_without_command=True)
def savings(
    context: typer.Context,
    trace: Annotated[
        Path | None, typer.Option(help="What people did, as .csv or .jsonl. Else: the reference trace.")
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(help="What nodes and storage cost, as .toml. Else: those shipped.")
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(help="A .toml with [policies]. Else: suspend after 30 idle minutes.")
    ] = None,
    measured: Annotated[Path | None, typer.Option(help="What `python -m bench suspend --json` has printed.")] = None,
    kind: Annotated[str | None, typer.Option(help="Which node of the price table. Else: its first.")] = None,
    spare: Annotated[
        int | None, typer.Option(min=0, help="For so many more sessions there is always room. Else: 4.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw a picture: .svg, .png or .pdf.")] = None,
    sensitivity: Annotated[bool, typer.Option("--sensitivity", help="Also vary timeout, discount and wakes.")] = False,
    seed: Annotated[int, typer.Option(help="For evictions, wakes and the reference trace.")] = SEED,
    as_json: AsJson = False,
) -> None:
    """Say what suspending idle sessions saves.

    Replays a trace of people's work through the policies, on nodes that come and go, against sessions that run on and
    sessions that are culled.
    """
    if context.invoked_subcommand:
        return
    from sojourn.savings import compare, vary

    events, chosen, setting = _trace(trace, seed), _rules(rules), _setting(prices, measured, kind, spare, seed)
    compared = compare(events, setting, chosen)
    varied = vary(events, setting, chosen) if sensitivity or plot else None
    if plot and varied:
        from sojourn.savings.plots import draw

        draw(compared, varied, setting, plot)
    if as_json:
        _print_json(compared, varied if sensitivity else None, events, setting)
    else:
        _print(compared, varied if sensitivity else None, setting)


@savings_app.command()
def generate(
    users: Annotated[int, typer.Option(min=1, help="How many people.")] = USERS,
    days: Annotated[int, typer.Option(min=1, help="How many days, from a Monday on.")] = DAYS,
    seed: Annotated[int, typer.Option(help="The same seed, the same trace.")] = SEED,
    visits: Annotated[float | None, typer.Option(min=0, help="Visits of a person a day. Else: 0.17.")] = None,
    out: Annotated[Path | None, typer.Option(help="A .csv. Else: to the screen.")] = None,
) -> None:
    """Invent a trace, of people with habits that were published.

    docs/savings.md has the sources.
    """
    from sojourn.errors import Invalid
    from sojourn.savings import Habits, invent, write_trace

    habits = Habits() if visits is None else Habits(visits_per_day=visits)
    events = invent(habits, users, days, seed)
    if out is None:
        write_trace(events, sys.stdout)
        return
    try:
        with out.open("w", newline="") as file:
            write_trace(events, file)
    except OSError as wrong:
        raise Invalid(f"{out} can't be written: {wrong}", "Choose another file with --out.") from wrong
    print(f"{out}: {len(events)} events.")


def _trace(path: Path | None, seed: int) -> list[Event]:
    from sojourn.savings import Habits, invent, read_trace

    return read_trace(path) if path else invent(Habits(), USERS, DAYS, seed)


def _rules(path: Path | None) -> Rules:
    import tomllib

    from sojourn.errors import Invalid
    from sojourn.policies import Rules

    if path is None:
        return Rules.read({"idle": {}})
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as wrong:
        raise Invalid(f"{path} can't be read as rules: {wrong}", "It wants a table [policies].") from wrong
    return Rules.read(table.get("policies", {}))


def _setting(prices: Path | None, measured: Path | None, kind: str | None, spare: int | None, seed: int) -> Setting:
    from sojourn.savings import Setting, Terms, Times, read_prices, read_times

    table = read_prices(prices) if prices else read_prices()
    times = read_times(measured, Times()) if measured else Times()
    terms = Terms() if spare is None else Terms(spare_sessions=spare)
    return Setting(table, table.kind(kind), times, terms, seed)


def _print(compared: Comparison, varied: Sensitivity | None, setting: Setting) -> None:
    from sojourn.cli.screen import print_table

    columns = (
        "",
        f"COST {setting.prices.currency}",
        "CHEAPER",
        "NODE HOURS",
        "WAITS",
        "MEDIAN",
        "99TH",
        "ALL WAITS",
        "RERUN",
    )
    print_table(columns, map(_row, compared.rows()), "")
    kind = setting.kind
    print(f"\n{kind.name} at {kind.on_demand:g} an hour, spot {kind.spot:g}; prices of {setting.prices.as_of}.")
    if varied:
        _print_sensitivity(varied)


def _print_sensitivity(varied: Sensitivity) -> None:
    from sojourn.cli.screen import print_table

    idle = [(f"{minutes} min", f"{full:.1f}×", f"{spot:.1f}×") for minutes, (full, spot) in varied.idle.items()]
    spare = [(str(sessions), f"{full:.1f}×", f"{spot:.1f}×") for sessions, (full, spot) in varied.spare.items()]
    wakes = [(f"{wake:g} s", *map(_seconds, waits)) for wake, waits in varied.wake.items()]
    print()
    print_table(("SUSPENDED AFTER", "CHEAPER", "ON SPOT"), idle, "")
    print()
    print_table(("EVICTIONS A DAY", *(f"{100 * discount:.0f} % OFF" for discount in DISCOUNTS)), _spot_rows(varied), "")
    print()
    print_table(("ROOM TO SPARE FOR", "CHEAPER", "ON SPOT"), spare, "")
    print()
    print_table(("A WAKE TAKES", "99TH WAIT", "WITHOUT ROOM TO SPARE"), wakes, "")


def _spot_rows(varied: Sensitivity) -> list[tuple[str, ...]]:
    return [
        (f"{rate:g}", *(f"{factors[discount]:.1f}×" for discount in DISCOUNTS)) for rate, factors in varied.spot.items()
    ]


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    waited = row["waits"] > 0
    return (
        row["regime"],
        f"{row['cost']:.2f}",
        f"{row['factor']:.1f}×",
        f"{row['node_hours']:.0f}",
        str(row["waits"]),
        _seconds(row["wait_s"]["median"]) if waited else "–",
        _seconds(row["wait_s"]["p99"]) if waited else "–",
        f"{row['waited_hours']:.1f} h",
        f"{row['rerun_hours']:.1f} h",
    )


def _seconds(seconds: float) -> str:
    from sojourn.cli.screen import duration

    return duration(seconds)


def _print_json(compared: Comparison, varied: Sensitivity | None, events: list[Event], setting: Setting) -> None:
    from dataclasses import asdict

    from sojourn.cli.screen import print_json

    print_json(
        {
            "trace": {
                "events": len(events),
                "sessions": len({one.session for one in events}),
                "seconds": _span(events),
            },
            "prices": {
                "as_of": setting.prices.as_of,
                "currency": setting.prices.currency,
                "node": asdict(setting.kind),
            },
            "times": asdict(setting.times),
            "terms": asdict(setting.terms),
            "regimes": compared.rows(),
            **({"sensitivity": varied.to_json()} if varied else {}),
        }
    )


def _span(events: list[Event]) -> float:
    return round(events[-1].at - events[0].at, 1)

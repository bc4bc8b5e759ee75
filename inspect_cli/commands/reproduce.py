"""``inspect reproduce``: run a paper's table again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from inspect_cli import console
from inspect_cli.commands.options import Json, parse_budget, parse_names
from inspect_cli.reproduce.registry import TABLES


def reproduce(
    table: Annotated[
        str | None,
        typer.Argument(
            metavar="TABLE",
            help=f"{', '.join(TABLES)}. Without one, all are listed with what they show and need.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Data of the tables that do not generate theirs.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for rows, images, models and scores.")] = Path(
        "reproduce"
    ),
    methods: Annotated[
        str | None,
        typer.Option("--methods", help="Rows to measure, by method, separated by commas.", show_default="all"),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Steps or time for each training.", show_default="the table's"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of data and training.")] = 0,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Number of seeds, counted up from --seed; rows for each.")
    ] = 1,
    force: Annotated[bool, typer.Option("--force", help="Measure rows again that are there already.")] = False,
    as_json: Json = False,
) -> None:
    """Run a paper's table again, beside the paper's numbers.

    Each row is one training. A run that was ended goes on where it stopped: rows measured with the same data,
    budget and seed are kept. TABLE.csv in the folder holds all of them.

    \b
    Examples:
      inspect reproduce
      inspect reproduce chess-noise
      inspect reproduce mnist --data mnist_one.npz --budget 60s
      inspect reproduce mvtec-auroc --data mvtec/carpet --methods direct --seeds 8
    """  # noqa: D301
    if table is None:
        _list_tables(as_json)
        return
    from inspect_cli.reproduce.layout import as_table
    from inspect_cli.reproduce.run import Request
    from inspect_cli.reproduce.run import reproduce as run_again
    from inspect_cli.stopping import Stopped

    names = parse_names(methods)
    chosen = None if names is None else tuple(names)
    asked = None if budget is None else parse_budget(budget)
    try:
        rows = run_again(Request(table, out, data, asked, seed, seeds, chosen, force), console)
    except Stopped as stopped:
        console.say("interrupted; the same command goes on with the row in hand")
        raise typer.Exit(stopped.exit_code) from None
    if as_json:
        for row in rows:
            console.out(json.dumps(row))
    else:
        console.out(as_table(rows))
    console.say(f"written: {out / f'{table}.csv'}")


def _list_tables(as_json: bool) -> None:
    """Print every table: what it shows, where it stands, what it needs."""
    from dataclasses import asdict

    for name, table in TABLES.items():
        if as_json:
            shown = {key: value for key, value in asdict(table).items() if key not in ("module", "name")}
            console.out(json.dumps({"table": name, **shown}))
            continue
        console.out(f"{name}: {table.about} ({table.source})")
        console.out(f"    methods {', '.join(table.methods)}; budget {table.budget}")
        if table.data:
            console.out(f"    --data: {table.data}")

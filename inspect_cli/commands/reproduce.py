"""``inspect reproduce``: run a paper's table again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspect_cli.commands.options import Json

if TYPE_CHECKING:
    from inspect_cli.reproduce.tables import Row


def reproduce(
    table: Annotated[str, typer.Argument(help="chess-noise: IND Table 1.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for data, models and the CSV file.")] = Path("reproduce"),
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Steps or time for each method.", show_default="the table's"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of data and training.")] = 0,
    as_json: Json = False,
) -> None:
    """Run a paper's table again and print it beside the paper's numbers; also written as CSV.

    \b
    Examples:
      inspect reproduce chess-noise
      inspect reproduce chess-noise --budget 300steps --out quick
    """  # noqa: D301
    from dataclasses import asdict

    from inspect_cli import console
    from inspect_cli.reproduce import reproduce as run_again

    rows = run_again(table, out, budget, seed, console)
    if as_json:
        for row in rows:
            console.out(json.dumps(asdict(row)))
        return
    console.out(
        f"{'data':<8}{'method':<8}{'A':>8}{'paper':>8}{'IoU':>8}{'paper':>8}{'time s':>9}{'paper':>8}{'steps':>8}"
    )
    for row in rows:
        console.out(_line(row))
    console.say(f"written: {out / (table + '.csv')}; seed {seed}")


def _line(row: Row) -> str:
    return (
        f"{row.data:<8}{row.method:<8}{row.recall:>8.4f}{row.paper_recall:>8.4f}{row.iou:>8.4f}{row.paper_iou:>8.4f}"
        f"{row.train_s:>9.1f}{row.paper_train_s:>8.0f}{row.steps:>8}"
    )

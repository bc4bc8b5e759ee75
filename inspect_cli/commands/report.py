"""``inspect report``: turn a run folder into one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inspect_cli import console


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a folder with exactly one run in it.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The page to write.", show_default="RUN/report.html"),
    ] = None,
    top: Annotated[
        int,
        typer.Option("--top", min=0, help="Parts shown with pictures, worst first (some 0.6 MB each)."),
    ] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the path.")] = False,
) -> None:
    """Write one HTML page about a run.

    It holds verdicts, pictures, regions and times, and needs no network and no other file; links lead to the
    full-size files in the run folder.

    \b
    Examples:
      inspect report batch
      inspect report batch/inspection/riblet --out monday.html --top 20
    """  # noqa: D301
    from inspect_cli.report.html import write_report
    from inspect_cli.store.run_lookup import find_run

    folder = find_run(run)
    page = write_report(folder, out, top)
    console.out(_as_json(page, folder) if as_json else str(page))


def _as_json(page: Path, run: Path) -> str:
    import json

    return json.dumps({"report": str(page), "run": str(run), "bytes": page.stat().st_size})

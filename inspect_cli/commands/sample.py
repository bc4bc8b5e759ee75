"""``inspect sample``: generate a batch of parts with known defects."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspect_cli import console
from inspect_cli.commands.options import parse_names, parse_size

if TYPE_CHECKING:
    from inspect_cli.sample.batch import Summary
    from inspect_cli.sample.plan import Batch, Planned


def sample(
    material: Annotated[
        str, typer.Argument(metavar="MATERIAL", help="riblet, steel, chess or noise.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write the batch to.", show_default=False)],
    parts: Annotated[int, typer.Option("--parts", help="Parts of the batch, good and defective.")] = 8,
    defective: Annotated[
        int | None,
        typer.Option("--defective", help="How many of them are defective.", show_default="half of them"),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="WIDTHxHEIGHT",
            help="Size in px.",
            show_default="riblet 5496x3672, steel 2336x4000, else 512x512",
        ),
    ] = None,
    maps: Annotated[
        str | None,
        typer.Option("--maps", help="Maps to write, separated by commas.", show_default="all of the material"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same files.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a batch in the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line: what was written.")] = False,
) -> None:
    """Generate a batch of parts with known defects.

    Riblet foil and steel plate come as the maps of a photometric-stereo rig (albedo, normal, gradient,
    curvature), chess and noise as single gray images. Good parts go to train/good and test/good,
    defective ones to test/KIND, their masks and boxes to ground_truth.

    \b
    Examples:
      inspect sample riblet --out demo/riblet --size 1200x800
      inspect sample steel --out demo/steel --maps gradient --parts 12
      inspect sample chess --out demo/chess --seed 7
    """  # noqa: D301
    from inspect_cli.sample.plan import plan_batch

    size_px = parse_size(size) if size is not None else None
    map_names = parse_names(maps, "--maps")
    batch = plan_batch(material, parts, defective, size_px, map_names, seed)
    _report(_write(batch, out, force), as_json)


def _write(batch: Batch, out: Path, force: bool) -> Summary:
    """Write the batch, with a progress bar on a terminal and one line a part elsewhere."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from inspect_cli.sample.batch import write_batch

    if not sys.stderr.isatty():
        return write_batch(batch, out, force, lambda part: console.say(f"{part.folder}/{part.stem}"))
    columns = (
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[part]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(batch.material, total=len(batch.parts), part="")

        def advance(part: Planned) -> None:
            progress.update(task, advance=1, part=part.name)

        return write_batch(batch, out, force, advance)


def _report(summary: Summary, as_json: bool) -> None:
    import json
    from dataclasses import asdict

    if as_json:
        console.out(json.dumps(asdict(summary)))
        return
    written = f"{summary.parts} parts, {summary.files} files, {summary.bytes / 1e6:.1f} MB"
    console.out(f"{summary.out}: {written} in {summary.seconds:.1f} s")

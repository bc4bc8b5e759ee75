"""``inspect bench``: measure this installation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from inspect_cli.commands.options import Device, EngineName, Json, Method, Models, Precision, parse_names
from inspect_cli.errors import UsageError

app = typer.Typer(help="Measure this installation.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Keep ``speed`` a subcommand."""


@app.command()
def speed(
    material: Annotated[str, typer.Option("--material", "-m", help="Material whose network is run.")] = "riblet",
    models: Models = None,
    method: Method = None,
    map_name: Annotated[
        str | None, typer.Option("--map", help="Map whose network is run.", show_default="the first")
    ] = None,
    sizes: Annotated[
        str,
        typer.Option("--size", help="Size of the map, px; more, separated by commas, are measured with `score`."),
    ] = "5496x3672",
    strides: Annotated[
        str, typer.Option("--stride", help="Step between tiles, px; more, separated by commas, as with --size.")
    ] = "64",
    contenders: Annotated[
        str,
        typer.Option(
            "--contenders", help="Of score, network, plain-loop, monai, anomalib; those not installed are left out."
        ),
    ] = "score,network,plain-loop,monai,anomalib",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs of each; the median counts.")] = 5,
    device: Device = "auto",
    engine: EngineName = "auto",
    precision: Precision = "f32",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for speed.csv and speed.png.")] = None,
    as_json: Json = False,
) -> None:
    """Time the scoring of one generated map, beside other ways to run the same network on it.

    Each contender runs in a process of its own, whose peak memory is told. `network` is the network alone, on tiles
    cut beforehand; `plain-loop` is torch with numpy, as one would write it; `monai` and `anomalib` are measured if
    they are installed. Everything else on the machine should be quiet.

    \b
    Examples:
      inspect bench speed
      inspect bench speed --contenders score,network --repeats 3
      inspect bench speed --contenders score --size 2748x1836,5496x3672,10992x7344 --out scaling
    """  # noqa: D301
    from inspect_cli import console
    from inspect_cli.benchmark.machine import description
    from inspect_cli.benchmark.speed import SpeedOrder, as_line, check_contenders, measure_speed, write_results
    from inspect_cli.engines import Hardware
    from inspect_cli.store.bundle import find_bundle
    from inspect_cli.store.materials import find_material

    names = parse_names(contenders) or []
    check_contenders(names)
    chosen = find_material(material, models)
    bundle = find_bundle(chosen.folder, method)
    order = SpeedOrder(
        chosen,
        bundle,
        map_name or next(iter(bundle.manifest.maps)),
        [_size(text) for text in sizes.split(",")],
        [_stride(text, bundle.manifest.tile_px) for text in strides.split(",")],
        names,
        repeats,
        Hardware(device, 0, engine, precision),
    )
    machine = description()
    console.say(f"{machine}; model {bundle.folder}, map {order.map_name}; medians of {repeats}")
    result = measure_speed(order, lambda row: None if as_json else console.out(as_line(row)), console.say)
    if as_json:
        console.out(json.dumps({"machine": machine, "rows": result.rows, "ratios": result.ratios}))
    else:
        for name, value in result.ratios.items():
            console.out(f"{name}: {value:.2f}")
    if out is not None:
        write_results(out, result, f"seconds, {material} {order.map_name}")
        console.say(f"written: {out}/speed.csv, {out}/speed.png")


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*([1-9]\d*)x([1-9]\d*)\s*", text)
    if found is None:
        raise UsageError(f"--size {text}: give WIDTHxHEIGHT in px, such as 5496x3672")
    return int(found[1]), int(found[2])


def _stride(text: str, tile_px: int) -> int:
    if not text.strip().isdecimal() or not 1 <= int(text) <= tile_px:
        raise UsageError(f"--stride {text}: give whole numbers from 1 to the tile's {tile_px} px")
    return int(text)

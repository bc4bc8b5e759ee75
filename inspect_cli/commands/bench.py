"""``inspect bench``: measure this installation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from inspect_cli import console
from inspect_cli.commands.options import (
    Device,
    EngineName,
    Json,
    Method,
    Models,
    Precision,
    parse_budget,
    parse_names,
    parse_size,
)
from inspect_cli.errors import UsageError

app = typer.Typer(help="Measure this installation.", no_args_is_help=True)


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
        str | None,
        typer.Option(
            "--stride",
            help="Step between tiles, px; more, separated by commas, as with --size.",
            show_default="the material's",
        ),
    ] = None,
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
    """Time the scoring of a map beside other ways to do it.

    The map is generated, and the network is the same for all. Each contender runs in a process of its own, whose
    peak memory is reported. `network` is the network alone, on tiles cut beforehand; `plain-loop` is torch with
    numpy, as one would write it; `monai` and `anomalib` are measured if they are installed. Everything else on the
    machine should be quiet.

    \b
    Examples:
      inspect bench speed
      inspect bench speed --contenders score,network --repeats 3
      inspect bench speed --contenders score --size 2748x1836,5496x3672,10992x7344 --out scaling
    """  # noqa: D301
    from inspect_cli.benchmark.machine import description
    from inspect_cli.benchmark.speed import SpeedOrder, as_line, check_contenders, measure_speed, write_results
    from inspect_cli.engines import Hardware
    from inspect_cli.material.bundle import find_bundle
    from inspect_cli.material.materials import find_material
    from inspect_cli.tiles.tiling import tiling_of

    names = parse_names(contenders, "--contenders") or []
    check_contenders(names)
    chosen = find_material(material, models)
    bundle = find_bundle(chosen.folder, method)
    tiles = tiling_of(chosen.recipe, bundle.manifest.tile_px)
    order = SpeedOrder(
        chosen,
        bundle,
        map_name or next(iter(bundle.manifest.maps)),
        [parse_size(text) for text in sizes.split(",")],
        [tiles.stride_px] if strides is None else [_stride(text, tiles.size_px) for text in strides.split(",")],
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


@app.command()
def detect(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DATA...", help="Folders with train, test and ground_truth.")
    ],
    methods: Annotated[
        str, typer.Option("--methods", help="Methods, separated by commas.")
    ] = "auto,feature-direct,feature-ae,direct,cae,patchcore",
    budget: Annotated[str, typer.Option("--budget", help="Time (90s, 8m) or steps of each training.")] = "8m",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of split, patches and network.")] = 0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Number of seeds, counted up from --seed.")] = 1,
    roi: Annotated[str, typer.Option("--roi", help="Rule of the ROI: none, saturated, dark or foreground.")] = "none",
    out: Annotated[
        Path, typer.Option("--out", help="Folder for detect.csv; rows in it are kept, by the data folder's name.")
    ] = Path("detect"),
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            help="Folder in which each model, with the pictures of its training, and its run stay.",
            show_default="they are removed",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train methods on data sets and measure what they find.

    The sets are in the MVTec layout: train/good, test/KIND, ground_truth/KIND. Every method gets the same budget,
    default settings, and the same way to its scores; patchcore is there to compare with and uses up no budget. A run
    that was ended goes on where it stopped.

    \b
    Examples:
      inspect bench detect mvtec/carpet mvtec/grid --budget 2m
      inspect bench detect fabric --methods auto,patchcore --seeds 3 --roi saturated --json
      inspect bench detect casting --methods auto --budget 5m --keep kept
    """  # noqa: D301
    from inspect_cli.benchmark.detect import DetectOrder, as_line, check_order, means, measure_detection
    from inspect_cli.stopping import Stopped

    names = parse_names(methods, "--methods") or []
    order = DetectOrder(folders, names, range(seed, seed + seeds), parse_budget(budget), roi, out, keep)
    check_order(order)
    try:
        rows = measure_detection(
            order, console, lambda row: console.out(json.dumps(row) if as_json else as_line(row))
        )
    except Stopped as stopped:
        console.say("interrupted; the same command goes on with the row in hand")
        raise typer.Exit(stopped.exit_code) from None
    for row in means(rows):
        console.say(f"mean of {row['rows']}: {as_line(row)}")
    console.say(f"written: {out}/detect.csv")


def _stride(text: str, tile_px: int) -> int:
    if not text.strip().isdecimal() or not 1 <= int(text) <= tile_px:
        raise UsageError(f"--stride {text}: give whole numbers from 1 to the tile's {tile_px} px")
    return int(text)

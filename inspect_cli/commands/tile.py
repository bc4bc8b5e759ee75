"""``inspect tile``: cut maps into patches."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inspect_cli import console
from inspect_cli.commands.options import Json, Models, Stride, parse_names
from inspect_cli.errors import InputError, NoInputError, UsageError

if TYPE_CHECKING:
    from inspect_cli.export.tiles import PartTiles, TileOrder
    from inspect_cli.images import Part

#: Small files a second that a disk takes with each one made safe; only for the plan's estimate.
FILES_PER_S = 400


def tile(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Batch folder, read recursively.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the patches and their index.", show_default=False)],
    material: Annotated[
        str | None, typer.Option("--material", "-m", help="Recipe to use.", show_default="maps by file name")
    ] = None,
    maps: Annotated[str | None, typer.Option("--maps", help="Maps, separated by commas.")] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Side of a patch, px.", show_default="the recipe's")
    ] = None,
    stride: Stride = None,
    random: Annotated[int, typer.Option("--random", min=0, help="Cut N random patches a part, not a grid.")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of --random.")] = 0,
    min_roi_share: Annotated[
        float,
        typer.Option("--min-roi-share", min=0, max=1, help="Leave out patches with less ROI than this."),
    ] = 0.0,
    preview: Annotated[
        bool, typer.Option("--preview", help="Also draw the patches on a picture of each part.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print tiles, bytes and time; write nothing.")] = False,
    models: Models = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds patches.")] = False,
    as_json: Json = False,
) -> None:
    """Cut maps into patches for other tools.

    Patches are TIFF files of the same bit depth; an index of them is written as CSV and Parquet.

    \b
    Examples:
      inspect tile sample_data/riblet/train --out patches --material riblet
      inspect tile batch/ --out patches --random 200 --preview
      inspect tile batch/ --out patches --plan
    """  # noqa: D301
    from inspect_cli.export.tiles import check_out, cut_parts, place_parts
    from inspect_cli.images import discover_parts

    if random and stride is not None:
        raise UsageError("--stride: random places have none; leave it or --random out")
    if plan and preview:
        raise UsageError("--preview: a plan writes nothing; leave it or --plan out")
    failed: list[str] = []

    def note(part: str, error: InputError) -> None:
        failed.append(part)
        console.say(f"failed: {error}")

    order = _order(folder, material, models, parse_names(maps, "--maps"), size, stride, random, seed, min_roi_share)
    parts = discover_parts(folder, order.maps, order.recipe.maps)
    if not plan:
        check_out(out, parts, force)
    placed = place_parts(parts, order, note)
    if few := [part.id for part, places in placed if random and len(places.positions) < random]:
        console.warn(f"{len(few)} part(s) have fewer than {random} places for a patch: {', '.join(few[:3])}")
    if small := [part.id for part, places in placed if min(places.height, places.width) < order.size_px]:
        console.warn(
            f"{len(small)} part(s) are smaller than a patch of {order.size_px} px, which is filled up with their "
            f"mirror image: {', '.join(small[:3])}; give a smaller --size to avoid that"
        )
    cut = placed
    spent: dict[str, Any] = {}
    if not plan:
        started = time.monotonic()
        with console.progress("cutting") as update:
            cut = cut_parts(out, placed, order, preview, note, update)
        spent = {"seconds": round(time.monotonic() - started, 2), "out": str(out)}
    _tell(_totals(cut, order, len(failed)) | spent, as_json)
    if failed:
        raise typer.Exit(InputError.exit_code if cut else NoInputError.exit_code)


def _order(
    folder: Path,
    material: str | None,
    models: Path | None,
    names: list[str] | None,
    size: int | None,
    stride: int | None,
    random: int,
    seed: int,
    min_roi_share: float,
) -> TileOrder:
    from inspect_cli.export.tiles import TileOrder
    from inspect_cli.images.infer import infer_maps
    from inspect_cli.material.materials import find_material
    from inspect_cli.recipe.template import new_recipe
    from inspect_cli.tiles.tiling import TILE_PX, suited_stride_px

    if material is None:
        recipe, recipe_folder = new_recipe("tiles", infer_maps(folder)), folder
    else:
        found = find_material(material, models)
        recipe, recipe_folder = found.recipe, found.folder
    unknown = sorted(set(names or []) - set(recipe.maps))
    if unknown:
        raise UsageError(f"--maps {', '.join(unknown)}: not among {', '.join(recipe.maps)}")
    side = size if size is not None else recipe.tiles.size_px or TILE_PX
    if not 8 <= side <= 1024:
        raise UsageError(f"--size {side}: must be 8 to 1024 px")
    step = stride if stride is not None else min(recipe.tiles.stride_px or suited_stride_px(side), side)
    if not 1 <= step <= side:
        raise UsageError(f"--stride {step}: must be 1 to the patch size, {side} px")
    maps = {name: recipe.maps[name] for name in names or recipe.maps}
    return TileOrder(recipe, recipe_folder, maps, side, step, random, seed, min_roi_share)


def _totals(placed: list[tuple[Part, PartTiles]], order: TileOrder, failed: int) -> dict[str, Any]:
    files = sum(len(places.positions) for _, places in placed) * len(order.maps)
    size = sum(len(places.positions) * places.bytes_each for _, places in placed)
    return {
        "parts": len(placed),
        "failed": failed,
        "maps": list(order.maps),
        "tiles": files,
        "bytes": size,
        "estimated_s": round(files / FILES_PER_S, 1),
    }


def _tell(totals: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.out(json.dumps(totals))
        return
    took = f"{totals['seconds']} s" if "seconds" in totals else f"about {totals['estimated_s']} s"
    console.out(
        f"{totals['tiles']} tiles of {totals['parts']} part(s), maps {', '.join(totals['maps'])}: "
        f"{totals['bytes'] / 1e6:.1f} MB, {took}"
    )

"""Patches written to files with an index: the data set a network sees, for other tools."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import tifffile
from numpy.typing import NDArray

from inspect_cli.arrays import Mask
from inspect_cli.errors import InputError, OutputError, UsageError
from inspect_cli.images import Part, find_roi, open_map
from inspect_cli.images.contract import checked_headers
from inspect_cli.images.parts import file_within
from inspect_cli.images.reduced import BlockReducer, preview_scale
from inspect_cli.images.roi import shares_inside
from inspect_cli.images.values import ValueRange
from inspect_cli.pictures.previews import save_tile_grid
from inspect_cli.recipe import MapSpec, Recipe
from inspect_cli.store.atomic import write_json, write_text, write_with
from inspect_cli.store.cells import csv_text
from inspect_cli.store.layout import TILE_INDEX
from inspect_cli.store.lock import lock_folder
from inspect_cli.store.parquet import read_parquet, write_parquet
from inspect_cli.store.paths import check_is_text, lies_in
from inspect_cli.tiles.grid import Grid, pad_to_tile

#: The parts of a cut that has not come to its end.
_NOTE: Final = ".cut.json"
_TILE_NAME: Final = re.compile(r"y\d{5,}_x\d{5,}\.tif")
COLUMNS: Final = ("file", "part", "map", "x_px", "y_px", "roi_share")

#: Is told the part and what is wrong with it.
OnFault = Callable[[str, InputError], None]


@dataclass(frozen=True)
class TileOrder:
    """What to cut: grid or random places, on which maps."""

    recipe: Recipe
    recipe_folder: Path
    maps: Mapping[str, MapSpec]
    size_px: int
    stride_px: int
    random: int
    seed: int
    min_roi_share: float


@dataclass(frozen=True)
class PartTiles:
    """Places of a part's tiles: first pixel (y, x) each, and their ROI share."""

    height: int
    width: int
    positions: NDArray[np.int64]
    roi_share: NDArray[np.float64]
    bytes_each: int


def place_tiles(part: Part, order: TileOrder) -> PartTiles:
    """Return where a part's tiles lie; reads headers, and pixels only if a rule needs them for the ROI.

    Raises
    ------
    InputError
        If a map is missing or breaks the contract.
    """
    headers = checked_headers(part, order.maps, order.recipe.size_px)
    first = next(iter(headers.values()))
    tile = order.size_px
    roi = find_roi(order.recipe, part, order.recipe_folder, (first.height, first.width))
    positions = _positions(part, order, first.height, first.width, roi)
    share = _roi_share(roi, positions, tile)
    keep = share >= order.min_roi_share
    size = sum(h.channels * h.dtype.itemsize for h in headers.values()) * tile * tile
    return PartTiles(first.height, first.width, positions[keep], share[keep], size)


def _positions(part: Part, order: TileOrder, height: int, width: int, roi: Mask | None) -> NDArray[np.int64]:
    tile = order.size_px
    if not order.random:
        return Grid(height, width, tile, order.stride_px).positions()
    seed = np.random.SeedSequence([order.seed, *part.id.encode()])
    rng = np.random.default_rng(seed)
    drawn = np.empty((0, 2), np.int64)
    for _ in range(50):  # places are never taken twice: a narrow ROI, or a small image, may have too few
        more = np.stack(
            [
                rng.integers(max(1, height - tile + 1), size=order.random),
                rng.integers(max(1, width - tile + 1), size=order.random),
            ],
            axis=1,
        )
        good = _roi_share(roi, more, tile) >= order.min_roi_share
        drawn = np.concatenate([drawn, more[good]])
        drawn = drawn[np.sort(np.unique(drawn, axis=0, return_index=True)[1])]
        if len(drawn) >= order.random:
            break
    if roi is not None and len(drawn) < order.random:  # few places, or few that a blind draw finds
        drawn = np.concatenate([drawn, _other_places(roi, tile, order, drawn, rng)])
    drawn = drawn[: order.random]
    return drawn[np.lexsort((drawn[:, 1], drawn[:, 0]))]


def _other_places(
    roi: Mask, tile_px: int, order: TileOrder, drawn: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return all places (n, 2) that lie inside enough and were not drawn yet, in random order."""
    fits = shares_inside(roi, tile_px) >= order.min_roi_share - 1e-6
    fits[drawn[:, 0], drawn[:, 1]] = False
    places = np.argwhere(fits)
    return places[rng.permutation(len(places))[: order.random]]


def _roi_share(roi: Mask | None, positions: NDArray[np.int64], tile_px: int) -> NDArray[np.float64]:
    if roi is None:
        return np.ones(len(positions))
    return np.array([roi[y : y + tile_px, x : x + tile_px].mean() for y, x in positions])


def write_tiles(out: Path, part: Part, order: TileOrder, places: PartTiles) -> list[dict[str, Any]]:
    """Write a part's tiles as TIFF in the maps' own type; return their index rows.

    Raises
    ------
    InputError
        If a map is damaged.
    """
    rows: list[dict[str, Any]] = []
    for name in order.maps:
        for number, tile in enumerate(_cut(part.files[name], places, order.size_px)):
            y, x = (int(v) for v in places.positions[number])
            relative = f"{part.id}/{name}/y{y:05d}_x{x:05d}.tif"
            write_with(out / relative, partial(_write_tile, tile))
            share = round(float(places.roi_share[number]), 4)
            row = {"file": relative, "part": part.id, "map": name, "x_px": x, "y_px": y, "roi_share": share}
            rows.append(row)
    return rows


def place_parts(parts: Sequence[Part], order: TileOrder, on_fault: OnFault) -> list[tuple[Part, PartTiles]]:
    """Return the parts whose tiles can be placed, with their places; ``on_fault`` is told of the others."""
    placed = []
    for part in parts:
        try:
            placed.append((part, place_tiles(part, order)))
        except InputError as error:
            on_fault(part.id, error)
    return placed


def cut_parts(
    out: Path,
    placed: Sequence[tuple[Part, PartTiles]],
    order: TileOrder,
    preview: bool,
    on_fault: OnFault,
    on_part: Callable[[float, str], None],
) -> list[tuple[Part, PartTiles]]:
    """Write the tiles of parts, with a ``preview`` of where they lie, and the index; return what was cut.

    ``on_fault`` is told of parts that are damaged, of which nothing is left; ``on_part`` which share is done.

    Raises
    ------
    LockedError
        If another process cuts into the same folder.
    """
    with lock_folder(out, f"{out}: another run is writing here; wait for it or choose another --out"):
        begin_cut(out, [part.id for part, _ in placed])
        rows: list[dict[str, Any]] = []
        cut = []
        for number, (part, places) in enumerate(placed, 1):
            try:
                own = write_tiles(out, part, order, places)
                if preview:
                    write_grid_picture(out / f"{part.id}_grid.png", part, order, places)
            except InputError as error:
                _remove_part(out, part.id)
                on_fault(part.id, error)
                continue
            rows += own
            cut.append((part, places))
            on_part(number / len(placed), part.id)
        end_cut(out, rows)
    return cut


def begin_cut(out: Path, parts: Iterable[str]) -> None:
    """Note in ``out`` that ``parts`` are being cut, after removing what an earlier cut left there.

    That is what its index lists, and what its note says if it was interrupted; an empty index keeps the folder known
    as one of tiles meanwhile.

    Raises
    ------
    OutputError
        If something cannot be removed or written, or index or note are damaged.
    """
    index, note = out / TILE_INDEX, out / _NOTE
    try:
        before: set[Any] = set()
        if index.is_file():
            before |= set(read_parquet(index, ["part"])["part"].to_pylist())
        if note.is_file():
            before |= set(json.loads(note.read_text(encoding="utf-8")))
        write_json(note, sorted({part for part in before if isinstance(part, str)} | set(parts)))
        for part in before:
            if isinstance(part, str):
                _remove_part(out, part)
                _remove(out, out / f"{part}_grid.png")
        write_index(out, [])
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise OutputError(f"{out}: an earlier cut cannot be removed ({error}); choose another --out") from error


def end_cut(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the index of what was cut, and take the note of the cut away."""
    write_index(out, rows)
    (out / _NOTE).unlink(missing_ok=True)


def _remove_part(out: Path, part: str) -> None:
    """Remove the tiles of a part."""
    for path in (out / part).glob("*/y*_x*.tif"):
        if _TILE_NAME.fullmatch(path.name):
            _remove(out, path)


def _remove(out: Path, path: Path) -> None:
    """Remove a file, unless a link or an index that anyone may have written leads out of ``out``."""
    if lies_in(path, out):
        path.unlink(missing_ok=True)


def _write_tile(tile: NDArray[Any], path: Path) -> None:
    tifffile.imwrite(path, tile, photometric="minisblack", planarconfig="contig", software=False, metadata=None)


def _cut(path: Path, places: PartTiles, tile_px: int) -> Iterator[NDArray[Any]]:
    """Yield the tiles of one map, top to bottom; rows are read once for tiles at the same height."""
    with open_map(path) as reader:
        band_y = -1
        band: NDArray[Any] = np.empty(0)
        for y, x in places.positions:
            if y != band_y:
                band, band_y = reader.read_rows(int(y), int(min(y + tile_px, places.height))), int(y)
            yield np.ascontiguousarray(pad_to_tile(band[:, x : x + tile_px], tile_px, tile_px))


def write_index(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write ``index.csv`` and ``index.parquet``."""
    write_text(out / "index.csv", csv_text(COLUMNS, rows))
    table = pa.table({column: [row[column] for row in rows] for column in COLUMNS})
    write_parquet(out / TILE_INDEX, table)


_READ_ROWS: Final = 512
#: Quantiles of the pixels that a picture of 16-bit or float maps shows as black and white.
_SHOWN: Final = (0.01, 0.99)


def write_grid_picture(path: Path, part: Part, order: TileOrder, places: PartTiles) -> None:
    """Draw the tiles on a reduced picture of the part's first map."""
    scale = preview_scale(places.height, places.width)
    reducer = BlockReducer(scale, "mean")
    with open_map(part.files[next(iter(order.maps))]) as reader:
        limits = ValueRange.of_type(reader.header.dtype)
        for _, rows in reader.bands(_READ_ROWS):
            reducer.push(limits.to_unit(rows))
        few_bits = reader.header.dtype.itemsize == 1
    unit = reducer.result()
    if unit.ndim == 3:
        unit = unit[..., :3] if unit.shape[2] >= 3 else unit[..., 0]
    if not few_bits:  # few cameras use the whole range of 16 bits or more
        low, high = np.nanquantile(unit, _SHOWN)
        unit = (unit - low) / max(float(high - low), 1e-9)
    picture = np.clip(unit * 255, 0, 255).astype(np.uint8)
    save_tile_grid(path, picture, places.positions, order.size_px, scale)


def check_out(out: Path, parts: Sequence[Part], force: bool) -> None:
    """Raise UsageError if ``out`` has no UTF-8 name, holds parts that are to be cut, or tiles without ``force``."""
    check_is_text(out)
    held = file_within(parts, out)
    if held is not None:
        raise UsageError(f"--out {out}: holds the part {held.name}, which is to be cut; choose another --out")
    if (out / "index.csv").exists() and not force:
        raise UsageError(f"{out}: holds tiles already; choose another --out or give --force")

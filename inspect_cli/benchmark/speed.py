"""``inspect bench speed``: the same map scored in several ways, one process each, and their ratios."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile

from inspect_cli.benchmark.contenders import CONTENDERS, Job, missing, timed
from inspect_cli.benchmark.isolated import run_isolated
from inspect_cli.benchmark.machine import matrix_rate, operations_per_tile
from inspect_cli.engines import Hardware
from inspect_cli.engines.torch_engine import choose_device
from inspect_cli.errors import UsageError, nearest
from inspect_cli.material.bundle import Bundle
from inspect_cli.material.manifest import MapLimit, TrainedMap
from inspect_cli.material.materials import Material
from inspect_cli.pictures.plots import save_bars
from inspect_cli.store.atomic import write_text
from inspect_cli.store.cells import csv_text
from inspect_cli.tiles.grid import Grid

COLUMNS: Final = (
    "contender", "width_px", "height_px", "channels", "stride_px", "tiles", "seconds", "fastest_s", "slowest_s",
    "peak_mb", "mpx_per_s", "runs",
)  # fmt: skip
_BLOCK_ROWS: Final = 256
_HIGH: Final = 1e6

Row = dict[str, Any]


@dataclass(frozen=True)
class SpeedOrder:
    """What to measure: each contender on the first size and stride, ``score`` alone on all others."""

    material: Material
    bundle: Bundle
    map_name: str
    sizes_px: Sequence[tuple[int, int]]
    strides_px: Sequence[int]
    contenders: Sequence[str]
    repeats: int
    hardware: Hardware


@dataclass(frozen=True)
class SpeedResult:
    """Rows of the table, and the ratios that can be made of the first size and stride."""

    rows: list[Row]
    ratios: dict[str, float]


def check_contenders(names: Sequence[str]) -> None:
    """Raise UsageError if a name is unknown."""
    for name in names:
        if name not in CONTENDERS:
            raise UsageError(f"--contenders: {nearest(name, list(CONTENDERS))}")


def one_map(bundle: Bundle, name: str) -> Bundle:
    """Return the bundle as if it had been trained on one map only, with limits that nothing reaches.

    What is measured is a part without findings, whatever the network thinks of the generated map.

    Raises
    ------
    UsageError
        If it has no such map.
    """
    manifest, calibration = bundle.manifest, bundle.require_calibration()
    if name not in manifest.maps:
        raise UsageError(f"--map: {nearest(name, list(manifest.maps))}")
    kept = {
        "maps": {name: manifest.maps[name]},
        "calibration": calibration.model_copy(update={"limits": {name: MapLimit(pixel=_HIGH, patch=_HIGH)}}),
    }
    return replace(bundle, manifest=manifest.model_copy(update=kept))


def measure_speed(order: SpeedOrder, on_row: Callable[[Row], None], say: Callable[[str], None]) -> SpeedResult:
    """Run every contender ``order.repeats`` times and return medians and ratios.

    ``on_row`` gets each row when it is measured. ``say`` is told of a contender whose package is not installed and
    that is left out.

    Raises
    ------
    UsageError
        If a size is below the tile's, or the map unknown.
    """
    bundle = one_map(order.bundle, order.map_name)
    _check_sizes(order.sizes_px, bundle.manifest.tile_px)
    rows: list[Row] = []
    for name, (width, height), stride in _runs(order, say):
        with tempfile.TemporaryDirectory(prefix="inspect-bench-") as scratch:
            file = Path(scratch) / "part.tif"
            write_map(file, width, height, bundle.manifest.maps[order.map_name])
            job = Job(order.material, bundle, order.map_name, file, stride, order.hardware)
            ended = run_isolated(timed, name, job, order.repeats)
        rows.append(_row(name, job, (width, height), ended.result, ended.peak_mb))
        on_row(rows[-1])
    first = [row for row in rows if (row["width_px"], row["height_px"]) == tuple(order.sizes_px[0])]
    seconds = {row["contender"]: row["seconds"] for row in first if row["stride_px"] == order.strides_px[0]}
    tiles = next((row["tiles"] for row in rows), 0)
    limit_s = None
    if "network" in seconds and choose_device(order.hardware.device).type == "cpu":
        limit_s = operations_per_tile(bundle.detector(order.map_name)) * tiles / run_isolated(matrix_rate).result
    return SpeedResult(rows, ratios(seconds, limit_s))


def _check_sizes(sizes_px: Sequence[tuple[int, int]], tile_px: int) -> None:
    for width, height in sizes_px:
        if min(width, height) < tile_px:
            raise UsageError(f"--size {width}x{height}: each side must have {tile_px} px or more, as a tile has")


def ratios(seconds: dict[str, float], limit_s: float | None) -> dict[str, float]:
    """Return what can be said of the contenders' ``seconds``; ``limit_s`` is the machine's least for the network."""
    found = {}
    if "network" in seconds:
        if "score" in seconds:
            found["end to end over network"] = seconds["score"] / seconds["network"]
        if limit_s is not None:
            found["share of the machine's f32 limit"] = limit_s / seconds["network"]
    for peer in ("plain-loop", "monai", "anomalib"):
        if peer in seconds and "score" in seconds:
            found[f"{peer} over end to end"] = seconds[peer] / seconds["score"]
    return found


def _runs(order: SpeedOrder, say: Callable[[str], None]) -> Iterator[tuple[str, tuple[int, int], int]]:
    """Yield contender, size and stride of each measurement."""
    for name in order.contenders:
        why = missing(name)
        if why is None:
            yield name, order.sizes_px[0], order.strides_px[0]
        else:
            say(f"{name}: left out, it cannot be imported ({why})")
    for size in order.sizes_px[1:]:
        yield "score", size, order.strides_px[0]
    for stride in order.strides_px[1:]:
        yield "score", order.sizes_px[0], stride


def _row(name: str, job: Job, size: tuple[int, int], spent: list[float], peak: float | None) -> Row:
    width, height = size
    trained = job.bundle.manifest.maps[job.map_name]
    median = statistics.median(spent)
    return {
        "contender": name,
        "width_px": width,
        "height_px": height,
        "channels": trained.channels,
        "stride_px": job.stride_px,
        "tiles": len(Grid(height, width, job.bundle.manifest.tile_px, job.stride_px)),
        "seconds": round(median, 3),
        "fastest_s": round(min(spent), 3),
        "slowest_s": round(max(spent), 3),
        "peak_mb": None if peak is None else round(peak),
        "mpx_per_s": round(width * height / 1e6 / median, 3),
        "runs": len(spent),
    }


def as_line(row: Row) -> str:
    """Return a row for people."""
    line = (
        f"{row['contender']:<11} {row['width_px']}x{row['height_px']} stride {row['stride_px']}: "
        f"{row['seconds']:.2f} s ({row['fastest_s']:.2f} to {row['slowest_s']:.2f}), {row['mpx_per_s']:.2f} Mpx/s"
    )
    return line if row["peak_mb"] is None else f"{line}, peak memory {row['peak_mb']} MB"


def write_map(path: Path, width: int, height: int, trained: TrainedMap) -> None:
    """Write a map of stripes and noise in the type and brightness that the network knows, block by block.

    Above 4 GB it is a BigTIFF.
    """
    rng = np.random.default_rng(0)
    dtype = np.dtype(trained.dtype)
    shape = (height, width) if trained.channels == 1 else (height, width, trained.channels)
    mean, spread = trained.usual_values
    across = np.sin(np.arange(width, dtype=np.float32) * 0.2).reshape((1, width, *(1 for _ in shape[2:])))

    def blocks() -> Iterator[np.ndarray[Any, Any]]:
        for top in range(0, height, _BLOCK_ROWS):
            rows = min(_BLOCK_ROWS, height - top)
            unit = mean + spread * (across + 0.7 * rng.standard_normal((rows, *shape[1:]), np.float32))
            values = trained.low + (trained.high - trained.low) * np.clip(unit, 0, 1)
            yield values.astype(dtype)

    tifffile.imwrite(
        path,
        blocks(),
        shape=shape,
        dtype=dtype,
        rowsperstrip=_BLOCK_ROWS,
        photometric="minisblack",
        planarconfig="contig" if len(shape) == 3 else None,
        bigtiff=int(np.prod(shape)) * dtype.itemsize > 4e9,
    )


def write_results(folder: Path, result: SpeedResult, title: str) -> None:
    """Write ``speed.csv`` and ``speed.png`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "speed.csv", csv_text(COLUMNS, result.rows))
    labels = [f"{row['contender']} {row['width_px']}x{row['height_px']}/{row['stride_px']}" for row in result.rows]
    save_bars(folder / "speed.png", dict(zip(labels, (row["seconds"] for row in result.rows), strict=True)), title)

"""Tables of a whole run: parts, patches, regions. Names cannot become formulas in a spreadsheet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from inspect_cli.batch.summary import Outcome
from inspect_cli.outputs.stored import part_folder
from inspect_cli.store.atomic import whole_file, write_text
from inspect_cli.store.cells import csv_text, row_writer, safe_cell
from inspect_cli.store.layout import PART_RECORD, PARTS_TABLE, PATCHES
from inspect_cli.store.parquet import read_parquet
from inspect_cli.store.part_record import PartRecord, read_part_record
from inspect_cli.store.run_record import read_run_record

PART_COLUMNS: Final = (
    "part", "verdict", "score", "map", "reasons", "region_count", "defect_area_px", "defect_area_mm2",
    "roi_px", "seconds", "error",
)  # fmt: skip
REGION_COLUMNS: Final = (
    "part", "region", "map", "x_px", "y_px", "width_px", "height_px", "area_px", "x_mm", "y_mm",
    "width_mm", "height_mm", "area_mm2", "score_max", "score_mean", "peak_x_px", "peak_y_px",
)  # fmt: skip


REGION_TABLES: Final = ("regions.csv", "regions.geojson")
PATCH_TABLES: Final = (PATCHES, "patches.csv.gz")


def write_tables(run: Path, outcomes: Sequence[Outcome]) -> None:
    """Write ``parts.csv``, ``regions.csv``, ``regions.geojson``, ``patches.parquet``, ``patches.csv.gz``."""
    write_text(run / PARTS_TABLE, csv_text(PART_COLUMNS, (_part_row(outcome) for outcome in outcomes)))
    parts = [outcome.part for outcome in outcomes if outcome.record is not None]
    _write_regions(run, parts)
    _write_patches(run, parts)


def remove_tables(run: Path) -> None:
    """Remove the tables of a run: what they say holds no more."""
    for name in (PARTS_TABLE, *REGION_TABLES, *PATCH_TABLES):
        (run / name).unlink(missing_ok=True)


def _part_row(outcome: Outcome) -> dict[str, Any]:
    record = outcome.record
    if record is None:
        return {"part": outcome.part, "verdict": outcome.verdict, "error": outcome.error}
    return {
        "part": outcome.part,
        "verdict": record.verdict,
        "score": record.score,
        "map": record.peak_map,
        "reasons": "; ".join(record.reasons),
        "region_count": record.region_count,
        "defect_area_px": record.defect_area_px,
        "defect_area_mm2": record.defect_area_mm2,
        "roi_px": record.roi_px,
        "seconds": record.seconds,
    }


def _write_regions(run: Path, parts: Iterable[str]) -> None:
    """Write the regions of all parts as rows and as polygons, the record of one part in memory at a time."""
    with ExitStack() as stack:
        paths = [stack.enter_context(whole_file(run / name)) for name in REGION_TABLES]
        table, polygons = (stack.enter_context(path.open("w", encoding="utf-8", newline="")) for path in paths)
        write_row = row_writer(table, REGION_COLUMNS)
        polygons.write('{"type": "FeatureCollection", "features": [')
        between = "\n"
        for part in parts:
            record = read_part_record(part_folder(run, part))
            for region in record.regions:
                write_row({"part": part, **region.model_dump()})
            for feature in _features(record):
                polygons.write(between + json.dumps(feature, allow_nan=False))
                between = ",\n"
        polygons.write("\n]}\n")


def _features(record: PartRecord) -> Iterator[dict[str, Any]]:
    """Yield one polygon a region, coordinates in pixels (x right, y down), sizes in the properties."""
    for region, ring in zip(record.regions, record.outlines, strict=False):
        yield {
            "type": "Feature",
            "properties": {"part": record.part, **region.model_dump()},
            "geometry": {"type": "Polygon", "coordinates": [ring]},
        }


def _write_patches(run: Path, parts: Sequence[str]) -> None:
    """Join the parts' patch tables, one part in memory at a time."""
    if not parts:
        for name in PATCH_TABLES:
            (run / name).unlink(missing_ok=True)
        return
    with (
        whole_file(run / PATCH_TABLES[0]) as parquet_path,
        whole_file(run / PATCH_TABLES[1]) as csv_path,
        pa.CompressedOutputStream(str(csv_path.absolute()), "gzip") as stream,
    ):
        writer: pq.ParquetWriter | None = None
        for number, part in enumerate(parts):
            table = _plain(read_parquet(part_folder(run, part) / PATCHES))
            if writer is None:
                writer = pq.ParquetWriter(parquet_path.absolute(), table.schema, compression="zstd")
            writer.write_table(table)
            names = pa.array([safe_cell(part)] * table.num_rows, pa.string())
            safe = table.set_column(table.schema.get_field_index("part"), "part", names)
            pacsv.write_csv(safe, stream, pacsv.WriteOptions(include_header=number == 0))
        if writer is not None:
            writer.close()


def _plain(table: pa.Table) -> pa.Table:
    for name in ("part", "map"):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, table[name].cast(pa.string()))
    return table


def finished_parts(run: Path) -> list[str]:
    """Return the ids of the parts that a run lists and that are done; others in the folder are left from before."""
    parts = read_run_record(run).parts
    return [part for part in parts if (part_folder(run, part) / PART_RECORD).is_file()]

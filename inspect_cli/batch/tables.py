"""Tables of a whole run: parts, patches, regions. Names cannot become formulas in a spreadsheet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from inspect_cli.batch.summary import Outcome
from inspect_cli.outputs.stored import part_folder
from inspect_cli.store.atomic import whole_file, write_json, write_text
from inspect_cli.store.cells import csv_text, safe_cell
from inspect_cli.store.layout import PART_RECORD
from inspect_cli.store.part_record import PartRecord
from inspect_cli.store.run_record import read_run_record

PART_COLUMNS: Final = (
    "part", "verdict", "score", "map", "reasons", "regions", "defect_area_px", "defect_area_mm2",
    "roi_px", "seconds", "error",
)  # fmt: skip
REGION_COLUMNS: Final = (
    "part", "region", "map", "x_px", "y_px", "width_px", "height_px", "area_px", "x_mm", "y_mm",
    "width_mm", "height_mm", "area_mm2", "score_max", "score_mean", "peak_x_px", "peak_y_px",
)  # fmt: skip


def write_tables(run: Path, outcomes: Sequence[Outcome]) -> None:
    """Write ``parts.csv``, ``regions.csv``, ``regions.geojson``, ``patches.parquet``, ``patches.csv.gz``."""
    write_text(run / "parts.csv", csv_text(PART_COLUMNS, (_part_row(outcome) for outcome in outcomes)))
    records = [outcome.record for outcome in outcomes if outcome.record is not None]
    write_text(run / "regions.csv", csv_text(REGION_COLUMNS, _region_rows(records)))
    write_json(run / "regions.geojson", {"type": "FeatureCollection", "features": list(_features(records))})
    _write_patches(run, [record.part for record in records])


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
        "regions": record.region_count,
        "defect_area_px": record.defect_area_px,
        "defect_area_mm2": record.defect_area_mm2,
        "roi_px": record.roi_px,
        "seconds": record.seconds,
    }


def _region_rows(records: Iterable[PartRecord]) -> Iterator[dict[str, Any]]:
    for record in records:
        for region in record.regions:
            yield {"part": record.part} | region.model_dump()


def _features(records: Iterable[PartRecord]) -> Iterator[dict[str, Any]]:
    """Yield one polygon a region, coordinates in pixels (x right, y down), sizes in the properties."""
    for record in records:
        for region, ring in zip(record.regions, record.outlines, strict=False):
            yield {
                "type": "Feature",
                "properties": {"part": record.part} | region.model_dump(),
                "geometry": {"type": "Polygon", "coordinates": [ring]},
            }


def _write_patches(run: Path, parts: Sequence[str]) -> None:
    """Join the parts' patch tables, one part in memory at a time."""
    if not parts:
        for name in ("patches.parquet", "patches.csv.gz"):
            (run / name).unlink(missing_ok=True)
        return
    with (
        whole_file(run / "patches.parquet") as parquet_path,
        whole_file(run / "patches.csv.gz") as csv_path,
        pa.CompressedOutputStream(str(csv_path), "gzip") as stream,
    ):
        writer: pq.ParquetWriter | None = None
        for number, part in enumerate(parts):
            table = _plain(pq.read_table(part_folder(run, part) / "patches.parquet"))
            if writer is None:
                writer = pq.ParquetWriter(parquet_path, table.schema, compression="zstd")
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

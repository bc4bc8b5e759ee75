"""The record of a part: what is put into it, and whether what is there of it counts."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Final, NamedTuple

from inspect_cli.errors import InputError
from inspect_cli.scoring.judge import Judge, Judgement
from inspect_cli.scoring.regions import Region
from inspect_cli.store.layout import PART_RECORD, PART_RECORD_ASIDE
from inspect_cli.store.part_record import PartKey, PartRecord, RegionRecord, read_part_record

#: Regions listed for a part; the count is exact beyond that.
MAX_REGIONS: Final = 1000


def set_aside(folder: Path) -> None:
    """Let a part's record stand for nothing until :func:`confirmed` finds that its input is the same."""
    with contextlib.suppress(FileNotFoundError):
        (folder / PART_RECORD).replace(folder / PART_RECORD_ASIDE)


def confirmed(folder: Path, key: PartKey) -> PartRecord | None:
    """Return a part's record, also one that was set aside if ``key`` shows that its maps hold."""
    record = record_of(folder)
    if record is not None:
        return record
    aside = record_of(folder, PART_RECORD_ASIDE)
    if aside is None or not key.same_maps(aside.key):
        return None
    (folder / PART_RECORD_ASIDE).replace(folder / PART_RECORD)
    return aside


def forget(folder: Path) -> None:
    """Remove a part's record: what is in its folder is no result."""
    for name in (PART_RECORD, PART_RECORD_ASIDE):
        (folder / name).unlink(missing_ok=True)


def record_of(folder: Path, name: str = PART_RECORD) -> PartRecord | None:
    """Return a part's record; None if the part is not done, or its record is damaged or of another version."""
    try:
        return read_part_record(folder, name)
    except InputError:
        return None


class Findings(NamedTuple):
    """What follows from maps and limits: keys of :class:`PartRecord`, and by map those of :class:`MapRecord`."""

    part: dict[str, Any]
    maps: dict[str, dict[str, Any]]


def findings(judgement: Judgement, judge: Judge, pitch_um: float | None) -> Findings:
    """Return the part of the record that follows from maps and limits."""
    area_px = sum(region.area_px for region in judgement.regions)
    regions = judgement.regions[:MAX_REGIONS]
    peak = {"x_px": judgement.peak_x_px, "y_px": judgement.peak_y_px, "map": judgement.peak_map}
    part = {
        "verdict": judgement.verdict,
        "reasons": judgement.reasons,
        "score": judgement.score,
        "peak": peak if judgement.peak_map else None,
        "roi_px": judgement.roi_px,
        "uncovered_px": judgement.uncovered_px,
        "defect_area_px": area_px,
        "defect_area_mm2": None if pitch_um is None else _six_digits(area_px * (pitch_um / 1000) ** 2),
        "region_count": len(judgement.regions),
        "regions": [region_record(number, r, pitch_um) for number, r in enumerate(regions, 1)],
    }
    maps = {
        name: {
            "score": judge.score_of(name) if peak.raw_max >= 0 else None,
            "raw_max": peak.raw_max if peak.raw_max >= 0 else None,
            "limit": judge.limits[name],
            "x_px": peak.x_px,
            "y_px": peak.y_px,
        }
        for name, peak in judgement.map_peaks.items()
    }
    return Findings(part, maps)


def region_record(number: int, region: Region, pitch_um: float | None) -> RegionRecord:
    """Return a region in pixels and, if the pitch is known, in millimetres."""
    mm = None if pitch_um is None else pitch_um / 1000

    def length(pixels: int) -> float | None:
        return None if mm is None else round(pixels * mm, 4)

    return RegionRecord(
        region=number,
        map=region.map,
        x_px=region.x_px,
        y_px=region.y_px,
        width_px=region.width_px,
        height_px=region.height_px,
        area_px=region.area_px,
        score_max=round(region.score_max, 4),
        score_mean=round(region.score_mean, 4),
        peak_x_px=region.peak_x_px,
        peak_y_px=region.peak_y_px,
        x_mm=length(region.x_px),
        y_mm=length(region.y_px),
        width_mm=length(region.width_px),
        height_mm=length(region.height_px),
        area_mm2=None if mm is None else _six_digits(region.area_px * mm * mm),
    )


def _six_digits(area_mm2: float) -> float:
    """Return an area without digits that say nothing: a fine pitch makes small numbers."""
    return float(f"{area_mm2:.6g}")

"""``part.json``: the record that a part is done, with everything that was found on it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from inspect_cli.scoring.judge import Judge, Judgement
from inspect_cli.scoring.regions import Region
from inspect_cli.store.layout import PART_RECORD, PART_RECORD_ASIDE

#: Regions listed for a part; the count is exact beyond that.
MAX_REGIONS: Final = 1000


@dataclass(frozen=True)
class PartKey:
    """What a result depends on: same key, same result."""

    inputs: dict[str, str]
    scoring: str
    limits: str

    def as_dict(self) -> dict[str, Any]:
        """Return the key as JSON-ready data."""
        return {"inputs": self.inputs, "scoring": self.scoring, "limits": self.limits}

    def same_maps(self, other: dict[str, Any]) -> bool:
        """Whether a stored key stands for the same raw maps."""
        return bool(other.get("inputs") == self.inputs and other.get("scoring") == self.scoring)


def set_aside(folder: Path) -> None:
    """Let a part's record stand for nothing until :func:`confirmed` finds that its input is the same."""
    with contextlib.suppress(FileNotFoundError):
        (folder / PART_RECORD).replace(folder / PART_RECORD_ASIDE)


def confirmed(folder: Path, key: PartKey) -> dict[str, Any] | None:
    """Return a part's record, also one that was set aside if ``key`` shows that its maps hold."""
    record = read_record(folder)
    if record is not None:
        return record
    aside = read_record(folder, PART_RECORD_ASIDE)
    if aside is None or not key.same_maps(aside["key"]):
        return None
    (folder / PART_RECORD_ASIDE).replace(folder / PART_RECORD)
    return aside


def forget(folder: Path) -> None:
    """Remove a part's record: what is in its folder is no result."""
    for name in (PART_RECORD, PART_RECORD_ASIDE):
        (folder / name).unlink(missing_ok=True)


def read_record(folder: Path, name: str = PART_RECORD) -> dict[str, Any] | None:
    """Return a part's record, or None if the part is not done."""
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "key" in content else None


def region_dict(number: int, region: Region, pitch_um: float | None) -> dict[str, Any]:
    """Return a region as JSON-ready data, in pixels and, if the pitch is known, in millimetres."""
    mm = None if pitch_um is None else pitch_um / 1000

    def length(pixels: int) -> float | None:
        return None if mm is None else round(pixels * mm, 4)

    return {
        "region": number,
        "map": region.map,
        "x_px": region.x_px,
        "y_px": region.y_px,
        "width_px": region.width_px,
        "height_px": region.height_px,
        "area_px": region.area_px,
        "score_max": round(region.score_max, 4),
        "score_mean": round(region.score_mean, 4),
        "peak_x_px": region.peak_x_px,
        "peak_y_px": region.peak_y_px,
        "x_mm": length(region.x_px),
        "y_mm": length(region.y_px),
        "width_mm": length(region.width_px),
        "height_mm": length(region.height_px),
        "area_mm2": None if mm is None else _six_digits(region.area_px * mm * mm),
    }


def _six_digits(area_mm2: float) -> float:
    """Return an area without digits that say nothing: a fine pitch makes small numbers."""
    return float(f"{area_mm2:.6g}")


def findings(judgement: Judgement, judge: Judge, pitch_um: float | None) -> dict[str, Any]:
    """Return the part of the record that follows from maps and limits."""
    area_px = sum(region.area_px for region in judgement.regions)
    regions = judgement.regions[:MAX_REGIONS]
    peak = {"x_px": judgement.peak_x_px, "y_px": judgement.peak_y_px, "map": judgement.peak_map}
    return {
        "verdict": judgement.verdict,
        "reasons": judgement.reasons,
        "score": judgement.score,
        "peak": peak if judgement.peak_map else None,
        "roi_px": judgement.roi_px,
        "uncovered_px": judgement.uncovered_px,
        "defect_area_px": area_px,
        "defect_area_mm2": None if pitch_um is None else _six_digits(area_px * (pitch_um / 1000) ** 2),
        "region_count": len(judgement.regions),
        "regions": [region_dict(number, r, pitch_um) for number, r in enumerate(regions, 1)],
    } | {
        "map_scores": {
            name: {
                "score": judge.score_of(name) if peak.raw_max >= 0 else None,
                "raw_max": peak.raw_max if peak.raw_max >= 0 else None,
                "threshold": judge.limits[name],
                "x_px": peak.x_px,
                "y_px": peak.y_px,
            }
            for name, peak in judgement.map_peaks.items()
        }
    }

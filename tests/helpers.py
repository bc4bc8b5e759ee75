"""What several test files share."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import yaml

from inspect_cli.errors import EXIT_DONE, EXIT_DOUBT

#: How a training ends that is whole; one of a few steps learns little and says so.
TRAINED = (EXIT_DONE, EXIT_DOUBT)
#: Options of `inspect score` that leave out what a test does not look at: few tiles, and no pictures.
COARSE = ("--outputs", "none", "--stride", "32")


def material_of(store: Path, name: str, tile_px: int = 32, method: str = "cae", **settings: Any) -> Path:
    """Write a recipe of one map of any image file, with a small network, into a store; return its folder."""
    recipe = {
        "material": name,
        "maps": {"image": {"files": "{part}.*"}},
        "tiles": {"size_px": tile_px, "stride_px": tile_px // 2},
        "method": {"name": method, "settings": settings},
        "training": {"batch": 4, "validate_every": 5},
    }
    (store / name).mkdir(parents=True, exist_ok=True)
    (store / name / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return store / name


def map_record(**changes: Any) -> dict[str, Any]:
    """Return what a record says of a map."""
    whole = {"file": "p_albedo.tif", "sha256": "5e", "mean": 0.5, "spread": 0.1}
    return {**whole, "score": 1.5, "raw_max": 3.0, "limit": 2.0, "x_px": 3, "y_px": 4, **changes}


def part_record(part: str, **changes: Any) -> dict[str, Any]:
    """Return the content of a ``part.json`` of 30x22 px, one map and one region."""
    box = {"x_px": 3, "y_px": 4, "width_px": 3, "height_px": 3, "area_px": 9, "peak_x_px": 3, "peak_y_px": 4}
    size = {"x_mm": -0.5, "y_mm": 0.1, "width_mm": 0.1, "height_mm": 0.1, "area_mm2": 0.01}
    return {
        "format": 1,
        "part": part,
        "key": {"inputs": {}, "scoring": "m", "limits": "l"},
        "seen": [[100, 1, 2]],
        "size_px": [22, 30],
        "acquisition_faults": [],
        "scored_utc": "2026-01-01T00:00:00+00:00",
        "maps": {"albedo": map_record()},
        "verdict": "fail",
        "reasons": ["=cmd", "1 region above the limit"],
        "score": 1.5,
        "peak": {"x_px": 3, "y_px": 4, "map": "albedo"},
        "roi_px": 100,
        "uncovered_px": 0,
        "defect_area_px": 9,
        "defect_area_mm2": None,
        "region_count": 1,
        "regions": [{"region": 1, "map": "albedo", **box, **size, "score_max": 1.5, "score_mean": 1.2}],
        "gaps": [],
        "outlines": [[[3, 4], [5, 4], [5, 6], [3, 4]]],
        "outputs": ["heatmap", "maps", "pictures"],
        "preview_scale": 1,
        "timing_s": {"total": 1.25},
        **changes,
    }


class Quiet:
    """Progress that nobody watches."""

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def progress(self, label: str) -> AbstractContextManager[Callable[[float, str], None]]:
        return nullcontext(lambda share, text: None)


def hold(folder: Path, seconds: float, ready: Any) -> None:
    """Hold a folder's lock for some seconds, once ``ready`` is set; for a process that imports little else."""
    from inspect_cli.store.lock import lock_folder

    with lock_folder(folder, "busy"):
        ready.set()
        time.sleep(seconds)

"""New limits from what was scored: good parts, labelled parts, or numbers given by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inspect_cli.calibration.rules import GoodPeaks, limits_from_good
from inspect_cli.errors import NoInputError, UsageError, nearest
from inspect_cli.evaluation.metrics import ScoreHistogram
from inspect_cli.material.manifest import LEAST_LIMIT, Calibration, MapLimit
from inspect_cli.recipe.schema import ThresholdSpec
from inspect_cli.scoring.precision import DROPPED_BITS
from inspect_cli.store.part_record import PartRecord
from inspect_cli.store.patches import by_map, read_patches
from inspect_cli.tiles.tiling import Tiling

#: The origin of limits of which some were set by hand.
_BY_HAND: Final = re.compile(
    r"(?P<hand>set by hand: [^;]*); (?P<kept>[^;(]*) as before \((?P<before>.*)\)", re.DOTALL
)


def peaks_of(records: Sequence[PartRecord], folders: Sequence[Path], maps: Sequence[str]) -> dict[str, GoodPeaks]:
    """Return the peaks of good parts by map, from their records and the patch tables in their folders.

    Raises
    ------
    InputError
        If a patch table cannot be read.
    """
    patch_peaks: dict[str, list[float]] = {name: [] for name in maps}
    for folder in folders:
        means = by_map(read_patches(folder, ["map", "residual_mean"]), "residual_mean")
        for name in maps:
            patch_peaks[name].append(float(means[name].max()) if name in means else 0.0)
    pixel_peaks = raw_peaks(records, maps)
    return {name: GoodPeaks(pixel_peaks[name], np.array(patch_peaks[name])) for name in maps}


def raw_peaks(records: Sequence[PartRecord], maps: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return the largest residual of each scored part by map, (parts,), in raw units."""
    return {
        name: np.array([peak for r in records if (peak := r.maps[name].raw_max) is not None], float) for name in maps
    }


def calibrate_good(
    peaks: Mapping[str, GoodPeaks],
    tiling: Tiling,
    rule: str,
    spec: ThresholdSpec,
    parts: int,
    where: str,
    precision: str = "f32",
) -> Calibration:
    """Return limits from good parts by ``rule`` (max, quantile, sigma), scored with this tiling and precision."""
    limits, rate = limits_from_good(peaks, rule, spec)
    detail = {
        "max": f"margin {spec.margin}",
        "quantile": f"quantile {spec.quantile}",
        "sigma": f"{spec.sigma} sigma",
    }
    origin = f"{rule} ({detail[rule]}) over the peaks of {parts} good part(s) in {where}"
    return Calibration.of_scores(tiling, limits, rule, origin, parts, rate, precision=precision)


def calibrate_manual(
    tiling: Tiling, current: Calibration, values: Mapping[str, float], precision: str = "f32"
) -> Calibration:
    """Return the current limits with those of some maps replaced by hand.

    Where some are left, stride and precision stay those of these.

    Raises
    ------
    UsageError
        If a map is not trained or a value is not above zero.
    """
    limits = dict(current.limits)
    for name, value in values.items():
        if name not in limits:
            raise UsageError(f"--value {name}: no such map in the model: {nearest(name, list(limits))}")
        if not LEAST_LIMIT <= value < float("inf"):
            raise UsageError(f"--value {name}={value}: a limit is a number of at least {LEAST_LIMIT:g}")
        limits[name] = MapLimit(pixel=value, patch=limits[name].patch)
    others = sorted(set(limits) - set(values))
    if others and not current.fits(tiling):
        raise UsageError(
            f"smoothing or blend changed since the limits were set: give a value for {', '.join(others)} too"
        )
    listed = ", ".join(f"{name}={value:g}" for name, value in values.items())
    found = Calibration.of_scores(tiling, limits, "manual", f"set by hand: {listed}", 0, precision=precision)
    if not others:
        return found
    origin = f"{found.origin}; {', '.join(others)} as before ({_origin_of(others, current.origin)})"
    kept = {name: getattr(current, name) for name in ("provisional", "stride_px", "precision")}
    return found.model_copy(update={"origin": origin, **kept})


def _origin_of(maps: Sequence[str], origin: str) -> str:
    """Return what the origin of limits says of some maps, where others were set by hand."""
    found = _BY_HAND.fullmatch(origin)
    if found is None:
        return origin
    kept = set(found["kept"].split(", "))
    return found["before"] if kept.issuperset(maps) else found["hand"] if kept.isdisjoint(maps) else origin


def calibrate_labelled(
    tiling: Tiling,
    current: Calibration,
    pixels: ScoreHistogram,
    rule: str,
    parts: int,
    where: str,
    precision: str = "f32",
) -> Calibration:
    """Return the current limits times one factor: the fused score of ``pixels`` at which IoU or F1 is best.

    The maps keep their relation to each other; the factor is exact for the fused map that people see. A patch, whose
    score is a mean, has no limit above that of pixels.

    Raises
    ------
    NoInputError
        If no labelled pixel is defective.
    """
    best = pixels.iou_max() if rule == "iou" else pixels.f1_max()
    if best is None or best.limit <= 0:
        raise NoInputError(f"{where}: no defective pixel separates from the good ones; give more labelled parts")
    # Scores are rounded once more when they are divided by the new limits: what lies half a step above 1 rounds up.
    factor = best.limit / (1 + 2.0**-DROPPED_BITS)
    limits = {}
    for name, limit in current.limits.items():
        pixel, patch = (max(value * factor, LEAST_LIMIT) for value in (limit.pixel, limit.patch))
        limits[name] = MapLimit(pixel=pixel, patch=min(patch, pixel))
    origin = f"best {rule.upper()} {best.value:.4f} over {parts} labelled part(s) in {where}"
    return Calibration.of_scores(tiling, limits, rule, origin, parts, precision=precision)

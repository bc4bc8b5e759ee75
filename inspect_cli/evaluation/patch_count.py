"""Patches of a part, told defective or good by its mask, and counted by their score (IND section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inspect_cli.arrays import Mask
from inspect_cli.evaluation.metrics import ScoreHistogram
from inspect_cli.evaluation.run_parts import patches_of
from inspect_cli.evaluation.truth import MIN_DEFECT_PX
from inspect_cli.images import read_mask
from inspect_cli.store.layout import ROI_MASK


def inside_roi(folder: Path, mask: Mask | None, regions: NDArray[np.int32] | None) -> tuple[Mask | None, int]:
    """Return the defective pixels inside a part's ROI, and how many of them make a patch defective.

    ``regions`` numbers the True pixels of ``mask`` (height, width) in row order; both are None for a good part.
    """
    roi = folder / ROI_MASK
    if mask is not None and regions is not None and roi.is_file():
        kept = read_mask(roi, *mask.shape)
        mask, regions = mask & kept, regions[kept[mask]]
    if regions is None or not len(regions):
        return mask, MIN_DEFECT_PX
    return mask, min(MIN_DEFECT_PX, int(np.bincount(regions).max()))


def count_patches(
    histograms: Mapping[str, ScoreHistogram], fused: str, folder: Path, tile_px: int, mask: Mask | None, least_px: int
) -> None:
    """Count a part's patches by map; those named ``fused`` by the largest score of the maps.

    A patch is defective if it shows ``least_px`` of a defect, and one that shows fewer counts as neither.

    Raises
    ------
    InputError
        If the patch table cannot be read.
    """
    patches = patches_of(folder)
    if not patches.scores:
        return
    shown = np.zeros(len(patches.x_px), np.int64)
    if mask is not None:
        places = zip(patches.y_px, patches.x_px, strict=True)
        shown = np.array([np.count_nonzero(mask[y : y + tile_px, x : x + tile_px]) for y, x in places], np.int64)
    defective = shown >= least_px
    clear = (shown == 0) | defective
    largest = np.fmax.reduce(list(patches.scores.values()))  # as for pixels: a map that could not be scored is none
    for name, scores in {fused: largest, **patches.scores}.items():
        if name in histograms:
            histograms[name].add(scores[clear], defective[clear])

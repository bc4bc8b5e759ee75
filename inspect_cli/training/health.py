"""What was learnt, said plainly."""

from __future__ import annotations

from typing import Final

import torch

from inspect_cli.methods.base import Batch, Detector
from inspect_cli.store.manifest import Trial

#: Below this share of explained variance a reconstruction shows little but the local mean.
COLLAPSED: Final = 0.3
#: Below this area under the ROC curve artificial defects are hardly told from good material.
USELESS: Final = 0.6


@torch.no_grad()
def explained_variance(detector: Detector, batches: list[Batch]) -> float | None:
    """Return the share of the patches' variance that the reconstruction explains, None without one.

    1 is a perfect copy; 0 is as good as each patch's mean grey value in each channel, which is what a
    network falls back to on purely stochastic texture (IND section 4.2).
    """
    detector.eval()
    residual = variance = 0.0
    for batch in batches:
        tiles, mask = batch.tiles, batch.roi
        copy = detector.reconstruct(tiles)
        if copy is None:
            return None
        weight = torch.ones_like(tiles) if mask is None else mask.expand_as(tiles)
        area = weight.sum(dim=(2, 3), keepdim=True).clamp(min=1)
        mean = (tiles * weight).sum(dim=(2, 3), keepdim=True) / area
        residual += float((((copy.float() - tiles) ** 2) * weight).sum())
        variance += float((((tiles - mean) ** 2) * weight).sum())
    return 1.0 - residual / variance if variance > 0 else 0.0


def training_warnings(name: str, explained: float | None, images: int, stopped_early: bool, steps: int) -> list[str]:
    """Return warnings about a map's training in plain words, empty if there is nothing to say."""
    warnings = []
    if explained is not None and explained < COLLAPSED:
        warnings.append(
            f"map {name}: the network explains only {max(explained, 0):.0%} of the patches' variance; it copies "
            "little more than the mean grey value, so its anomaly map says little. The material may be purely "
            "stochastic, or the training was too short"
        )
    if images < 2:
        warnings.append(f"map {name}: only one image: validation and provisional limits come from the same image")
    if stopped_early and steps < 200:
        warnings.append(f"map {name}: training stopped after {steps} steps without improving")
    return warnings


def separation_warnings(name: str, check: Trial | None) -> list[str]:
    """Return a warning if a trained network hardly tells artificial defects from good material."""
    if check is None or check.pixel_auroc is None or check.pixel_auroc >= USELESS:
        return []
    how = "scores them lower than" if check.pixel_auroc < 1 - USELESS else "hardly tells them from"
    return [
        f"map {name}: shown artificial defects, the network {how} good material (pixel AUROC "
        f"{check.pixel_auroc:.2f}, .5 is chance), so its anomaly map says little. Try --method auto or train longer"
    ]

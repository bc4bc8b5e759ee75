"""Warnings about a training: nothing learnt, overfitting, copies, odd images, too little material."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import median_abs_deviation

from inspect_cli.material.manifest import COLLAPSED, USELESS, TrainingFile, Trial
from inspect_cli.methods.base import Batch, Detector
from inspect_cli.training.prepare import ImageMoments

#: An image is odd when it lies so many robust standard deviations from the median of the others ...
_FAR: Final = 8.0
#: ... and differs from it by this share: of the contrast for the mean, of itself for contrast and sharpness.
_DIFFERS: Final = 0.5
_LEAST_IMAGES: Final = 5
#: So few validations tell no overfit.
_LEAST_LOSSES: Final = 5
#: Material for fewer patches than this, side by side, is little to learn from.
_FEW_PATCHES: Final = 16
#: Correlation with the median image from which parts lie all alike ...
_ALIGNED: Final = 0.8
#: ... and how far one may lie elsewhere, in pixels of the reduced images.
_SHIFT_PX: Final = 2.0
_LEAST_SIDE_PX: Final = 16
#: A shift is believed up to this share of the image's side, and if moving back gains so much correlation.
_LARGEST_SHIFT: Final = 0.25
_GAIN: Final = 0.02
#: Loss on held-out parts at the end over the best one, from which the network has learnt its images by heart.
_OVERFIT: Final = 1.3


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


def odd_image_warnings(name: str, moments: Mapping[str, ImageMoments]) -> list[str]:
    """Return a warning for each image whose brightness, contrast or sharpness is unlike the others'."""
    return [
        f"map {name}: {odd.what} of {odd.part} is {odd.value:.4g}, of the others about {odd.usual:.4g} ({odd.cause}?)"
        + ("; pictures like it will not be accepted" if odd.what in ACCEPTED_BY else "")
        + "; leave the image out if it is no good one"
        for odd in odd_images(moments)
    ]


class OddImage(NamedTuple):
    """An image that is unlike the others: in what, its value, theirs, and what may be the cause."""

    part: str
    what: str
    value: float
    usual: float
    cause: str


#: By what `inspect score` accepts pictures; it is learnt without those that are odd in it.
ACCEPTED_BY: Final = ("brightness", "contrast")


def odd_images(moments: Mapping[str, ImageMoments]) -> list[OddImage]:
    """Return the images whose brightness, contrast or sharpness is unlike the others'."""
    if len(moments) < _LEAST_IMAGES:
        return []
    contrast = float(np.median([m.spread for m in moments.values()]))
    looks = (
        ("brightness", [m.mean for m in moments.values()], contrast, "exposure or lamp"),
        ("contrast", [m.spread for m in moments.values()], contrast, "lamp, focus or missing part"),
        ("sharpness", [m.sharpness for m in moments.values()], None, "focus or motion"),
    )
    odd = []
    for what, found, scale, cause in looks:
        values = np.asarray(found)
        middle = float(np.median(values))
        spread = float(median_abs_deviation(values, scale="normal"))
        least = _DIFFERS * (abs(middle) if scale is None else scale)
        for part, value in zip(moments, values, strict=True):
            if abs(value - middle) > max(_FAR * spread, least):
                odd.append(OddImage(part, what, float(value), middle, cause))
    return odd


def shifted_image_warnings(name: str, moments: Mapping[str, ImageMoments]) -> list[str]:
    """Return a warning for each image that shows the part elsewhere, where all others show it at one place.

    Found by phase correlation of the reduced images with their median. Material that lies differently in every image,
    as foil does, gives none.
    """
    small = {part: m.small for part, m in moments.items() if m.small is not None}
    if len(small) < _LEAST_IMAGES or len({image.shape for image in small.values()}) > 1:
        return []
    if min(next(iter(small.values())).shape) < _LEAST_SIDE_PX:
        return []
    images = np.stack([_standardised(image) for image in small.values()])
    usual = _standardised(np.median(images, axis=0))
    if np.median((images * usual).mean(axis=(1, 2))) < _ALIGNED:
        return []
    window = cv2.createHanningWindow(usual.shape[::-1], cv2.CV_64F)
    scale = next(iter(moments.values())).scale
    shifts = [cv2.phaseCorrelate(usual, image, window)[0] for image in images]
    usually_px = float(median_abs_deviation(np.hypot(*np.transpose(shifts)), scale="normal"))
    warnings = []
    for part, image, (x, y) in zip(small, images, shifts, strict=True):
        if np.hypot(x, y) > max(_SHIFT_PX, _FAR * usually_px) and _fits_better(image, usual, round(x), round(y)):
            warnings.append(
                f"map {name}: {part} lies about {x * scale:+.0f} px across and {y * scale:+.0f} px down from where "
                "the others lie (position or registration?); leave the image out if it is no good one"
            )
    return warnings


def _fits_better(image: NDArray[np.float64], usual: NDArray[np.float64], x: int, y: int) -> bool:
    """Whether an image is more like the usual one when it is moved back by a shift, which must be no wild one."""
    if max(abs(x) / image.shape[1], abs(y) / image.shape[0]) > _LARGEST_SHIFT:
        return False
    moved = np.roll(image, (-y, -x), (0, 1))
    return bool((moved * usual).mean() > (image * usual).mean() + _GAIN)


def _standardised(image: NDArray[np.floating]) -> NDArray[np.float64]:
    values = np.nan_to_num(image.astype(np.float64))
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-12))


def turned_normals_warnings(name: str, channels: int, augment: str) -> list[str]:
    """Return a warning if a map that is normals by its name is flipped or turned: its components stay as they are."""
    if augment == "none" or channels < 2 or "normal" not in name.lower():
        return []
    return [
        f"map {name}: training.augment {augment!r} moves the pixels of normals and leaves their components: no real "
        "surface looks like that; set it to 'none'"
    ]


def few_patches_warnings(name: str, moments: Mapping[str, ImageMoments], channels: int, tile_px: int) -> list[str]:
    """Return a warning if the images hold material for few patches only."""
    patches = sum(m.count for m in moments.values()) / channels / tile_px**2
    if patches >= _FEW_PATCHES:
        return []
    return [
        f"map {name}: {len(moments)} image(s) hold material for {patches:.0f} patches of {tile_px} px, side by side: "
        "what is usual is not known well, and limits are unsure; give more good parts"
    ]


def copy_warnings(files: Sequence[TrainingFile]) -> list[str]:
    """Return a warning if images are copies of each other: validation on a copy of what was learnt proves nothing."""
    known: dict[tuple[str, str], str] = {}
    copies = []
    for file in files:
        first = known.setdefault((file.map, file.sha256), file.part)
        if first != file.part:
            copies.append(f"{file.part} of {first}")
    if not copies:
        return []
    return [f"{len(copies)} image(s) are copies of others ({', '.join(copies[:3])}): keep one of each"]


def overfit_warnings(name: str, history: Sequence[Mapping[str, float | None]]) -> list[str]:
    """Return a warning if the loss on held-out parts rose again while the network went on learning."""
    losses = [(entry["step"], loss) for entry in history if (loss := entry["val_loss"]) is not None]
    if len(losses) < _LEAST_LOSSES:
        return []
    best_step, best = min(losses, key=lambda found: found[1])
    last = float(np.median([loss for _, loss in losses[-3:]]))
    if best <= 0 or last < _OVERFIT * best:
        return []
    return [
        f"map {name}: after step {best_step:.0f} the loss on held-out parts rose from {best:.4g} to {last:.4g}: the "
        "network learns its images by heart. The weights of that step were kept; more good parts would help"
    ]

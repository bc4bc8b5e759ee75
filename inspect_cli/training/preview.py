"""Pictures without any training: the corruptions a network is taught to remove, and the region of interest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from inspect_cli.arrays import Mask
from inspect_cli.console import Teller
from inspect_cli.errors import UsageError
from inspect_cli.images import Part, open_map
from inspect_cli.images.reduced import reduction
from inspect_cli.methods.registry import AUTO
from inspect_cli.pictures.draw import caption_strip, enlarged, stacked, tint, to_rgb
from inspect_cli.pictures.gallery import save_corruptions
from inspect_cli.pictures.previews import UNCOVERED_RGB, save_png
from inspect_cli.store.layout import ROI_PREVIEW
from inspect_cli.training.batches import MapTraining, training_batch
from inspect_cli.training.order import TrainingOrder, closing, open_job, open_order

#: Patches in the picture.
SHOWN: Final = 8
#: Longer side of a part in the picture of its ROI, at most.
_ROI_PX: Final = 800


def preview_roi(parts: Sequence[Part], rois: Mapping[str, Mask | None], name: str, path: Path) -> None:
    """Write a picture of some parts of a map, what lies outside their ROI in red, with the share inside."""
    step = -(-len(parts) // SHOWN)
    pictures = []
    for part in parts[::step]:
        with open_map(part.files[name]) as reader:
            pixels = reader.read()
        grey = pixels.astype(np.float32) if pixels.ndim == 2 else pixels.mean(axis=2, dtype=np.float32)
        factor = reduction(grey.shape[0], grey.shape[1], _ROI_PX)
        small = grey[::factor, ::factor]
        low, high = np.nanquantile(small, [0.01, 0.99])
        shown = to_rgb((np.clip((small - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8))
        inside = rois[part.id]
        share = 1.0 if inside is None else float(inside.mean())
        if inside is not None:
            tint(shown, ~inside[::factor, ::factor], UNCOVERED_RGB, 0.6)
        shown = enlarged(shown)
        pictures.append(stacked(shown, caption_strip(shown.shape[1], f"{part.id}: {share:.0%} inside")))
    whole = pictures[0]
    for picture in pictures[1:]:
        whole = stacked(whole, picture)
    save_png(path, whole)


def preview_corruption(job: MapTraining, path: Path) -> None:
    """Write the first training patches of a map, clean and corrupted, as a picture.

    Raises
    ------
    UsageError
        If the method corrupts nothing.
    """
    if job.detector.corruption() is None:
        raise UsageError(f"--preview-corruptions: method {job.detector.name} is trained on patches as they are")
    found: list[list[torch.Tensor]] = [[], [], []]
    for step in range(-(-SHOWN // job.batch)):
        batch = training_batch(job, step, job.detector.tile_px)
        assert batch.corrupted is not None
        assert batch.changed is not None
        for column, values in zip(found, (batch.tiles, batch.corrupted, batch.changed), strict=True):
            column.append(values)
    clean, corrupted, changed = (torch.cat(column)[:SHOWN].cpu().numpy() for column in found)
    save_corruptions(path, clean, corrupted, changed)


def preview_corruptions(order: TrainingOrder, teller: Teller) -> list[Path]:
    """Write a picture of each map's corruptions beside the bundle, train nothing, and return the pictures.

    Raises
    ------
    NoInputError
        If no part is usable.
    UsageError
        If the method corrupts nothing.
    """
    sources = open_order(order, teller)
    pictures = []
    for name in order.maps:
        job = open_job(order, name, sources, [])
        with closing(job):
            pictures.append(order.bundle_folder / f"corruptions_{name}.png")
            preview_corruption(job, pictures[-1])
    return pictures


def preview_rois(order: TrainingOrder, teller: Teller) -> list[Path]:
    """Write a picture of the ROI of some parts beside the recipe, train nothing, and return it.

    Raises
    ------
    NoInputError
        If no part is usable.
    """
    survey = open_order(replace(order, method=AUTO, defects=(), truth=None), teller).survey
    name = order.material.recipe.roi.map or next(iter(order.maps))
    picture = order.material.folder / ROI_PREVIEW
    preview_roi(survey.parts, survey.rois, name if name in order.maps else next(iter(order.maps)), picture)
    return [picture]

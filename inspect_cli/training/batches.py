"""What is trained on: a map's patches, turned, corrupted and brought to the device."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inspect_cli.corruptions import Corrupted
from inspect_cli.engines.transfer import upload
from inspect_cli.images.values import Preprocess
from inspect_cli.methods.base import Batch, Detector
from inspect_cli.recipe.schema import TrainingSpec
from inspect_cli.tiles.sampler import PatchSource
from inspect_cli.tiles.tiling import count_of_area
from inspect_cli.tiles.turn import Augmentation, turned
from inspect_cli.training.budget import MapBudget

#: Patches of up to 128 px that are looked at; of larger ones as many as have the same area, but not too few.
VALIDATION_PATCHES = 128
FEWEST_VALIDATION_PATCHES = 16
BEGIN_PATCHES = 32
FEWEST_BEGIN_PATCHES = 16
FEWEST_FIT_PATCHES = 64
#: More patches than so many times those that lie side by side show the same material over and over.
FIT_OVERLAP: Final = 8
_SMALLEST_BATCH = 2
#: Seed offset that keeps validation patches apart from training patches.
VALIDATION_STEP = 2**31
#: The same for the patches that :meth:`Detector.fit` looks at.
FIT_STEP = 2**32
#: The same for those that :meth:`Detector.begin` looks at.
BEGIN_STEP = 2**33


@dataclass
class MapTraining:
    """Everything the loop needs to train one map."""

    detector: Detector
    preprocess: Preprocess
    train: PatchSource
    validation: PatchSource
    spec: TrainingSpec
    budget: MapBudget
    seed: int
    device: torch.device
    checkpoint: Path
    fingerprint: str
    #: Patches with labelled defects, for supervised methods: half of every batch.
    defects: PatchSource | None = None
    validation_defects: PatchSource | None = None

    @property
    def batch(self) -> int:
        """Patches in one step."""
        return self.patches(self.spec.batch, _SMALLEST_BATCH)

    def patches(self, count: int, least: int) -> int:
        """Return how many patches have the area of ``count`` patches of 128 px, but ``min(least, count)`` or more."""
        return count_of_area(count, self.detector.tile_px, least)


def training_batch(job: MapTraining, step: int, side_px: int | None = None) -> Batch:
    """Return the patches of a training step: turned, cut to ``side_px`` or the side in force, corrupted."""
    side = side_px or job.detector.training_side_px(job.budget.progress(step))
    return make_batch(job, job.train, job.defects, step, job.batch, side, job.spec.augment)


def validation_batches(job: MapTraining, most: int | None = None) -> list[Batch]:
    """Return the fixed validation patches in batches, corrupted like those of the training; the first ``most``."""
    count = -(-job.patches(VALIDATION_PATCHES, FEWEST_VALIDATION_PATCHES) // job.batch)
    steps = range(VALIDATION_STEP, VALIDATION_STEP + min(count, most or count))
    return [
        make_batch(job, job.validation, job.validation_defects, step, job.batch, job.detector.tile_px)
        for step in steps
    ]


def begin_tiles(job: MapTraining) -> Tensor:
    """Return the good training patches (n, channels, side, side) that :meth:`Detector.begin` looks at."""
    count, side = job.patches(BEGIN_PATCHES, FEWEST_BEGIN_PATCHES), job.detector.tile_px
    shape = (count, job.preprocess.channels, side, side)
    tiles = torch.empty(shape, device=job.device, memory_format=torch.channels_last)
    for at in range(0, count, job.batch):  # each batch goes to its place: many large ones are not held twice
        some = _to_device(job, *_prepared(job, job.train, BEGIN_STEP + at // job.batch, job.batch)).tiles
        tiles[at : at + len(some)] = some[: count - at]
    return tiles


def fit_tiles(job: MapTraining) -> Tensor:
    """Return the good patches that :meth:`Detector.fit` looks at, turned as in training, no two the same.

    Of little material there are fewer. Images with room for one patch yield the same one again and again: a memory or
    a density of some would know the others by heart, and take them for the usual ones.
    """
    most_drawn = max(FEWEST_FIT_PATCHES, round(FIT_OVERLAP * job.train.side_by_side))
    count = min(job.patches(job.detector.fit_patches, FEWEST_FIT_PATCHES), most_drawn)
    side = job.detector.tile_px
    shape = (count, job.preprocess.channels, side, side)
    kept = torch.empty(shape, device=job.device, memory_format=torch.channels_last)
    known: set[bytes] = set()
    for step in range(-(-most_drawn // job.batch)):
        rng = np.random.default_rng([job.seed, FIT_STEP + step, 1])
        tiles, _ = _prepared(job, job.train, FIT_STEP + step, job.batch, rng, job.spec.augment)
        digests = [hashlib.blake2b(tile.tobytes()).digest() for tile in tiles]
        first = [n for n, digest in enumerate(digests) if digest not in known and digest not in digests[:n]]
        some = _to_device(job, tiles[first[: count - len(known)]], None).tiles
        kept[len(known) : len(known) + len(some)] = some
        known.update(digests[n] for n in first[: len(some)])
        if len(known) == count:
            break
    return kept[: len(known)]


def make_batch(
    job: MapTraining,
    good: PatchSource,
    defects: PatchSource | None,
    step: int,
    size: int,
    side_px: int,
    augment: Augmentation = "none",
) -> Batch:
    """Return a step's patches on the device; everything random in them follows from (seed, step).

    With ``defects``, that half of the batch comes second and ``Batch.defective`` tells.
    """
    rng = np.random.default_rng([job.seed, step, 1])
    count = size if defects is None else size - size // 2
    tiles, roi = _prepared(job, good, step, count, rng, augment)
    defective = None
    if defects is not None:
        bad, bad_roi = _prepared(job, defects, step, size // 2, rng, augment)
        defective = np.repeat(np.array([0, 1], np.float32), [len(tiles), len(bad)])
        roi = _joined(roi, bad_roi, tiles, bad)
        tiles = np.concatenate([tiles, bad])
    tiles = np.ascontiguousarray(tiles[..., :side_px, :side_px])
    roi = None if roi is None else np.ascontiguousarray(roi[..., :side_px, :side_px])
    corruption = job.detector.corruption()
    damaged = None if corruption is None else corruption(tiles, rng)
    return _to_device(job, tiles, roi, damaged, defective)


def _prepared(
    job: MapTraining,
    source: PatchSource,
    step: int,
    size: int,
    rng: np.random.Generator | None = None,
    augment: Augmentation = "none",
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return tiles (n, channels, side, side) in the unit range and ROI masks (n, 1, side, side)."""
    patches, masks = source.batch(step, size)
    if rng is not None:
        patches, masks = turned(patches, masks, rng, augment)
    tiles = job.preprocess.to_network(patches, masks)
    return tiles, None if masks is None else masks[:, None].astype(np.float32)


def _joined(
    first: NDArray[np.float32] | None,
    second: NDArray[np.float32] | None,
    tiles: NDArray[np.float32],
    others: NDArray[np.float32],
) -> NDArray[np.float32] | None:
    """Return the ROI masks of two sets of tiles, one of which may have none."""
    if first is None and second is None:
        return None
    masks = [
        np.ones_like(pixels[:, :1]) if mask is None else mask for mask, pixels in ((first, tiles), (second, others))
    ]
    return np.concatenate(masks)


def _to_device(
    job: MapTraining,
    tiles: NDArray[np.float32],
    roi: NDArray[np.float32] | None,
    damaged: Corrupted | None = None,
    defective: NDArray[np.float32] | None = None,
) -> Batch:
    def moved(values: NDArray[np.float32] | None) -> Tensor | None:
        if values is None:
            return None
        tensor = upload(values, job.device)
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    clean = moved(tiles)
    assert clean is not None
    patches, changed = (None, None) if damaged is None else damaged
    return Batch(clean, moved(roi), moved(patches), moved(changed), moved(defective))

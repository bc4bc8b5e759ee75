"""Training images -> split, preprocessing, and what normal pictures look like."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspect_cli.arrays import Mask
from inspect_cli.errors import InputError, NoInputError
from inspect_cli.images import Part, ValueRange, find_roi, open_map
from inspect_cli.images.contract import checked_headers
from inspect_cli.images.reader import usual_value
from inspect_cli.images.reduced import BlockReducer, reduction
from inspect_cli.images.roi import largest_share
from inspect_cli.images.values import Preprocess, is_wide
from inspect_cli.material.manifest import Acquisition, RoiShare
from inspect_cli.recipe.schema import MapSpec, Recipe
from inspect_cli.scoring.moments import PixelMoments
from inspect_cli.store.layout import RECIPE
from inspect_cli.tiles.sampler import PatchSampler, PatchSource
from inspect_cli.tiles.tiling import TILE_PX, count_of_area

#: Quantiles of the training pixels that ``range: train`` maps to 0 and 1.
TRAIN_QUANTILES = (0.001, 0.999)
#: Quantiles that are as near as this tell nothing: levels of integers, and for floats a share of the value.
_LEAST_LEVELS = 3
_LEAST_SHARE = 1e-6
#: The range of an even map, as a share of what its type can hold or, for floats, of its value.
_EVEN_SHARE = 1e-3
#: Quantiles of the training pixels that previews show as black and white.
PREVIEW_QUANTILES = (0.01, 0.99)
#: Of the mean share of the image inside the ROI: how much it may differ at least.
_LEAST_ROOM = 0.01
#: Share of the images that may be smaller than a tile.
_SMALLER_SHARE = 0.1
_PROBE_PATCHES = 256
_FEWEST_PROBED = 32
_PROBE_STEP = 2**30
_READ_ROWS = 512
#: Longer side of the reduced images by which parts that lie elsewhere are found, at most.
_SMALL_PX = 128


@dataclass(frozen=True)
class Split:
    """Parts to learn from and parts kept for validation."""

    train: list[Part]
    validation: list[Part]


def split_parts(parts: Sequence[Part], share: float, seed: int) -> Split:
    """Split by part, at least one on each side; a single part serves on both."""
    if len(parts) == 1:
        return Split(list(parts), list(parts))
    order = np.random.default_rng(seed).permutation(len(parts))
    count = min(max(1, round(share * len(parts))), len(parts) - 1)
    held = {int(i) for i in order[:count]}
    return Split([p for i, p in enumerate(parts) if i not in held], [p for i, p in enumerate(parts) if i in held])


@dataclass
class ImageMoments(PixelMoments):
    """Mean and spread of an image, and the mean difference of a pixel to its right neighbour, which blur lowers.

    ``small`` is the image less ``origin`` (h, w), mean over channels, reduced so that a pixel stands for ``scale`` by
    ``scale``.
    """

    steps: float = 0.0
    step_count: int = 0
    small: NDArray[np.float32] | None = None
    scale: int = 1

    def add_steps(self, unit: NDArray[np.float32], inside: Mask | None) -> None:
        """Add the differences within rows (n, width[, channels])."""
        steps = np.abs(np.diff(unit, axis=1))
        if inside is not None:
            steps = steps[inside[:, 1:] & inside[:, :-1]]
        self.steps += float(steps.sum(dtype=np.float64))
        self.step_count += steps.size

    @property
    def sharpness(self) -> float:
        """Mean difference of neighbours over the spread of the pixels."""
        return self.steps / max(self.step_count, 1) / max(self.spread, 1e-12)


class PackedMasks(MutableMapping[str, Mask | None]):
    """Masks (height, width) by part, kept at a bit a pixel; each is unpacked when it is asked for."""

    def __init__(self) -> None:
        self._packed: dict[str, tuple[NDArray[np.uint8], int] | None] = {}

    def __getitem__(self, part: str) -> Mask | None:
        found = self._packed[part]
        return None if found is None else np.unpackbits(found[0], axis=1, count=found[1]).astype(bool)

    def __setitem__(self, part: str, mask: Mask | None) -> None:
        self._packed[part] = None if mask is None else (np.packbits(mask, axis=1), mask.shape[1])

    def __delitem__(self, part: str) -> None:
        del self._packed[part]

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


@dataclass
class Survey:
    """The parts that can be trained on, what was measured on them, and why others were left out."""

    parts: list[Part] = field(default_factory=list)
    rois: PackedMasks = field(default_factory=PackedMasks)
    moments: dict[tuple[str, str], ImageMoments] = field(default_factory=dict)
    dtypes: dict[str, np.dtype[Any]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    #: Height and width of a part's images.
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    _roi_shares: dict[tuple[str, int], float] = field(init=False, default_factory=dict)

    @property
    def shortest_px(self) -> int:
        """Shorter side of the smallest image of the parts; 0 without any."""
        return min((min(self.sizes[part.id]) for part in self.parts), default=0)

    @property
    def common_px(self) -> int:
        """Shorter side that nine of ten parts' images have at least; smaller ones are mirrored to fill a tile."""
        sides = sorted(min(self.sizes[part.id]) for part in self.parts)
        return sides[int(_SMALLER_SHARE * (len(sides) - 1))] if sides else 0

    @property
    def least_size_px(self) -> tuple[int, int]:
        """Least width and least height of the parts' images."""
        height, width = (min(self.sizes[part.id][axis] for part in self.parts) for axis in (0, 1))
        return width, height

    def roi_share(self, part: Part, tile_px: int) -> float:
        """Return the largest share of a tile that lies inside a part's ROI, wherever the tile is."""
        known = (part.id, tile_px)
        if known not in self._roi_shares:
            roi = self.rois[part.id]
            self._roi_shares[known] = 1.0 if roi is None else largest_share(roi, tile_px)
        return self._roi_shares[known]

    def largest_tile_px(self, tile_px: int, least_share: float) -> int:
        """Return ``tile_px``, halved until every part's ROI has a place for a tile, ``TILE_PX`` at least."""
        while tile_px > TILE_PX and any(self.roi_share(part, tile_px) < least_share for part in self.parts):
            tile_px = max(TILE_PX, tile_px // 2)
        return tile_px


def survey_parts(
    parts: Sequence[Part],
    recipe: Recipe,
    maps: dict[str, MapSpec],
    recipe_folder: Path,
    known_dtypes: dict[str, np.dtype[Any]] | None = None,
) -> Survey:
    """Read every image once before training, so that a damaged one is left out at the start, by name.

    ``known_dtypes`` are the pixel types that maps must have; without them those that most parts have.

    Raises
    ------
    NoInputError
        If no part is usable; the message is the first part's.
    """
    survey = Survey(dtypes=dict(_usual_dtypes(parts, maps) if known_dtypes is None else known_dtypes))
    for part in parts:
        try:
            size, dtypes = _check_part(part, recipe, maps, survey.dtypes)
            roi = find_roi(recipe, part, recipe_folder, size)
            moments = {name: measure_image(part.files[name], roi) for name in maps}
        except InputError as error:
            survey.faults.append(str(error))
            continue
        survey.parts.append(part)
        survey.dtypes |= dtypes
        survey.sizes[part.id] = size
        survey.rois[part.id] = roi
        survey.moments |= {(part.id, name): found for name, found in moments.items()}
    if not survey.parts:
        raise NoInputError(f"no usable training part: {survey.faults[0]} (by {recipe_folder / RECIPE})")
    return survey


def without_room(survey: Survey, recipe: Recipe) -> dict[str, str]:
    """Return the parts whose ROI has no place for a patch, so that they could not be learnt from, and why."""
    tile_px, least = recipe.tiles.size_px or TILE_PX, recipe.training.min_roi_share
    shares = {part.id: survey.roi_share(part, tile_px) for part in survey.parts}
    return {
        part.id: f"{next(iter(part.files.values()))}: no tile of {tile_px} px lies inside its ROI by {least:.0%} (by "
        f"{shares[part.id]:.0%} at most); look at it with --preview-roi, or set tiles.size_px or "
        "training.min_roi_share lower"
        for part in survey.parts
        if shares[part.id] < least
    }


def _usual_dtypes(parts: Sequence[Part], maps: Iterable[str]) -> dict[str, np.dtype[Any]]:
    """Return the pixel type that most files of each map have; a map without a readable file has none."""
    found = {}
    for name in maps:
        counts: Counter[np.dtype[Any]] = Counter()
        for part in parts:
            with contextlib.suppress(InputError, KeyError), open_map(part.files[name]) as reader:
                counts[reader.header.dtype] += 1
        if counts:
            found[name] = counts.most_common(1)[0][0]
    return found


def _check_part(
    part: Part, recipe: Recipe, maps: dict[str, MapSpec], dtypes: dict[str, np.dtype[Any]]
) -> tuple[tuple[int, int], dict[str, np.dtype[Any]]]:
    """Check a part's headers, the pixel types of maps against ``dtypes``; return height and width, and its types."""
    headers = checked_headers(part, maps, recipe.size_px, dtypes)
    first = next(iter(headers.values()))
    return (first.height, first.width), {name: header.dtype for name, header in headers.items()}


def measure_image(path: Path, roi: Mask | None) -> ImageMoments:
    """Return mean, spread and sharpness of an image inside its ROI, in stored values, and the image reduced.

    Values that float32 does not hold are measured from a usual one of theirs.

    Raises
    ------
    InputError
        If it cannot be decoded, or a pixel inside the ROI is no finite number.
    """
    with open_map(path) as reader:
        moments = ImageMoments(origin=usual_value(reader) if is_wide(reader.header.dtype) else 0.0)
        stored = ValueRange(moments.origin, moments.origin + 1)
        moments.scale = reduction(reader.header.height, reader.header.width, _SMALL_PX)
        reducer = BlockReducer(moments.scale, "mean")
        for y, band in reader.bands(_READ_ROWS):
            rows, inside = stored.to_unit(band), None if roi is None else roi[y : y + len(band)]
            moments.add(rows, inside)
            moments.add_steps(rows, inside)
            reducer.push(rows)
        small = reducer.result()
        moments.small = small if small.ndim == 2 else small.mean(axis=2)
    if moments.missing:
        if roi is not None:
            raise InputError(f"{path}: {moments.missing} values inside the ROI are no finite numbers")
        hint = "beside the part? `roi: {rule: dark}` leaves them out"
        raise InputError(f"{path}: {moments.missing} values are no finite numbers ({hint})")
    return moments


def _probe(sampler: PatchSource) -> NDArray[Any]:
    """Return pixels (n, channels) from inside the ROI of random training patches."""
    patches, masks = sampler.batch(_PROBE_STEP, count_of_area(_PROBE_PATCHES, sampler.tile_px, _FEWEST_PROBED))
    pixels = patches[..., None] if patches.ndim == 3 else patches
    return pixels.reshape(-1, pixels.shape[-1]) if masks is None else pixels[masks]


def learn_preprocess(sampler: PatchSampler, spec: MapSpec) -> Preprocess:
    """Return the value range and the fill value (mean inside the ROI, a channel each) of a map."""
    inside = _probe(sampler)
    if spec.range == "type":
        limits = ValueRange.of_type(sampler.dtype)
    elif spec.range == "train":
        limits = range_of(inside)
    else:
        limits = ValueRange(*spec.range)
    fill = tuple(float(v) for v in limits.to_unit(inside).mean(axis=0, dtype=np.float64))
    return Preprocess(limits, fill, str(sampler.dtype))


def range_of(pixels: NDArray[Any]) -> ValueRange:
    """Return the range of stored values that ``range: train`` stands for: of the quantiles ``TRAIN_QUANTILES``.

    Where these hardly differ, as on a dark field with some bright pixels, it reaches from the least value to the
    largest; of an even map it is a small share of what the type can hold, or of its value.
    """
    low, high = np.quantile(pixels.astype(np.float64), TRAIN_QUANTILES)
    is_float = pixels.dtype.kind == "f"
    least = _LEAST_SHARE * max(abs(low), abs(high)) if is_float else _LEAST_LEVELS
    if high - low <= least:
        low, high = float(pixels.min()), float(pixels.max())
    if high - low <= least:
        whole = max(abs(low), 1.0) if is_float else float(np.iinfo(pixels.dtype).max)
        high = low + _EVEN_SHARE * whole
    return ValueRange(float(low), float(high))


def preview_range(sampler: PatchSource, preprocess: Preprocess) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return, a channel each, the unit values that previews show as black and white."""
    inside = _probe(sampler)
    low, high = np.quantile(preprocess.range.to_unit(inside), PREVIEW_QUANTILES, axis=0)
    high = np.maximum(high, low + 1e-4)
    return tuple(float(v) for v in low), tuple(float(v) for v in high)


def learn_acquisition(moments: Sequence[PixelMoments], limits: ValueRange) -> list[Acquisition]:
    """Return, a channel each, the range of mean and spread that the training images span, with room, in unit range.

    The room is the larger of four standard deviations between images and a share of the spread, so that
    few images do not make a narrow range: half a spread for the mean, a factor two for the spread. A channel that
    hardly varies has room by the others: its mean a quarter of the spread of all channels together, its spread a
    quarter of that of the channel that varies most.
    """
    scale = 1.0 / (limits.high - limits.low)
    means = (np.array([m.channel_means for m in moments]) - limits.low) * scale
    spreads = np.array([m.channel_spreads for m in moments]) * scale
    tilt = max(0.25 * scale * float(np.mean([m.spread for m in moments])), 1e-4)
    least = max(0.25 * float(spreads.mean(axis=0).max()), 1e-4)
    return [_accepted(mean, spread, tilt, least) for mean, spread in zip(means.T, spreads.T, strict=True)]


def learn_roi_share(rois: Iterable[Mask | None]) -> RoiShare:
    """Return the range of the share of the image that training ROIs cover.

    The room is the larger of four standard deviations and a hundredth of the mean.
    """
    shares = np.array([1.0 if roi is None else roi.mean() for roi in rois])
    room = max(4 * float(shares.std()), _LEAST_ROOM * float(shares.mean()))
    return RoiShare(low=max(0.0, float(shares.min()) - room), high=min(1.0, float(shares.max()) + room))


def _accepted(
    means: NDArray[np.float64], spreads: NDArray[np.float64], least_of_mean: float, least: float
) -> Acquisition:
    """Return the range of a channel's means and spreads, one of each an image, with at least so much room."""
    usual, slack = float(spreads.mean()), 4 * float(spreads.std())
    room = max(4 * float(means.std()), 0.5 * usual, least_of_mean)
    low, high = float(spreads.min()), float(spreads.max())
    return Acquisition(
        mean_low=float(means.min()) - room,
        mean_high=float(means.max()) + room,
        spread_low=max(0.0, min(low / 2, low - slack)) if usual > least else 0.0,
        spread_high=max(high * 2, high + slack, high + least) + 1e-4,
    )

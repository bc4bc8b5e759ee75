"""What a training learns from: good parts, added patches, and parts with labelled defects."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np

from inspect_cli.arrays import Mask
from inspect_cli.errors import InputError, NoInputError, UsageError
from inspect_cli.evaluation.truth import MIN_DEFECT_PX, Truth, has_marks
from inspect_cli.images import Part, open_map
from inspect_cli.images.infer import JPEG, is_mask
from inspect_cli.images.parts import ANY_FOLDER, masks_elsewhere, truth_of
from inspect_cli.images.reader import SUFFIXES
from inspect_cli.material.manifest import TrainingFile
from inspect_cli.recipe.schema import NOT_A_MAP, MapSpec, Recipe, RoiSpec
from inspect_cli.store.digest import file_sha256
from inspect_cli.tiles.sampler import PatchSampler, PixelCache, SamplerImage
from inspect_cli.training.prepare import PackedMasks, Split, Survey, split_parts, survey_parts


@dataclass(frozen=True)
class Parts:
    """Parts by what they are learnt as, before any of them was opened.

    ``extra`` are added to the good parts for training only; ``defects`` show defects, at the places that
    ``truth`` marks, or anywhere if there is none.
    """

    good: Sequence[Part]
    extra: Sequence[Part] = ()
    defects: Sequence[Part] = ()
    truth: Truth | None = None


@dataclass(frozen=True)
class Sources:
    """The usable parts, split into those to learn from and those kept for validation."""

    survey: Survey
    split: Split
    extra: Survey = field(default_factory=Survey)
    defects: Survey = field(default_factory=Survey)
    defect_split: Split = field(default_factory=lambda: Split([], []))
    targets: PackedMasks = field(default_factory=PackedMasks)
    pixels: PixelCache = field(default_factory=PixelCache, compare=False)

    @property
    def faults(self) -> list[str]:
        """Why parts were left out, one line each."""
        return self.survey.faults + self.extra.faults + self.defects.faults

    def files(self, maps: Sequence[str]) -> list[TrainingFile]:
        """Return every file that is learnt from, with its hash and use."""
        uses = [("train", part) for part in self.split.train]
        uses += [("validation", part) for part in self.split.validation if part not in self.split.train]
        uses += [("extra", part) for part in self.extra.parts]
        uses += [("defect", part) for part in self.defects.parts]
        return [
            TrainingFile.model_validate(
                {"part": part.id, "map": name, "sha256": file_sha256(part.files[name]), "use": use}
            )
            for use, part in uses
            for name in maps
        ]

    def without(self, names: Collection[str], share: float, seed: int) -> Sources:
        """Return the sources without some good parts, split anew with ``share`` kept for validation."""
        survey = replace(self.survey, parts=[part for part in self.survey.parts if part.id not in names])
        return replace(self, survey=survey, split=split_parts(survey.parts, share, seed))


def masks_sha256(masks: Iterable[Mask | None]) -> str:
    """Return the hash of masks, each None for everything."""
    digest = hashlib.sha256()
    for mask in masks:
        digest.update(b"-" if mask is None else str(mask.shape).encode() + np.packbits(mask).tobytes())
    return digest.hexdigest()


def open_sources(given: Parts, recipe: Recipe, maps: dict[str, MapSpec], recipe_folder: Path, seed: int) -> Sources:
    """Read every image once and split the parts.

    Raises
    ------
    NoInputError
        If no good part is usable, or none of the extra or defective ones although some were given.
    InputError
        If a mask of the truth does not fit its part.
    """
    good, labelled = good_parts(given.good)
    survey = survey_parts(good, recipe, maps, recipe_folder)
    survey.faults.extend(labelled)
    split = split_parts(survey.parts, recipe.training.validation_share, seed)
    extra = defects = Survey()
    if given.extra:
        # Generated patches have neither the part's size nor a background.
        loose = recipe.model_copy(update={"size_px": None, "roi": RoiSpec()})
        extra = survey_parts(given.extra, loose, maps, recipe_folder, survey.dtypes)
    if not given.defects:
        return Sources(survey, split, extra)
    defects = survey_parts(given.defects, recipe, maps, recipe_folder, survey.dtypes)
    targets, marked = PackedMasks(), []
    for part in defects.parts:
        target = _target(part, next(iter(maps)), given.truth)
        targets[part.id] = target
        if target is None or target.any():
            marked.append(part)
    if not marked:
        raise NoInputError("--defects: no part has a pixel that --truth marks; check that the names fit")
    if len(marked) < len(defects.parts):
        none = [part.id for part in defects.parts if part not in marked]
        fault = f"{len(none)} of --defects without a pixel that --truth marks: {', '.join(none[:3])}"
        defects = replace(defects, parts=marked, faults=[*defects.faults, fault])
    return Sources(
        survey, split, extra, defects, split_parts(marked, recipe.training.validation_share, seed), targets
    )


def good_parts(parts: Sequence[Part]) -> tuple[list[Part], list[str]]:
    """Return the parts beside which no mask with defects lies, and what to say of the others.

    Raises
    ------
    NoInputError
        If none is left.
    """
    labelled = marked_beside(parts)
    good = [part for part in parts if part.id not in labelled]
    if labelled and not good:
        raise NoInputError(f"no good part: {next(iter(labelled.values()))}")
    return good, list(labelled.values())


def marked_beside(parts: Iterable[Part]) -> dict[str, str]:
    """Return the parts with a mask of defects, and what to say.

    Such a mask is named like ``P1_label`` or ``P1_gt``, or after a map: ``P1_albedo_label``; it is the PNG of a
    JPEG's name; or it lies in a folder of masks (``masks``, ``label``, ``ground_truth``).

    A file ``P1_mask`` may be an ROI, and tells nothing; nor do masks in a folder that mark most parts, or one that
    may be of several.
    """
    parts = list(parts)
    masks: dict[Path, dict[str, Path]] = {}
    beside: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    apart = {folder: masks_elsewhere(folder) for folder in {part.folder for part in parts}}
    for part in parts:
        for path in part.files.values():
            if path.parent not in masks:
                masks[path.parent] = _masks_in(path.parent)
            named = masks[path.parent]
            drawn = path.with_suffix(".png")
            near = [named.get(path.stem), named.get(part.id.rpartition("/")[2])]
            is_drawn = path.suffix.lower() in JPEG and drawn.is_file() and drawn not in part.files.values()
            near += [drawn] if is_drawn and is_mask(drawn) else []
            beside |= _marking(part, near)
    known = {part.id: _masks_of(part, apart[part.folder]) for part in parts}
    times = Counter(mask for masks_of_part in known.values() for mask in masks_of_part)
    for part in parts:
        elsewhere |= _marking(part, sorted(mask for mask in known[part.id] if times[mask] == 1))
    return beside | (elsewhere if 2 * len(elsewhere) <= len(parts) else {})


def _marking(part: Part, masks: Iterable[Path | None]) -> dict[str, str]:
    """Return the part and what to say if one of its masks marks a defect."""
    for mask in masks:
        with suppress(InputError):  # one that cannot be read tells nothing
            if mask is not None and has_marks(mask):
                return {part.id: f"{part.id}: its mask {mask} marks defects"}
    return {}


def _masks_of(part: Part, masks: Mapping[Path, list[Path]]) -> set[Path]:
    """Return the masks of a part by its own name and those of its maps, as :func:`masks_elsewhere` lists them."""
    found: set[Path] = set()
    names = {path.relative_to(part.folder).with_suffix("").as_posix() for path in part.files.values()}
    for name in names | {part.id}:
        *place, stem = name.split("/")
        keys = [Path(*place, stem)]
        keys += [Path(*place[:at], ANY_FOLDER, *place[at + 1 :], stem) for at in range(len(place))]
        found.update(mask for key in keys for mask in masks.get(key, ()))
    return found


def _masks_in(folder: Path) -> dict[str, Path]:
    named = {path: truth_of(path.stem) for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}
    return {part: path for path, part in named.items() if part is not None and not NOT_A_MAP.search(path.name)}


def _target(part: Part, name: str, truth: Truth | None) -> Mask | None:
    if truth is None:
        return None
    with open_map(part.files[name]) as reader:
        height, width = reader.header.height, reader.header.width
    mask = truth.mask(part.id, height, width)
    return np.zeros((height, width), bool) if mask is None else mask


def good_sampler(
    sources: Sources, name: str, recipe: Recipe, tile_px: int, seed: int, validation: bool = False
) -> PatchSampler:
    """Return a sampler of one map's good patches; those for training include the extra ones."""
    rois = sources.survey.rois
    parts = sources.split.validation if validation else sources.split.train
    extra = () if validation else sources.extra.parts
    images = (SamplerImage(part.files[name], rois[part.id]) for part in parts)
    added = (SamplerImage(part.files[name]) for part in extra)
    share = recipe.training.min_roi_share
    return PatchSampler(chain(images, added), tile_px, seed, share, pixels=sources.pixels)


def defect_sampler(
    sources: Sources, name: str, recipe: Recipe, tile_px: int, seed: int, validation: bool = False
) -> PatchSampler:
    """Return a sampler of one map's patches that show a labelled defect.

    Raises
    ------
    UsageError
        If no patch shows enough of one.
    """
    parts = sources.defect_split.validation if validation else sources.defect_split.train
    marked = any(target is not None for target in sources.targets.values())
    share = MIN_DEFECT_PX / tile_px**2 if marked else recipe.training.min_roi_share
    images = (
        SamplerImage(part.files[name], sources.defects.rois[part.id], sources.targets[part.id]) for part in parts
    )
    try:
        return PatchSampler(images, tile_px, seed, share, pixels=sources.pixels)
    except NoInputError as error:
        raise UsageError(
            f"--defects: no patch shows {MIN_DEFECT_PX} px of a marked defect inside the ROI ({error})"
        ) from error

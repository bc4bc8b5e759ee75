"""What can be generated, and the plan of a batch: which part goes where and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from inspect_cli.errors import UsageError, nearest
from inspect_cli.sample import defects, surface
from inspect_cli.sample.optics import ENCODINGS, photograph
from inspect_cli.sample.part import PartData, PartKey
from inspect_cli.sample.synthetic import chess_part, noise_part

SMALLEST_SIDE_PX: Final = 64
TRAIN_PARTS_OF_PAPER: Final = 4  # good images of the synthetic sets, all for training (IND, section 3.1)


@dataclass(frozen=True)
class Material:
    """What can be generated: size (columns, rows) and maps if not asked otherwise, kinds of defects.

    ``produce(key, kind, maps)`` makes one part, defective if ``kind`` is not None. ``least_train`` good
    parts stay in the training folder before any goes to the test folder.
    """

    size_px: tuple[int, int]
    maps: tuple[str, ...]
    kinds: tuple[str, ...]
    produce: Callable[[PartKey, str | None, tuple[str, ...]], PartData]
    pixel_pitch_um: float | None = None
    least_train: int = 0


def physical_part(key: PartKey, kind: str | None, maps: tuple[str, ...]) -> PartData:
    """Make a part of riblet or steel: draw its layers, damage them, photograph the maps asked for."""
    layers = surface.LAYERS[key.material](key)
    instances = [] if kind is None else defects.draw_instances(key, kind)
    defects.apply(layers, instances)
    scene = surface.compose(layers)
    del layers
    images = {name: photograph(scene, key, name) for name in maps}
    return PartData(images, defects.union_mask(key.shape_yx, instances), [i.box for i in instances])


def _synthetic(
    draw: Callable[[PartKey, str | None], PartData],
) -> Callable[[PartKey, str | None, tuple[str, ...]], PartData]:
    return lambda key, kind, _maps: draw(key, kind)


MATERIALS: Final[dict[str, Material]] = {
    "riblet": Material((5496, 3672), tuple(ENCODINGS), tuple(defects.DEFECTS), physical_part, surface.PIXEL_PITCH_UM),
    "steel": Material(
        (2336, 4000),
        tuple(ENCODINGS),
        ("dent", "stain", "scratch", "contamination"),
        physical_part,
        surface.PIXEL_PITCH_UM,
    ),
    "chess": Material((512, 512), ("image",), ("deformation",), _synthetic(chess_part), None, TRAIN_PARTS_OF_PAPER),
    "noise": Material((512, 512), ("image",), ("line",), _synthetic(noise_part), None, TRAIN_PARTS_OF_PAPER),
}


@dataclass(frozen=True)
class Planned:
    """One part to write: its file stem, the folder below the batch, and its kind (None: good)."""

    stem: str
    folder: str
    kind: str | None

    @property
    def name(self) -> str:
        """The part's identity, whether it is used for training or test: ``good/g000``, ``dent/b000``."""
        return f"{self.kind or 'good'}/{self.stem}"


@dataclass(frozen=True)
class Batch:
    """A batch to generate; ``size_px`` is (columns, rows). Build it with :func:`plan_batch`."""

    material: str
    seed: int
    size_px: tuple[int, int]
    maps: tuple[str, ...]
    parts: tuple[Planned, ...]


def plan_batch(
    material: str,
    parts: int = 8,
    defective: int | None = None,
    size_px: tuple[int, int] | None = None,
    maps: list[str] | None = None,
    seed: int = 0,
) -> Batch:
    """Plan a batch of ``parts`` parts, half of them (or ``defective``) with defects.

    A third of the good parts, at least one of two or more, go to the test folder. Defective parts take
    the material's kinds in turn. ``size_px`` and ``maps`` default to the material's.

    Raises
    ------
    UsageError
        If a name is unknown or a number impossible.
    """
    if material not in MATERIALS:
        raise UsageError(f"no material {material!r} can be generated; {nearest(material, list(MATERIALS))}")
    known = MATERIALS[material]
    wanted_maps = tuple(dict.fromkeys(maps)) if maps else known.maps
    for name in wanted_maps:
        if name not in known.maps:
            raise UsageError(f"{material} has no map {name!r}; {nearest(name, list(known.maps))}")
    size_px = size_px or known.size_px
    defective = parts // 2 if defective is None else defective
    _check_numbers(parts, defective, size_px, seed)
    planned = _good_parts(parts - defective, known) + _defective_parts(defective, known)
    return Batch(material, seed, size_px, wanted_maps, tuple(planned))


def _check_numbers(parts: int, defective: int, size_px: tuple[int, int], seed: int) -> None:
    if parts < 1:
        raise UsageError(f"--parts {parts}: at least 1 part is needed")
    if not 0 <= defective <= parts:
        raise UsageError(f"--defective {defective}: must be 0 to {parts}, the number of parts")
    if min(size_px) < SMALLEST_SIDE_PX:
        width_px, height_px = size_px
        raise UsageError(f"--size {width_px}x{height_px}: each side must have {SMALLEST_SIDE_PX} px or more")
    if seed < 0:
        raise UsageError(f"--seed {seed}: must be 0 or more")


def _good_parts(count: int, material: Material) -> list[Planned]:
    to_test = max(1, round(count / 3)) if count >= 2 else 0
    to_test = min(to_test, max(0, count - material.least_train))
    folders = ["train/good"] * (count - to_test) + ["test/good"] * to_test
    return [Planned(f"g{number:03d}", folder, None) for number, folder in enumerate(folders)]


def _defective_parts(count: int, material: Material) -> list[Planned]:
    kinds = [material.kinds[number % len(material.kinds)] for number in range(count)]
    return [Planned(f"b{number:03d}", f"test/{kind}", kind) for number, kind in enumerate(kinds)]


def generate_part(batch: Batch, part: Planned) -> PartData:
    """Generate one part of a batch; its content does not depend on the rest of the batch."""
    columns, rows = batch.size_px
    key = PartKey(batch.seed, batch.material, part.name, (rows, columns))
    return MATERIALS[batch.material].produce(key, part.kind, batch.maps)

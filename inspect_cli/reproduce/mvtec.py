"""Folders in the MVTec layout: their categories, and copies prepared as a paper says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.errors import InputError, NoInputError, OutputError
from inspect_cli.images.reader import SUFFIXES
from inspect_cli.reproduce.experiment import Case
from inspect_cli.store.atomic import write_bytes

GOOD: Final = "good"
MASKS: Final = "ground_truth"
#: Defective images that are learnt from, in a copy that holds some out of the test.
DEFECTS: Final = "defects"

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Preparation:
    """How images are prepared before anything is trained or scored on them.

    Attributes
    ----------
    side_px
        Images are resized to squares of this side; None leaves them as they are.
    gray
        Colours become gray.
    learn_defects
        Every second defective test image of a kind, in the order of names, is kept from the test and put into
        ``defects`` to learn from.
    """

    side_px: int | None = None
    gray: bool = False
    learn_defects: bool = False


def find_categories(data: Path | None) -> dict[str, Path | None]:
    """Return the folders of the categories at ``data``, itself one or a folder of some, by name.

    Raises
    ------
    NoInputError
        If there is none.
    """
    if data is None:
        return {}
    if _is_category(data):
        return {data.resolve().name: data}
    found = sorted(path for path in data.glob("*") if _is_category(path))
    if not found:
        raise NoInputError(f"--data {data}: no category in it: a folder with train/good, test and {MASKS}")
    return {path.name: path for path in found}


def _is_category(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in (f"train/{GOOD}", "test", MASKS))


def prepared(case: Case, preparation: Preparation) -> Path:
    """Return a category prepared as told: the folder itself if nothing changes, else a copy below ``case.work``.

    The copy is PNG in the same layout; what an earlier run left in its place is removed. Images are averaged when
    they shrink; masks take the nearest pixel.

    Raises
    ------
    InputError
        If an image cannot be read or is neither of 8 nor of 16 bits.
    """
    assert case.path is not None
    if preparation == Preparation():
        return case.path
    copy = case.work / "images"
    shutil.rmtree(copy, ignore_errors=True)
    for name in (f"train/{GOOD}", "test", MASKS):
        for number, source in _numbered(case.path / name):
            pixels = _changed(_read(source), preparation, is_mask=name == MASKS)
            place = Path(name) / source.relative_to(case.path / name)
            if preparation.learn_defects and name == "test" and place.parts[1] != GOOD and number % 2 == 0:
                place = Path(DEFECTS, *place.parts[1:])
            _write(copy / place.with_suffix(".png"), pixels)
    return copy


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield the images below a folder, sorted, each with its number within its own folder from 0."""
    counts: dict[Path, int] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            number = counts.get(path.parent, 0)
            counts[path.parent] = number + 1
            yield number, path


def _read(path: Path) -> Pixels:
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path}: cannot be read as an image of 8 or 16 bits")
    return np.asarray(pixels)


def _changed(pixels: Pixels, preparation: Preparation, is_mask: bool) -> Pixels:
    if preparation.gray and pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2GRAY)
    if preparation.side_px is not None:
        how = cv2.INTER_NEAREST if is_mask else cv2.INTER_AREA
        pixels = cv2.resize(pixels, (preparation.side_px, preparation.side_px), interpolation=how)
    return pixels


def _write(path: Path, pixels: Pixels) -> None:
    done, content = cv2.imencode(".png", pixels)
    if not done:
        raise OutputError(f"{path}: cannot be encoded as PNG")
    write_bytes(path, content.tobytes())

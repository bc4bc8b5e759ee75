"""Small labelled images from one archive: an ``.npz`` of digits, or a ``.zip`` or folder of pictures."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.errors import InputError, NoInputError
from inspect_cli.images.reader import SUFFIXES

#: The digit that is normal in CMP.
NORMAL_DIGIT: Final = "1"
#: The class of pictures that is normal in CMP.
NORMAL_CLASS: Final = "dog"
_DIGIT_ARRAYS: Final = ("train_1", "test", "test_label")

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class LabelledImages:
    """Images (n, height, width[, 3]), RGB: those of the normal class to learn from, and all classes to test on."""

    normal: str
    train: Images
    test: dict[str, Images]


class Source:
    """Draws images at random with replacement; every batch follows from (seed, step)."""

    def __init__(self, images: Images, seed: int) -> None:
        self._images = images
        self._seed = seed

    @property
    def tile_px(self) -> int:
        """Side of an image."""
        return int(self._images.shape[1])

    @property
    def side_by_side(self) -> float:
        """How many images there are."""
        return float(len(self._images))

    def batch(self, step: int, size: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return ``size`` images (size, height, width[, 3]); they have no ROI."""
        chosen = np.random.default_rng([self._seed, step]).integers(len(self._images), size=size)
        return self._images[chosen], None

    def close(self) -> None:
        """Do nothing: no file is open."""


def digits_file(path: Path) -> Path:
    """Return the ``.npz`` file at ``path``, which may be the folder that holds it.

    Raises
    ------
    NoInputError
        If there is none, or there are several.
    """
    return _only_file(path, ".npz")


def read_digits(path: Path) -> LabelledImages:
    """Read digits from an ``.npz`` file.

    Its arrays are ``train_1`` and ``test``, uint8 (n, height, width), and ``test_label`` (n,), 0 to 9.

    Raises
    ------
    InputError
        If it cannot be read or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            train, test, labels = (content[name] for name in _DIGIT_ARRAYS)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: cannot be read as digits ({error}); arrays are {', '.join(_DIGIT_ARRAYS)}"
        ) from error
    fits = train.dtype == test.dtype == np.uint8 and train.ndim == test.ndim == 3 and labels.shape == test.shape[:1]
    if not fits or not len(train):
        raise InputError(f"{path}: images must be uint8 (n, height, width) with one label each")
    classes = {str(label): test[labels == label] for label in np.unique(labels)}
    return _checked(path, LabelledImages(NORMAL_DIGIT, train, classes))


def pictures_place(path: Path) -> Path:
    """Return the ``.zip`` file or the folder with ``train`` and ``test`` at ``path``.

    ``path`` may also be the folder that holds the file.

    Raises
    ------
    NoInputError
        If there is none, or there are several.
    """
    if (path / "train").is_dir() and (path / "test").is_dir():
        return path
    return _only_file(path, ".zip")


def read_pictures(path: Path) -> LabelledImages:
    """Read colour pictures of equal size, ``train/dog/*`` and ``test/CLASS/*``, from a ``.zip`` file or a folder.

    Raises
    ------
    InputError
        If a picture cannot be decoded or has another size than the first, or a set is missing.
    """
    found: dict[tuple[str, str], list[Images]] = {}
    shape: tuple[int, ...] | None = None
    for name, content in _files(path):
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        if picture is None or picture.shape != (shape or picture.shape):
            raise InputError(f"{path}: {name}: is damaged, or its size is not that of the others")
        shape = picture.shape
        found.setdefault((name.parts[-3], name.parts[-2]), []).append(np.asarray(picture[..., ::-1], np.uint8))
    stacks = {key: np.stack(pictures) for key, pictures in found.items()}
    train = stacks.get(("train", NORMAL_CLASS), np.zeros((0, 0, 0, 3), np.uint8))
    test = {name: pictures for (part, name), pictures in stacks.items() if part == "test"}
    return _checked(path, LabelledImages(NORMAL_CLASS, train, test))


def _checked(path: Path, images: LabelledImages) -> LabelledImages:
    if len(images.train) < 2 or images.normal not in images.test or len(images.test) < 2:
        raise InputError(
            f"{path}: needs images of {images.normal} to learn from, and of it and of other classes to test on"
        )
    return images


def _files(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield pictures below ``.../train/CLASS`` and ``.../test/CLASS`` with their names, sorted."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            name = PurePosixPath(path.name, file.relative_to(path).as_posix())
            if _is_picture(name) and file.is_file():
                yield name, file.read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for text in sorted(archive.namelist()):
                if _is_picture(PurePosixPath(text)):
                    yield PurePosixPath(text), archive.read(text)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as a .zip file ({error})") from error


def _is_picture(name: PurePosixPath) -> bool:
    return name.suffix.lower() in SUFFIXES and len(name.parts) >= 3 and name.parts[-3] in ("train", "test")


def _only_file(path: Path, suffix: str) -> Path:
    if path.is_file() and path.suffix.lower() == suffix:
        return path
    found = sorted(path.glob(f"*{suffix}")) if path.is_dir() else []
    if len(found) != 1:
        raise NoInputError(f"--data {path}: must be one {suffix} file, or a folder with one in it")
    return found[0]

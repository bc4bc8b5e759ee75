"""What is known to be defective: a folder of masks, or a table of boxes.

``<id>_mask.png`` (or ``<id>.png``; TIFF and BMP too) marks defects with any value but zero. A part
without a mask may have rows in ``boxes.csv``, whose filled rectangles are then its mask. A part that has
neither is good.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.errors import InputError, NoInputError, UsageError
from inspect_cli.images import open_map

BOXES_FILE: Final = "boxes.csv"
BOX_COLUMNS: Final = ("part", "kind", "x_px", "y_px", "width_px", "height_px")
#: In order of preference where a part has several masks.
MASK_SUFFIXES: Final = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
_BMP: Final = ".bmp"
KIND_DEFECT: Final = "defect"
KIND_GOOD: Final = "good"


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of defective pixels; ends are exclusive, in the map's frame."""

    left_px: int
    top_px: int
    right_px: int
    bottom_px: int

    @property
    def rows(self) -> slice:
        """Rows of a map inside the box."""
        return slice(max(self.top_px, 0), max(self.bottom_px, 0))

    @property
    def columns(self) -> slice:
        """Columns of a map inside the box."""
        return slice(max(self.left_px, 0), max(self.right_px, 0))


@dataclass(frozen=True, slots=True)
class Truth:
    """The truth of a batch: mask files by part id (with or without ``_mask``), boxes by part id."""

    folder: Path
    files: dict[str, Path]
    boxes: dict[str, list[Box]]

    @classmethod
    def open(cls, folder: Path) -> Truth:
        """List the masks below a folder and read its ``boxes.csv``, if it has one.

        Raises
        ------
        NoInputError
            If the folder does not exist.
        UsageError
            If the path is a file.
        InputError
            If ``boxes.csv`` is damaged.
        """
        if folder.is_file():
            raise UsageError(f"{folder}: is a file; give the folder of the masks")
        if not folder.is_dir():
            raise NoInputError(f"{folder}: no such folder; give the folder of the masks")
        table = folder / BOXES_FILE
        return cls(folder, _list_masks(folder), _read_boxes(table) if table.is_file() else {})

    def has(self, part_id: str) -> bool:
        """Tell whether a mask or a box is on record for the part."""
        return self._file(part_id) is not None or part_id in self.boxes

    def kind(self, part_id: str) -> str:
        """Name the kind of a part: the first folder of its id, else ``defect`` or ``good``."""
        first, slash, _ = part_id.partition("/")
        if slash:
            return first
        return KIND_DEFECT if self.has(part_id) else KIND_GOOD

    def mask(self, part_id: str, height: int, width: int) -> NDArray[np.bool_] | None:
        """Return the defective pixels of a part, shape (height, width), or ``None`` if none are on record.

        Raises
        ------
        InputError
            If the mask cannot be read, is a JPEG, or its size is not that of the maps; if a box lies
            outside the map.
        """
        path = self._file(part_id)
        if path is None:
            boxes = self.boxes.get(part_id)
            return None if boxes is None else self._fill(part_id, boxes, height, width)
        mask = _read_mask(path)
        if mask.shape != (height, width):
            found = f"{mask.shape[1]}x{mask.shape[0]}"
            raise InputError(
                f"{path}: mask is {found} px, the maps of {part_id} are {width}x{height} px; "
                "give the mask that belongs to them"
            )
        return mask

    def _file(self, part_id: str) -> Path | None:
        return self.files.get(f"{part_id}_mask") or self.files.get(part_id)

    def _fill(self, part_id: str, boxes: list[Box], height: int, width: int) -> NDArray[np.bool_]:
        mask = np.zeros((height, width), dtype=np.bool_)
        for box in boxes:
            inside = mask[box.rows, box.columns]
            if not inside.size:
                raise InputError(
                    f"{self.folder / BOXES_FILE}: a box of {part_id} at x {box.left_px}, y {box.top_px} lies "
                    f"outside its maps of {width}x{height} px; mend the row"
                )
            inside[:] = True
        return mask


def _list_masks(folder: Path) -> dict[str, Path]:
    """Index the mask files by path below the folder, without suffix; the preferred suffix wins."""
    found = [p for p in folder.rglob("*") if p.suffix.lower() in MASK_SUFFIXES and p.is_file()]
    found.sort(key=lambda p: (MASK_SUFFIXES.index(p.suffix.lower()), p), reverse=True)
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in found}


def _read_mask(path: Path) -> NDArray[np.bool_]:
    pixels = _read_bmp(path) if path.suffix.lower() == _BMP else _read_image(path)
    if pixels.ndim == 3:
        # A fourth channel is opacity, which is full everywhere.
        return np.asarray((pixels[:, :, :3] != 0).any(axis=2), dtype=np.bool_)
    return np.asarray(pixels != 0, dtype=np.bool_)


def _read_image(path: Path) -> NDArray[Any]:
    with open_map(path) as reader:
        if reader.header.format == "JPEG":
            raise InputError(f"{path}: JPEG blurs the edges of a mask; save it as PNG")
        return reader.read()


def _read_bmp(path: Path) -> NDArray[Any]:
    try:
        pixels: NDArray[Any] | None = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error):
        pixels = None
    if pixels is None:
        raise InputError(f"{path}: mask cannot be read; save it as PNG")
    return pixels


def _read_boxes(path: Path) -> dict[str, list[Box]]:
    boxes: dict[str, list[Box]] = {}
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = csv.DictReader(stream)
        missing = [name for name in BOX_COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise InputError(f"{path}: no column {', '.join(missing)}; columns are {','.join(BOX_COLUMNS)}")
        for row in rows:
            boxes.setdefault(row["part"], []).append(_parse_box(path, rows.line_num, row))
    return boxes


def _parse_box(path: Path, line: int, row: dict[str, str]) -> Box:
    """Turn a row into whole pixels: every pixel that the rectangle touches."""
    try:
        x, y, width, height = (float(row[name]) for name in BOX_COLUMNS[2:])
        box = Box(math.floor(x), math.floor(y), math.ceil(x + width), math.ceil(y + height))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: line {line}: not four numbers ({error}); mend the row") from error
    if width <= 0 or height <= 0:
        raise InputError(f"{path}: line {line}: width and height must be above 0; mend the row")
    return box

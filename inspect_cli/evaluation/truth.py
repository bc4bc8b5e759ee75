"""What is known to be defective: a folder of masks, or a table of boxes.

``<id>_mask.png`` (``_label`` and ``_GT`` too; or, where no file has such a name, ``<id>.png``; TIFF and BMP as well)
marks defects with any value but zero; pictures of the parts themselves are none. Several masks of a part lie in a
folder of its name (``<id>/000.png``, as in MVTec LOCO) and count together. A part without a mask may have rows in
``boxes.csv``, whose filled rectangles are then its mask. A part that has neither is good.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inspect_cli.errors import InputError
from inspect_cli.images.parts import truth_of, walk_folders
from inspect_cli.images.reader import read_any_mask, read_mask
from inspect_cli.store.paths import check_is_folder, without_links

BOXES_FILE: Final = "boxes.csv"
#: Pixels of a defect that a patch must show to count as defective; all of it, where the part's largest is smaller.
MIN_DEFECT_PX: Final = 16
BOX_COLUMNS: Final = ("part", "x_px", "y_px", "width_px", "height_px")
KIND_COLUMN: Final = "kind"
#: In order of preference where a part has several masks.
MASK_SUFFIXES: Final = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
#: So many names stand in a warning.
NAMED: Final = 5
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
    """The truth of a batch: mask files, boxes, and the kinds of boxes that have one, by part id.

    ``others`` are files that are not named ``_mask`` where some are: they may be the parts' own pictures.
    """

    folder: Path
    files: dict[str, tuple[Path, ...]]
    boxes: dict[str, list[Box]]
    kinds: dict[str, str]
    others: dict[str, tuple[Path, ...]]

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
        check_is_folder(folder, "the folder of the masks")
        table = folder / BOXES_FILE
        boxes, kinds = _read_boxes(table) if table.is_file() else ({}, {})
        named, others = _list_masks(folder)
        return cls(folder, named or others, boxes, kinds, others if named else {})

    def of_parts(self, pictures: Mapping[str, Iterable[Path]]) -> Truth:
        """Return the truth of parts, given their pictures by part id.

        These are no masks, though masks may be looked for among them; masks in a folder named like a part are its.
        """
        known = {without_links(path) for paths in pictures.values() for path in paths}

        def left(files: dict[str, tuple[Path, ...]]) -> dict[str, tuple[Path, ...]]:
            found: dict[str, tuple[Path, ...]] = {}
            for name, paths in sorted(files.items()):
                above = name.rpartition("/")[0]
                part = above if above in pictures and above not in files and name not in pictures else name
                masks = tuple(path for path in paths if without_links(path) not in known)
                if masks:
                    found[part] = (*found.get(part, ()), *masks)
            return found

        return replace(self, files=left(self.files), others=left(self.others))

    def has(self, part_id: str) -> bool:
        """Tell whether a mask or a box is on record for the part."""
        return part_id in self.files or part_id in self.boxes

    def unmatched(self, part_ids: Iterable[str]) -> list[str]:
        """Return the ids that have a mask or a box and are none of ``part_ids``, sorted.

        Files without ``_mask`` in their names count only where there is nothing else: they may be pictures.
        """
        named = {name for name, paths in self.files.items() if any(truth_of(path.stem) is not None for path in paths)}
        named |= self.boxes.keys()
        return sorted((named or self.files.keys()) - set(part_ids))

    def passed_over(self, part_ids: Iterable[str]) -> list[str]:
        """Return those of ``part_ids`` that count as good although a file has their name, without ``_mask``."""
        return sorted(part for part in part_ids if part in self.others and not self.has(part))

    def kind(self, part_id: str) -> str:
        """Name the kind of a part: the first folder of its id, its first box's, else ``defect`` or ``good``."""
        first, slash, _ = part_id.partition("/")
        if slash:
            return first
        return self.kinds.get(part_id, KIND_DEFECT) if self.has(part_id) else KIND_GOOD

    def mask(self, part_id: str, height: int, width: int) -> NDArray[np.bool_] | None:
        """Return the defective pixels of a part, shape (height, width), or ``None`` if none are on record.

        Raises
        ------
        InputError
            If the mask cannot be used or its size is not that of the maps; if a box lies outside the map.
        """
        if part_id not in self.files:
            boxes = self.boxes.get(part_id)
            return None if boxes is None else self._fill(part_id, boxes, height, width)
        first, *more = (read_mask(path, height, width) for path in self.files[part_id])
        for mask in more:
            first |= mask
        return first

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


def doubts(truth: Truth, part_ids: Sequence[str]) -> list[str]:
    """Return what to say of masks or boxes that match no part, and of files that are not taken for masks."""
    told = []
    if names := truth.unmatched(part_ids):
        told.append(f"masks or boxes of {len(names)} name(s) match no part ({_listed(names)}); named like the parts?")
    if names := truth.passed_over(part_ids):
        told.append(f"{len(names)} part(s) count as good: their files ({_listed(names)}) are not named <part>_mask")
    return [f"{truth.folder}: {text}" for text in told]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _list_masks(folder: Path) -> tuple[dict[str, tuple[Path, ...]], dict[str, tuple[Path, ...]]]:
    """Return the image files named like masks and the others, by part id; the preferred suffix wins."""
    files = (root / name for root, names in walk_folders(folder, {}) for name in names)
    found = [path for path in files if path.suffix.lower() in MASK_SUFFIXES and not path.name.startswith(".")]
    found.sort(key=lambda p: (MASK_SUFFIXES.index(p.suffix.lower()), p), reverse=True)
    named: dict[str, tuple[Path, ...]] = {}
    others: dict[str, tuple[Path, ...]] = {}
    for path in found:
        name = path.relative_to(folder).with_suffix("").as_posix()
        part = truth_of(name)
        if part is None:
            others[name] = (path,)
        else:
            named[part] = (path,)
    return named, others


def has_marks(path: Path) -> bool:
    """Whether a mask marks any pixel; raises InputError if it cannot be read."""
    return bool(read_any_mask(path).any())


def _read_boxes(path: Path) -> tuple[dict[str, list[Box]], dict[str, str]]:
    """Return the boxes and, where the table names one, the kind of the first box, by part id."""
    boxes: dict[str, list[Box]] = {}
    kinds: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            missing = [name for name in BOX_COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise InputError(
                    f"{path}: no column {', '.join(missing)}; columns are {','.join(BOX_COLUMNS)} and, if you like, "
                    f"{KIND_COLUMN}"
                )
            for row in rows:
                if not row["part"]:
                    raise InputError(f"{path}: line {rows.line_num}: no part is named; mend the row")
                boxes.setdefault(row["part"], []).append(_parse_box(path, rows.line_num, row))
                if row.get(KIND_COLUMN):
                    kinds.setdefault(row["part"], row[KIND_COLUMN])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); save it as CSV in UTF-8") from error
    return boxes, kinds


def _parse_box(path: Path, line: int, row: dict[str, str]) -> Box:
    """Turn a row into whole pixels: every pixel that the rectangle touches."""
    try:
        x, y, width, height = (float(row[name]) for name in BOX_COLUMNS[1:])
        box = Box(math.floor(x), math.floor(y), math.ceil(x + width), math.ceil(y + height))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: line {line}: not four numbers ({error}); mend the row") from error
    if width <= 0 or height <= 0:
        raise InputError(f"{path}: line {line}: width and height must be above 0; mend the row")
    return box

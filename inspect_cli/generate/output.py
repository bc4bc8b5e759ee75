"""Generated patches -> files that a batch folder's patterns find again as parts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
from numpy.typing import NDArray

from inspect_cli.errors import OutputError, UsageError
from inspect_cli.images import Part
from inspect_cli.images.parts import expected_file
from inspect_cli.pictures import draw
from inspect_cli.pictures.previews import encode_png, save_png
from inspect_cli.recipe import MapSpec
from inspect_cli.store.atomic import output_error, write_bytes, write_with
from inspect_cli.store.layout import RUN_FOLDER, SAMPLES_PICTURE
from inspect_cli.store.paths import lies_in

RECORD: Final = "augment.json"
#: Where no part is looked for: a pattern such as ``{part}.png`` would take the picture for one.
PICTURE: Final = f"{RUN_FOLDER}/{SAMPLES_PICTURE}"

_TIFF: Final = (".tif", ".tiff")
_SHOWN: Final = 8
_SHOWN_PX: Final = 160
_GUTTER_PX: Final = 4


def check_out(out: Path, parts: Sequence[Part], force: bool) -> None:
    """Make the output folder, and refuse one that holds files, lies among the good parts, or cannot be written to.

    Raises
    ------
    UsageError
        If ``out`` holds files and ``force`` is not set, or lies below the folder of ``parts``.
    OutputError
        If it cannot be made or written to.
    """
    for folder in {part.folder for part in parts}:
        if lies_in(out, folder):
            raise UsageError(
                f"--out {out}: lies among the good parts in {folder}, where generated ones would be taken for real; "
                "choose another folder"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = next(out.iterdir(), None)
    except OSError as error:
        raise output_error(out, error) from error
    if held is not None and not force:
        raise UsageError(f"--out {out}: holds files already ({held.name}); choose another folder or give --force")
    if not os.access(out, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: cannot be written; check its permissions")


def check_storable(name: str, spec: MapSpec, dtype: np.dtype[Any]) -> None:
    """Raise UsageError unless patches of map ``name`` can be stored, without loss, under its file name."""
    suffix = _suffix(spec.files)
    if suffix not in (*_TIFF, ".png"):
        raise UsageError(
            f"map {name!r}: patches cannot be stored as {spec.files} without loss; let the recipe's pattern end "
            "with '.*'"
        )
    if suffix == ".png" and (dtype not in (np.uint8, np.uint16) or spec.channels not in (1, 3)):
        raise UsageError(
            f"map {name!r}: {spec.channels} channel(s) of {dtype} cannot be stored as PNG; let the recipe's pattern "
            "end with '.*'"
        )


def _suffix(pattern: str) -> str:
    """Return the ending that files of a pattern are stored with."""
    suffix = Path(pattern).suffix.lower()
    return ".tif" if suffix == ".*" else suffix


def part_files(count: int, maps: Mapping[str, MapSpec]) -> list[dict[str, str]]:
    """Return the file of each map, below the output folder, for each part: ``gan_0000`` and so on."""
    digits = max(4, len(str(count - 1)))
    patterns = {name: str(Path(spec.files).with_suffix(_suffix(spec.files))) for name, spec in maps.items()}
    return [
        {name: expected_file(pattern, f"gan_{number:0{digits}d}") for name, pattern in patterns.items()}
        for number in range(count)
    ]


def write_patch(path: Path, patch: NDArray[Any]) -> None:
    """Write a stored patch (h, w[, channels]) as TIFF or PNG, by the ending of ``path``, whole or not at all."""
    if path.suffix.lower() == ".png":
        write_bytes(path, encode_png(patch))
        return
    layout = {"photometric": "minisblack", "planarconfig": "contig", "software": False, "metadata": None}
    write_with(path, partial(tifffile.imwrite, data=patch, **layout))


def save_samples(
    path: Path, real: NDArray[np.float32], generated: NDArray[np.float32], maps: Mapping[str, MapSpec]
) -> None:
    """Write a picture: for each map a row of real patches above a row of generated ones.

    Parameters
    ----------
    path
        PNG file to write.
    real, generated
        (n, channels of all maps, side, side) in [-1, 1], black to white; a map of three channels is shown as RGB,
        any other as the mean of its channels.
    maps
        The maps in the order of their channels.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    sheet: draw.Picture | None = None
    first = 0
    for name, spec in maps.items():
        channels = slice(first, first + spec.channels)
        first += spec.channels
        rows = np.vstack([_row(patches[:_SHOWN, channels]) for patches in (real, generated)])
        block = draw.stacked(draw.caption_strip(rows.shape[1], f"{name}: real above, generated below"), rows)
        sheet = block if sheet is None else draw.stacked(sheet, block)
    if sheet is not None:
        save_png(path, sheet)


def _row(patches: NDArray[np.float32]) -> draw.Picture:
    """Return patches (n, channels, side, side) in [-1, 1] side by side as RGB."""
    shown = patches if patches.shape[1] == 3 else np.repeat(patches.mean(axis=1, keepdims=True), 3, axis=1)
    pixels = np.rint((np.moveaxis(shown, 1, -1) + 1) * 127.5).astype(np.uint8)
    return draw.side_by_side(pixels, _SHOWN_PX, _SHOWN_PX, _GUTTER_PX)

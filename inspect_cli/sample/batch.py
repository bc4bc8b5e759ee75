"""Write a batch of generated parts to a folder, with its ground truth and provenance."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import cv2
import numpy as np
import tifffile

from inspect_cli import __version__
from inspect_cli.errors import OutputError, UsageError
from inspect_cli.sample.optics import ENCODINGS
from inspect_cli.sample.part import Box, Image, PartData
from inspect_cli.sample.plan import MATERIALS, Batch, Planned, generate_part
from inspect_cli.store.atomic import write_bytes, write_json, write_text, write_with
from inspect_cli.store.listed import remove_listed

PROVENANCE: Final = "sample.json"
BATCH_FOLDERS: Final = ("train", "test", "ground_truth")
DEFLATE_LEVEL: Final = 1
ROWS_PER_STRIP: Final = 64


@dataclass(frozen=True)
class Summary:
    """What was written: folder, number of parts and files, bytes of all files, seconds taken."""

    out: str
    parts: int
    files: int
    bytes: int
    seconds: float


def write_batch(
    batch: Batch, out: Path, force: bool = False, on_part: Callable[[Planned], None] | None = None
) -> Summary:
    """Generate and write all parts below ``out``; call ``on_part`` after each.

    With ``force`` the files that an earlier batch in ``out`` lists as its own are removed once the first
    part is generated; other files are left alone. The provenance file is written before the parts, with
    ``complete`` false, and again at the end.

    Raises
    ------
    UsageError
        If ``out`` holds a batch and ``force`` is not set.
    OutputError
        If a file cannot be written.
    """
    started = perf_counter()
    _check_room(out, force)
    ready = [generate_part(batch, batch.parts[0])]  # one that is too large for the memory costs no earlier batch
    remove_listed(out / PROVENANCE)
    write_json(out / PROVENANCE, _provenance(batch, complete=False))
    rows: list[tuple[str, Box]] = []
    for part in batch.parts:
        boxes = _write_part(batch, part, ready.pop() if ready else generate_part(batch, part), out)
        rows += [(part.name, box) for box in boxes]
        if on_part is not None:
            on_part(part)
    write_text(out / "ground_truth" / "boxes.csv", _boxes_csv(rows))
    write_json(out / PROVENANCE, _provenance(batch, complete=True))
    files = [out / name for name in (*batch_files(batch), PROVENANCE)]
    size = sum(path.stat().st_size for path in files)
    return Summary(str(out), len(batch.parts), len(files), size, round(perf_counter() - started, 2))


def batch_files(batch: Batch) -> list[str]:
    """Return the files of a batch, relative to its folder, without the provenance file."""
    names = [f"{part.folder}/{_image_name(part, map_name)}" for part in batch.parts for map_name in batch.maps]
    names += [_mask_name(part) for part in batch.parts if part.kind]
    return [*names, "ground_truth/boxes.csv"]


def _image_name(part: Planned, map_name: str) -> str:
    return f"{part.stem}.png" if map_name == "image" else f"{part.stem}_{map_name}.tif"


def _mask_name(part: Planned) -> str:
    return f"ground_truth/{part.kind}/{part.stem}_mask.png"


def _check_room(out: Path, force: bool) -> None:
    if not force and any((out / name).exists() for name in (PROVENANCE, *BATCH_FOLDERS)):
        raise UsageError(f"{out}: holds a batch already; choose another --out, or overwrite it with --force")


def _write_part(batch: Batch, part: Planned, data: PartData, out: Path) -> list[Box]:
    pitch_um = MATERIALS[batch.material].pixel_pitch_um
    for map_name, image in data.images.items():
        path = out / part.folder / _image_name(part, map_name)
        if pitch_um is None:
            write_png(path, image)
        else:
            write_tiff(path, image, pitch_um)
    if part.kind:
        write_png(out / _mask_name(part), data.mask.astype(np.uint8) * np.uint8(255))
    return data.boxes


def write_tiff(path: Path, image: Image, pixel_pitch_um: float) -> None:
    """Write a map as TIFF: deflate, horizontal predictor, strips of 64 rows, resolution from the pitch."""
    per_cm = 10_000 / pixel_pitch_um
    write = partial(
        tifffile.imwrite,
        data=image,
        photometric="rgb" if image.ndim == 3 else "minisblack",
        compression="zlib",
        compressionargs={"level": DEFLATE_LEVEL},
        predictor=True,
        rowsperstrip=ROWS_PER_STRIP,
        resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
        software=f"inspect-cli {__version__}",
        metadata=None,
    )
    write_with(path, write)


def write_png(path: Path, image: Image) -> None:
    """Write an 8-bit gray image as PNG."""
    done, content = cv2.imencode(".png", image)
    if not done:
        raise OutputError(f"{path}: cannot be encoded as PNG; check that it is 8-bit gray")
    write_bytes(path, content.tobytes())


def _boxes_csv(rows: list[tuple[str, Box]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["part", *(column.name for column in fields(Box))])
    writer.writerows([part, *asdict(box).values()] for part, box in rows)
    return text.getvalue()


def _provenance(batch: Batch, complete: bool) -> dict[str, Any]:
    width_px, height_px = batch.size_px
    return {
        "tool": f"inspect-cli {__version__}",
        "complete": complete,
        "material": batch.material,
        "seed": batch.seed,
        "width_px": width_px,
        "height_px": height_px,
        "pixel_pitch_um": MATERIALS[batch.material].pixel_pitch_um,
        "maps": {name: ENCODINGS.get(name, {"dtype": "uint8", "channels": 1}) for name in batch.maps},
        "parts": [{"part": part.name, "folder": part.folder, "kind": part.kind} for part in batch.parts],
        "files": batch_files(batch),
    }

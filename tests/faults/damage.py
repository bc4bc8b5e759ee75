"""Every byte of small images changed, one at a time: what comes back must be right or be refused by name.

Right means: the size, type and channels that were expected, and every pixel as it was but for those whose own bytes
were changed. JPEG holds no sums and its pixels share their bytes, so there only size, type and channels can be held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from inspect_cli.errors import InputError
from inspect_cli.images.contract import check_header
from inspect_cli.images.reader import open_map
from inspect_cli.recipe.schema import MapSpec

#: What each byte is changed to: all bits, the lowest, the highest.
FLIPS = (0xFF, 0x01, 0x80)
HEIGHT, WIDTH = 24, 40


@dataclass(frozen=True)
class Original:
    """An undamaged file: its pixels, and for each byte the pixels (flat indices) that it belongs to."""

    name: str
    content: bytes
    pixels: NDArray[Any]
    owners: dict[int, frozenset[int]]
    loose: bool = False


def originals(scratch: Path, seed: int = 0) -> Iterator[Original]:
    """Yield small images of every layout that the program writes, reads and meets."""
    rng = np.random.default_rng(seed)
    places: dict[str, dict[str, Any]] = {"strips": {"rowsperstrip": 5}, "one strip": {}, "tiles": {"tile": (16, 16)}}
    packings: dict[str, dict[str, Any]] = {
        "plain": {},
        "deflate": {"compression": "zlib"},
        "deflate, predictor": {"compression": "zlib", "predictor": True},
    }
    for place, layout in places.items():
        for packing, more in packings.items():
            for dtype, channels, planar, extra in (
                ("uint16", 1, False, {}),
                ("uint8", 3, False, {}),
                ("int16", 3, True, {}),
                ("uint16", 1, False, {"bigtiff": True}),
                ("float32", 1, False, {"byteorder": ">"}),
            ):
                if dtype == "float32" and "predictor" in more:
                    continue
                pixels = _pixels(rng, dtype, channels)
                path = scratch / "original.tif"
                stored = np.moveaxis(pixels, 2, 0) if planar else pixels
                colour = {"planarconfig": "separate" if planar else "contig"} if channels > 1 else {}
                tifffile.imwrite(
                    path, stored, metadata=None, photometric="rgb" if channels == 3 else "minisblack",
                    **layout, **more, **extra, **colour,
                )  # fmt: skip
                owners = _owners(path, pixels) if packing == "plain" else {}
                kind = "planes" if planar else "big" if "bigtiff" in extra else "big-endian" if extra else ""
                name = f"TIFF {place}, {packing}, {dtype} x{channels} {kind}".strip()
                yield Original(name, path.read_bytes(), pixels, owners)
    for dtype, channels in (("uint8", 1), ("uint16", 3)):
        pixels = _pixels(rng, dtype, channels)
        yield Original(f"PNG {dtype} x{channels}", _encoded(".png", pixels), pixels, {})
    smooth = cv2.GaussianBlur(_pixels(rng, "uint8", 1), (0, 0), 4)
    yield Original("JPEG", _encoded(".jpg", smooth), smooth, {}, loose=True)


def _pixels(rng: np.random.Generator, dtype: str, channels: int) -> NDArray[Any]:
    shape = (HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels)
    if dtype == "float32":
        return rng.normal(size=shape).astype(np.float32)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def _encoded(suffix: str, pixels: NDArray[Any]) -> bytes:
    stored = pixels if pixels.ndim == 2 else pixels[..., ::-1]
    return cv2.imencode(suffix, stored)[1].tobytes()


def _owners(path: Path, pixels: NDArray[Any]) -> dict[int, frozenset[int]]:
    """Return byte -> pixels by reading a copy in which every byte of the data names its place."""
    owners: dict[int, frozenset[int]] = {}
    content = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        places = [b for o, c in zip(page.dataoffsets, page.databytecounts, strict=True) for b in range(o, o + c)]
    bits = pixels.dtype.itemsize * 8
    size = pixels.dtype.itemsize
    for low in range(0, size):  # each byte of a sample in turn holds, bit by bit, the number of its place
        marks = places[low::size]
        found = np.zeros(pixels.shape, np.int64)
        for bit in range(len(marks).bit_length()):
            copy = bytearray(content)
            for place in places:
                copy[place] = 0
            for number, mark in enumerate(marks, 1):
                copy[mark] = number >> bit & 1
            path.write_bytes(copy)
            raw = np.ascontiguousarray(tifffile.imread(path)).view(f"u{bits // 8}")
            array = np.moveaxis(raw, 0, 2) if raw.shape != pixels.shape else raw
            found |= (array != 0).astype(np.int64) << bit
        for index, number in enumerate(found.ravel()):
            owners[marks[number - 1]] = frozenset([index])
    path.write_bytes(content)
    for place in places:
        owners.setdefault(place, frozenset())  # the padding of a tile
    return owners


def fault_of(original: Original, content: bytes, changed: int, path: Path) -> str | None:
    """Read a damaged copy as scoring does; return what is wrong with the outcome, None if nothing is."""
    path.write_bytes(content)
    pixels = original.pixels
    spec = MapSpec(files="{part}.*", channels=pixels.shape[2] if pixels.ndim == 3 else 1)
    try:
        with open_map(path) as reader:
            check_header(reader.header, spec, (WIDTH, HEIGHT), pixels.dtype)
            found = reader.read()
    except InputError as error:
        return None if str(path) in str(error) and "\n" not in str(error) else f"unclear message {str(error)!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if found.shape != pixels.shape or found.dtype != pixels.dtype:
        return f"is {found.shape} {found.dtype}"
    if original.loose:
        return None
    same = (found == pixels) | (np.isnan(found) & np.isnan(pixels) if found.dtype.kind == "f" else False)
    others = set(np.flatnonzero(~same).tolist()) - original.owners.get(changed, frozenset())
    return f"{len(others)} pixels that do not own the byte are different" if others else None


def sweep(scratch: Path, every: int = 1, flips: tuple[int, ...] = FLIPS) -> tuple[int, list[str]]:
    """Change every ``every``-th byte of each original in each way; return the files tried and the faults."""
    tried, faults = 0, []
    path = scratch / "damaged.img"
    for original in originals(scratch):
        for at in range(tried % every, len(original.content), every):
            for flip in flips:
                content = bytearray(original.content)
                content[at] ^= flip
                tried += 1
                fault = fault_of(original, bytes(content), at, path)
                if fault is not None:
                    faults.append(f"{original.name}: byte {at} ^ {flip:#04x}: {fault}")
    return tried, faults

"""Pictures small enough to live inside one page: reduced, encoded, as ``data:`` addresses."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from inspect_cli.pictures.previews import encode_png

#: Widest picture in the page; about half the width of a large screen.
WIDTH_PX: Final = 900

_TALLEST_PX: Final = 2400
_PHOTO_BYTES: Final = 110_000  # three photos, mask and plot, in base64: some 0.6 MB a part
#: Tried in turn until the photo is small enough: (width in px, JPEG quality).
_PHOTO_STEPS: Final = ((WIDTH_PX, 85), (WIDTH_PX, 75), (760, 70), (600, 65), (480, 55))
_PLOT_BYTES: Final = 150_000


@dataclass(frozen=True)
class Embedded:
    """A picture as an address, with its size in the page's own pixels before any scaling."""

    address: str
    width_px: int
    height_px: int


def photo(path: Path) -> Embedded | None:
    """Return a colour picture reduced by area and encoded as JPEG; None if it cannot be read."""
    pixels = _read(path, cv2.IMREAD_COLOR)
    if pixels is None:
        return None
    for width_px, quality in _PHOTO_STEPS:
        width, height = fitted_size(pixels.shape[1], pixels.shape[0], width_px)
        content = _jpeg(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), quality)
        if len(content) <= _PHOTO_BYTES:
            break
    return Embedded(_address("image/jpeg", content), width, height)


def mask(path: Path) -> Embedded | None:
    """Return a mask reduced so that a single marked pixel stays marked; None if it cannot be read."""
    pixels = _read(path, cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        return None
    width, height = fitted_size(pixels.shape[1], pixels.shape[0], WIDTH_PX)
    content = encode_png(reduced_by_maximum(pixels, width, height))
    return Embedded(_address("image/png", content), width, height)


def plot(path: Path) -> Embedded | None:
    """Return a plot as it is, or like a photo if it is large; None if it cannot be read."""
    pixels = _read(path, cv2.IMREAD_COLOR)
    if pixels is None:
        return None
    if path.stat().st_size > _PLOT_BYTES:
        return photo(path)
    return Embedded(_address("image/png", path.read_bytes()), pixels.shape[1], pixels.shape[0])


def fitted_size(width: int, height: int, width_px: int) -> tuple[int, int]:
    """Return width and height of a picture reduced to at most ``width_px``, never enlarged, never 0."""
    factor = min(1.0, width_px / width, _TALLEST_PX / height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def reduced_by_maximum(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Return ``pixels`` (h, w) at a smaller size; each new pixel is the maximum of those it stands for."""
    tops = np.arange(height) * pixels.shape[0] // height
    lefts = np.arange(width) * pixels.shape[1] // width
    rows = np.maximum.reduceat(pixels, tops, axis=0)
    reduced: NDArray[np.uint8] = np.maximum.reduceat(rows, lefts, axis=1)
    return reduced


def _read(path: Path, mode: int) -> NDArray[np.uint8] | None:
    try:
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        pixels: NDArray[np.uint8] | None = cv2.imdecode(content, mode) if content.size else None
    except (OSError, cv2.error):
        return None
    return pixels


def _jpeg(pixels: NDArray[Any], quality: int) -> bytes:
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,  # thin coloured outlines survive only without subsampling
    ]
    content: bytes = cv2.imencode(".jpg", pixels, options)[1].tobytes()
    return content


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"

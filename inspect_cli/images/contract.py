"""What a file must be before any pixel of it is read: size, type, channels, pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from inspect_cli.errors import InputError
from inspect_cli.images.parts import Part
from inspect_cli.images.reader import ImageHeader, open_map
from inspect_cli.recipe.schema import MapSpec


def check_header(
    header: ImageHeader,
    spec: MapSpec,
    size_px: tuple[int, int] | None = None,
    dtype: np.dtype[Any] | None = None,
) -> None:
    """Raise InputError unless ``header`` keeps the contract of the map.

    Parameters
    ----------
    header
        Header of the file.
    spec
        The recipe's description of the map.
    size_px
        Width and height that are expected, if any.
    dtype
        Pixel type the model was trained on; the recipe's own ``dtype`` goes first.
    """
    expected = np.dtype(spec.dtype) if spec.dtype else dtype
    if header.pages != 1:
        raise InputError(f"{header.path}: holds {header.pages} pages; one page a file is expected")
    if header.channels != spec.channels:
        raise InputError(f"{header.path}: has {header.channels} channel(s); {spec.channels} expected")
    if expected is not None and header.dtype != expected:
        raise InputError(f"{header.path}: is {header.dtype}; {expected} is expected")
    if header.dtype.kind not in "uif":
        raise InputError(f"{header.path}: pixel type {header.dtype} is not supported")
    if size_px is not None and (header.width, header.height) != tuple(size_px):
        wanted = f"{size_px[0]}x{size_px[1]}"
        raise InputError(f"{header.path}: is {header.width}x{header.height} px; {wanted} is expected")


def checked_headers(
    part: Part,
    maps: Mapping[str, MapSpec],
    size_px: tuple[int, int] | None = None,
    dtypes: Mapping[str, np.dtype[Any]] | None = None,
) -> dict[str, ImageHeader]:
    """Return the headers of a part's maps, all of one size; ``dtypes`` are what is expected, by map.

    Raises
    ------
    InputError
        If a map is missing, breaks the contract, or has another size than the others.
    """
    part.require_complete(maps)
    headers = {}
    for name, spec in maps.items():
        with open_map(part.files[name]) as reader:
            headers[name] = reader.header
        check_header(headers[name], spec, size_px, (dtypes or {}).get(name))
    check_registered(headers)
    return headers


def check_registered(headers: Mapping[str, ImageHeader]) -> None:
    """Raise InputError unless all maps of a part have one size."""
    first = next(iter(headers.values()))
    for header in headers.values():
        if (header.width, header.height) != (first.width, first.height):
            raise InputError(
                f"{header.path}: is {header.width}x{header.height} px, but {first.path.name} is "
                f"{first.width}x{first.height}; maps of a part must be registered to one size"
            )

"""Folder -> parts -> maps: headers, windowed reading, the contract check, ROI masks."""

from inspect_cli.images.parts import Part, discover_parts
from inspect_cli.images.reader import ImageHeader, MapReader, WindowReader, open_map, read_mask
from inspect_cli.images.roi import find_roi, roi_files
from inspect_cli.images.values import ValueRange

__all__ = [
    "ImageHeader",
    "MapReader",
    "Part",
    "ValueRange",
    "WindowReader",
    "discover_parts",
    "find_roi",
    "open_map",
    "read_mask",
    "roi_files",
]

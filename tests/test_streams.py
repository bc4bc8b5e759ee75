"""Maps and masks that are written while rows arrive read back equal, or are not there at all."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inspect_cli.errors import OutputError
from inspect_cli.outputs.png_stream import MaskWriter
from inspect_cli.outputs.tiff_stream import TiffRowWriter

QUICK = settings(derandomize=True, deadline=None, max_examples=40)


def chunks(rows: NDArray[Any], seed: int, most: int = 5) -> list[NDArray[Any]]:
    """Return ``rows`` cut at random places, in order."""
    rng = np.random.default_rng(seed)
    cuts = np.unique(rng.integers(1, len(rows) + 1, size=rng.integers(0, most)))
    return [part for part in np.split(rows, cuts) if len(part)]


def files_in(folder: Path) -> list[str]:
    """Return all files of a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


class Stop(Exception):
    """What ends a block of writing early."""


def write_map(path: Path, blocks: list[NDArray[np.float32]], height: int, stop_after_s: float | None = None) -> None:
    """Write blocks of rows 40 pixels wide; raise Stop after a while if asked to."""
    with TiffRowWriter(path, height, 40) as writer:
        for rows in blocks:
            writer.push(rows)
        if stop_after_s is not None:
            time.sleep(stop_after_s)
            raise Stop


def write_mask(path: Path, mask: NDArray[np.bool_], height: int, stop: bool = False) -> None:
    with MaskWriter(path, height, mask.shape[1]) as writer:
        writer.push(mask)
        if stop:
            raise Stop


# ---------------------------------------------------------------- float maps


@pytest.mark.parametrize(("height", "width"), [(1, 1), (256, 256), (257, 255), (300, 700), (13, 513), (512, 1)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_map_reads_back_equal(tmp_path: Path, height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.gamma(0.5, size=(height, width)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = np.nan
    with TiffRowWriter(tmp_path / "heatmap.tif", height, width, 5.0) as writer:
        for rows in chunks(scores, seed, 40):
            writer.push(rows)
    assert files_in(tmp_path) == ["heatmap.tif"]
    with tifffile.TiffFile(tmp_path / "heatmap.tif") as file:
        (page,) = file.pages
        np.testing.assert_array_equal(page.asarray(), scores)
        assert (page.is_tiled, page.compression.name, page.dtype) == (True, "ADOBE_DEFLATE", np.float32)
        resolution, unit = page.tags["XResolution"].value, page.tags["ResolutionUnit"].value
        assert (resolution[0] / resolution[1], unit) == (2000, 3)  # pixels a centimetre at 5 um


def test_map_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    with TiffRowWriter(tmp_path / "sub/heatmap.tif", 600, 40) as writer:
        writer.push(np.zeros((400, 40), np.float32))
        assert not (tmp_path / "sub/heatmap.tif").exists()
        writer.push(np.zeros((200, 40), np.float32))
    assert files_in(tmp_path / "sub") == ["heatmap.tif"]


@pytest.mark.parametrize("pushed", [0, 10, 256, 599])
def test_block_that_raises_leaves_no_map_and_the_old_one_as_it_was(tmp_path: Path, pushed: int) -> None:
    (tmp_path / "old.tif").write_bytes(b"old")
    for name in ("heatmap.tif", "old.tif"):
        with pytest.raises(Stop):
            write_map(tmp_path / name, [np.zeros((1, 40), np.float32)] * pushed, 600, stop_after_s=0)
    assert files_in(tmp_path) == ["old.tif"]
    assert (tmp_path / "old.tif").read_bytes() == b"old"


def test_block_that_raises_after_the_last_row_leaves_no_map(tmp_path: Path) -> None:
    with pytest.raises(Stop):  # the writing thread needs some milliseconds
        write_map(tmp_path / "heatmap.tif", [np.zeros((60, 40), np.float32)], 60, stop_after_s=0.3)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("rows", [59, 61])
def test_wrong_number_of_rows_is_an_error(tmp_path: Path, rows: int) -> None:
    with pytest.raises((ValueError, OutputError)):
        write_map(tmp_path / "heatmap.tif", [np.zeros((rows, 40), np.float32)], 60)
    assert files_in(tmp_path) == []


def test_folder_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"heatmap\.tif"):
        write_map(tmp_path / "file/heatmap.tif", [np.zeros((1, 40), np.float32)] * 9, 9)
    with pytest.raises(OutputError, match=r"mask\.png"):
        write_mask(tmp_path / "file/mask.png", np.zeros((9, 9), bool), 9)


# ---------------------------------------------------------------- masks


@QUICK
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 999))
def test_mask_reads_back_equal_and_its_windows_are_slices(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, share: float, seed: int
) -> None:
    path = tmp_path_factory.mktemp("mask") / "mask.png"
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < share
    with MaskWriter(path, height, width) as writer:
        for rows in chunks(mask, seed):
            writer.push(rows)
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found, mask * np.uint8(255))
    assert files_in(path.parent) == ["mask.png"]
    for _ in range(4):
        y, x = rng.integers(0, (height, width))
        h, w = rng.integers(1, (height - y + 1, width - x + 1), endpoint=False)
        np.testing.assert_array_equal(writer.window(y, x, h, w), mask[y : y + h, x : x + w])


def test_block_that_raises_leaves_no_mask(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        write_mask(tmp_path / "mask.png", np.zeros((600, 40), bool), 600, stop=True)
    assert files_in(tmp_path) == []


class Full:
    """A file on a disk that is full."""

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        pass


def test_full_disk_at_the_end_of_a_mask_leaves_no_file(tmp_path: Path) -> None:
    writer = MaskWriter(tmp_path / "mask.png", 60, 40)
    writer.__enter__()
    writer.push(np.zeros((60, 40), bool))
    real, writer._file = writer._file, Full()  # type: ignore[assignment]
    with pytest.raises(OutputError, match="disk full"):
        writer.__exit__(None, None, None)
    left, closed = files_in(tmp_path), real.closed
    real.close()
    writer._stack.close()
    assert left == []
    assert closed


@pytest.mark.parametrize("rows", [59, 61])
def test_wrong_number_of_mask_rows_is_an_error(tmp_path: Path, rows: int) -> None:
    with pytest.raises((ValueError, OutputError)):
        write_mask(tmp_path / "mask.png", np.zeros((rows, 40), bool), 60)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("limit", [0, 2**32])
def test_map_that_is_large_is_a_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr("inspect_cli.outputs.tiff_stream.CLASSIC_BYTES", limit)
    rows = np.random.default_rng(0).random((70, 600), np.float32)
    with TiffRowWriter(tmp_path / "map.tif", *rows.shape) as writer:
        writer.push(rows)
    with tifffile.TiffFile(tmp_path / "map.tif") as tiff:
        assert tiff.is_bigtiff == (limit == 0)
        np.testing.assert_array_equal(tiff.asarray(), rows)

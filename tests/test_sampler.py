"""Training patches: true sub-windows, inside the ROI, the same for the same seed and step."""

from __future__ import annotations

import resource
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from inspect_cli.errors import NoInputError
from inspect_cli.images.reader import open_map
from inspect_cli.tiles.grid import pad_to_tile
from inspect_cli.tiles.sampler import PatchSampler, PixelCache, SamplerImage

TILE = 8
Images = list[tuple[SamplerImage, NDArray[Any]]]
CACHES = pytest.mark.parametrize("cache_mb", [0, 768], ids=["from file", "cached"])


def image(path: Path, *shape: int, roi: NDArray[np.bool_] | None = None) -> tuple[SamplerImage, NDArray[Any]]:
    """Write an image whose every value occurs once, so that a patch has one place only."""
    start = 7000 * (int(path.stem) % 9)
    pixels = np.arange(start, start + int(np.prod(shape))).astype(np.uint16).reshape(shape)
    kind = "rgb" if len(shape) == 3 else "minisblack"
    tifffile.imwrite(path, pixels, photometric=kind, rowsperstrip=5, compression="zlib")
    return SamplerImage(path, roi), pixels


@contextmanager
def sampler(images: Images, cache_mb: int, seed: int = 0, share: float = 0.5) -> Iterator[PatchSampler]:
    made = PatchSampler([i for i, _ in images], TILE, seed, share, cache_mb)
    yield made
    made.close()


def place_of(patch: NDArray[Any], images: Images) -> tuple[int, int, int]:
    """Return image number, y and x of a patch; it must lie there as it was written."""
    first = patch.reshape(-1)[0]
    for number, (_, pixels) in enumerate(images):
        where = np.argwhere(pixels.reshape(*pixels.shape[:2], -1)[..., 0] == first)
        if len(where):
            y, x = (int(v) for v in where[0])
            padded = pad_to_tile(pixels[y : y + TILE, x : x + TILE], TILE, TILE)
            np.testing.assert_array_equal(patch, padded)
            return number, y, x
    raise AssertionError("the patch is from no image")


@pytest.fixture
def images(tmp_path: Path) -> Images:
    roi = np.zeros((40, 50), bool)
    roi[5:30, 10:45] = True
    return [
        image(tmp_path / "0.tif", 40, 50, roi=roi),
        image(tmp_path / "1.tif", 20, 60),
        image(tmp_path / "2.tif", 12, 50, roi=np.ones((12, 50), bool)),
    ]


@CACHES
def test_patches_are_true_windows_whose_roi_share_is_high_enough(images: Images, cache_mb: int) -> None:
    seen: set[int] = set()
    with sampler(images, cache_mb, share=0.75) as source:
        assert source.dtype == np.uint16
        for step in range(12):
            patches, masks = source.batch(step, 21)
            assert masks is not None
            assert patches.shape == masks.shape == (21, TILE, TILE)
            assert patches.dtype == np.uint16
            assert masks.dtype == bool
            for patch, mask in zip(patches, masks, strict=True):
                number, y, x = place_of(patch, images)
                height, width = images[number][1].shape
                assert y + TILE <= height
                assert x + TILE <= width
                roi = images[number][0].roi
                expected = np.ones((height, width), bool) if roi is None else roi
                np.testing.assert_array_equal(mask, expected[y : y + TILE, x : x + TILE])
                assert mask.mean() >= 0.75
                seen.add(number)
    assert seen == {0, 1, 2}


@CACHES
def test_batch_follows_from_seed_and_step_alone(images: Images, cache_mb: int) -> None:
    with sampler(images, cache_mb, seed=5) as one, sampler(images, cache_mb, seed=5) as two:
        first = [one.batch(step, 12)[0] for step in range(4)]
        for step in (3, 1, 0, 2):
            np.testing.assert_array_equal(two.batch(step, 12)[0], first[step])
    assert len({batch.tobytes() for batch in first}) == 4
    with sampler(images, cache_mb, seed=6) as other:
        assert not np.array_equal(other.batch(0, 12)[0], first[0])


@CACHES
def test_batches_made_by_several_threads_are_those_of_one(images: Images, cache_mb: int) -> None:
    with sampler(images, cache_mb, seed=5) as one, sampler(images, cache_mb, seed=5) as shared:
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda step: shared.batch(step, 12)[0], range(40)))
        for step, patches in enumerate(made):
            np.testing.assert_array_equal(patches, one.batch(step, 12)[0])


@CACHES
def test_every_place_can_be_drawn(tmp_path: Path, cache_mb: int) -> None:
    images = [image(tmp_path / "0.tif", TILE + 3, TILE + 2)]
    with sampler(images, cache_mb) as source:
        found = {place_of(patch, images)[1:] for step in range(30) for patch in source.batch(step, 16)[0]}
    assert found == {(y, x) for y in range(4) for x in range(3)}


@CACHES
def test_images_are_drawn_in_proportion_to_their_pixels(tmp_path: Path, cache_mb: int) -> None:
    images = [image(tmp_path / "0.tif", 20, 20), image(tmp_path / "1.tif", 20, 60)]
    with sampler(images, cache_mb) as source:
        drawn = [place_of(patch, images)[0] for step in range(60) for patch in source.batch(step, 32)[0]]
    assert np.mean(drawn) == pytest.approx(0.75, abs=0.08)


@CACHES
def test_colour_images_and_no_roi(tmp_path: Path, cache_mb: int) -> None:
    images = [image(tmp_path / "0.tif", 20, 22, 3)]
    with sampler(images, cache_mb) as source:
        patches, masks = source.batch(0, 5)
    assert masks is None
    assert patches.shape == (5, TILE, TILE, 3)
    for patch in patches:
        place_of(patch, images)


@CACHES
def test_image_smaller_than_the_tile_is_mirrored(tmp_path: Path, cache_mb: int) -> None:
    roi = np.ones((5, 3), bool)
    roi[0] = False
    images = [image(tmp_path / "0.tif", 5, 3, roi=roi)]
    with sampler(images, cache_mb) as source:
        patches, masks = source.batch(0, 4)
    assert masks is not None
    for patch, mask in zip(patches, masks, strict=True):
        assert place_of(patch, images) == (0, 0, 0)
        np.testing.assert_array_equal(mask, pad_to_tile(roi, TILE, TILE))


@CACHES
def test_roi_in_which_no_patch_fits_is_no_input(tmp_path: Path, cache_mb: int) -> None:
    roi = np.zeros((30, 30), bool)
    roi[10:14, 10:14] = True
    images = [image(tmp_path / "0.tif", 30, 30, roi=roi)]
    with (
        pytest.raises(NoInputError, match=r"0\.tif: no place where 50\.0%"),
        sampler(images, cache_mb, share=0.5) as source,
    ):
        source.batch(0, 2)
    with sampler(images, cache_mb, share=16 / 64) as source:
        _, masks = source.batch(0, 9)
    assert masks is not None
    assert (masks.mean(axis=(1, 2)) == 0.25).all()


@CACHES
def test_image_without_a_place_is_never_drawn(tmp_path: Path, cache_mb: int) -> None:
    images = [image(tmp_path / "0.tif", 30, 30, roi=np.zeros((30, 30), bool)), image(tmp_path / "1.tif", 9, 9)]
    with sampler(images, cache_mb) as source:
        assert {place_of(patch, images)[0] for step in range(9) for patch in source.batch(step, 9)[0]} == {1}


def test_no_image_is_no_input() -> None:
    with pytest.raises(NoInputError, match="no image"):
        PatchSampler([], TILE, 0)


def test_narrow_roi_is_found_at_every_step(tmp_path: Path) -> None:
    roi = np.zeros((3672, 12), bool)
    roi[1800:1808] = True
    images = [image(tmp_path / "0.tif", 3672, 12, roi=roi)]
    fits = sliding_window_view(roi, (TILE, TILE)).mean(axis=(2, 3)) >= 0.5
    assert fits.any(axis=1).sum() == 9  # rows at which half a patch lies inside
    with sampler(images, 768) as source:
        for step in range(20):
            _, masks = source.batch(step, 4)
            assert masks is not None
            assert masks.mean(axis=(1, 2)).min() >= 0.5


def test_more_images_than_files_that_may_be_open(tmp_path: Path) -> None:
    images = [image(tmp_path / f"{n}.tif", 9, 9)[0] for n in range(60)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 30, hard))
    opened: list[PatchSampler] = []
    try:
        opened.append(PatchSampler(images, TILE, 0))
        patches, _ = opened[0].batch(0, 4)
        assert patches.shape == (4, TILE, TILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for source in opened:
            source.close()


@CACHES
def test_decoded_pixels_of_png_are_not_held_twice_or_beyond_the_cache(tmp_path: Path, cache_mb: int) -> None:
    count, side = 6, 512
    for number in range(count):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((side, side), np.uint8))
    tracemalloc.start()
    try:
        source = PatchSampler([SamplerImage(tmp_path / f"{n}.png") for n in range(count)], TILE, 0, cache_mb=cache_mb)
        source.batch(0, 200)
        held = tracemalloc.get_traced_memory()[0] / side**2
    finally:
        tracemalloc.stop()
    source.close()
    assert held < 1.5 if cache_mb == 0 else count <= held < count + 0.5


def test_samplers_of_the_same_images_read_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [image(tmp_path / f"{n}.tif", 40, 50)[0] for n in range(3)]
    opened: list[Path] = []

    def counted(path: Path) -> Any:
        opened.append(path)
        return open_map(path)

    monkeypatch.setattr("inspect_cli.tiles.sampler.open_map", counted)
    headers = len(images)  # each sampler looks at the headers
    cache = PixelCache()
    first = PatchSampler(images, 16, 1, pixels=cache).batch(5, 4)[0]
    assert len(opened) == 2 * headers
    again = PatchSampler(images, 16, 1, pixels=cache).batch(5, 4)[0]
    assert len(opened) == 3 * headers
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, PatchSampler(images, 16, 1).batch(5, 4)[0])


def test_decoded_images_are_kept_up_to_a_size_and_the_oldest_go_first(tmp_path: Path) -> None:
    paths = [image(tmp_path / f"{n}.tif", 200, 1000)[0].path for n in range(5)]
    size = PixelCache().read(paths[0]).nbytes
    cache = PixelCache(most_mb=1)
    for path in [*paths, paths[3]]:
        cache.read(path)
    fit = 2**20 // size
    assert 1 <= fit < 5
    assert list(cache._kept) == [*[p for p in paths[5 - fit :] if p != paths[3]], paths[3]][-fit:]
    nothing = PixelCache(0)
    nothing.read(paths[0])
    assert not nothing._kept
